"""Loading AOTInductor packages: by the artifact's native runner, else by PyTorch's own loader.

NAME.pt2 → unpacked beside nothing that lasts → dlopen → directory removed → Runner.run

An entry may hold further packages, each compiled for one batch size: a batch of exactly that
size runs them.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import logging
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from cluster.artifact.artifact import Artifact
from cluster.artifact.manifest import ProgramEntry
from cluster.errors import ProgramError
from cluster.program import node
from cluster.program.loaded import Compute, LoadedProgram, by_batch
from cluster.program.pytorch import compute_with

logger = logging.getLogger(__name__)

RUNNER_MODULE = "headrace_runner"
"""Name the extension is compiled under; it is part of its init symbol."""


def load_aoti(artifact: Artifact, entry: ProgramEntry, compute_threads: int) -> LoadedProgram:
    """Load an ``aoti`` entry; ProgramError if a package cannot be loaded."""
    native = entry.native_runner is not None and _runner_fits(entry)
    if not native and entry.native_runner is not None:
        logger.warning(
            "%s: no native runner for %s and PyTorch %s; PyTorch's loader holds Python's "
            "lock while it computes, so requests are read more slowly",
            entry.file, node.python_abi(), node.torch_version(),
        )  # fmt: skip

    def loaded(file: str) -> Compute:
        package = artifact.file(file)
        try:
            if native:
                extension = artifact.file(str(entry.native_runner))
                return _native(package, extension, compute_threads)
            return _by_pytorch(package, compute_threads, entry.target)
        except (zipfile.BadZipFile, RuntimeError, ImportError) as error:
            reason = str(error).partition("\n")[0]  # libtorch appends its stack
            raise ProgramError(f"{package}: cannot be loaded: {reason}") from error

    static = {each.batch: loaded(each.file) for each in entry.static_files}
    compute = by_batch(loaded(entry.file), static)
    return LoadedProgram(entry, artifact.manifest.inputs, "native" if native else "python", compute)


def torch_misfit(entry: ProgramEntry) -> str | None:
    """Why this node's PyTorch cannot run the entry, or None: its ABI holds for a minor release."""
    built, installed = _minor(entry.torch_version), _minor(node.torch_version())
    if built != installed:
        return f"built for PyTorch {built}, installed is {installed}"
    return None


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _runner_fits(entry: ProgramEntry) -> bool:
    return entry.python_abi == node.python_abi() and entry.torch_version == node.torch_version()


def _native(package: Path, extension: Path, compute_threads: int) -> Compute:
    # The shared object stays mapped after its file is gone, so a replica that is killed
    # leaves no unpacked copy behind.
    with tempfile.TemporaryDirectory(prefix="headrace-program-") as directory:
        with zipfile.ZipFile(package) as archive:
            archive.extractall(directory)
        compute: Compute = _import_runner(extension).Runner(_root(directory), compute_threads).run
        return compute


def _root(directory: str) -> str:
    """The unpacked package's own folder: archives have one at the top."""
    (inner,) = Path(directory).iterdir()
    return str(inner)


def _import_runner(extension: Path) -> Any:
    """Import the native runner from the artifact, after the part of libtorch it links to."""
    torch_spec = importlib.util.find_spec("torch")
    if torch_spec is None or torch_spec.origin is None:
        raise ProgramError("PyTorch is not installed; install headrace's dependencies")
    ctypes.CDLL(str(Path(torch_spec.origin).parent / "lib" / "libtorch_cpu.so"), ctypes.RTLD_GLOBAL)
    loader = importlib.machinery.ExtensionFileLoader(RUNNER_MODULE, str(extension))
    spec = importlib.util.spec_from_loader(RUNNER_MODULE, loader)
    if spec is None:
        raise ProgramError(f"{extension}: not an extension module")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _by_pytorch(package: Path, compute_threads: int, target: str) -> Compute:
    # Imported only when the native runner does not fit: it costs a replica about 2 s.
    from torch._inductor import aoti_load_package

    model = aoti_load_package(str(package), run_single_threaded=True)
    return compute_with(model, compute_threads, target)
