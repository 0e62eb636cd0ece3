"""Compilation of ``program/runner.cpp`` for this Python and this PyTorch, once per machine.

runner.cpp + all_reduce.cpp → one extension: programs, and sums between the slices of a program

The artifact contains the result, so a serving node needs no compiler. A build takes about 15 s; it
runs during the training and is cached in ``~/.cache/headrace/native``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from cluster.artifact.workspace import sweep, workspace
from cluster.errors import CompressionError
from cluster.program import node

_FOLDER = Path(node.__file__).parent
SOURCES = (_FOLDER / "runner.cpp", _FOLDER / "all_reduce.cpp")
HEADERS = (_FOLDER / "all_reduce.h",)


def compiler() -> str:
    """Return the path of the C++ compiler for programs.

    CompressionError if the compiler or Python's headers are missing.
    """
    name = os.environ.get("CXX", "g++")
    path = shutil.which(name)
    if path is None:
        raise CompressionError(
            f"no C++ compiler: {name!r} is not on the PATH, and programs are compiled to native "
            "code. Install one (Debian, Ubuntu: apt-get install g++) or set CXX to its path. "
            "Serving needs none"
        )
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.is_file():
        raise CompressionError(
            f"no Python headers: {header} does not exist, and programs are compiled against it. "
            "Install them (Debian, Ubuntu: apt-get install python3-dev). Serving needs none"
        )
    return path


def start_build() -> None:
    """Start :func:`build` in the background, so that a later call waits for its result.

    A failure is reported by the later call, which compiles again.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="native-runner")
    pool.submit(build)
    pool.shutdown(wait=False)


def build() -> Path:
    """Return the path of the compiled extension, from the cache if possible.

    CompressionError if it does not compile.
    """
    # Imported here so that this module stays cheap to import; torch knows its header paths.
    import torch
    from torch.utils import cpp_extension

    flags = [
        "-O2",
        "-std=c++20",
        "-fPIC",
        "-shared",
        "-fvisibility=hidden",
        # Programs link to libtorch.so, which in PyTorch's GPU builds only loads the GPU libraries:
        # 270 MB of a replica's memory. With this name the runner replaces it.
        "-Wl,-soname,libtorch.so",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
    ]
    code = [file.read_text() for file in (*SOURCES, *HEADERS)]
    facts = [*code, *flags, torch.__version__, node.python_abi()]
    key = sha256("\n".join(facts).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace/native"
    target = cache / f"{key}.so"
    if target.is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    rooms = cache / "building"
    sweep(rooms)
    includes = [*cpp_extension.include_paths(), sysconfig.get_paths()["include"]]
    library = cpp_extension.library_paths()[0]
    with workspace(rooms, key) as room:
        if target.is_file():  # another process built it while this one waited
            return target
        output = room / "runner.so"
        command = [
            compiler(),
            *flags,
            *(f"-isystem{path}" for path in includes),
            *map(str, SOURCES),
            "-o",
            str(output),
            f"-L{library}",
            "-ltorch_cpu",
            "-lc10",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CompressionError(f"the native runner does not compile:\n{done.stderr[-4000:]}")
        output.replace(target)
    return target
