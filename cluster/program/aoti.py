"""Loader of AOTInductor packages, by the artifact's native runner or by PyTorch's own loader.

NAME.pt2 → unpacked into a temporary directory → dlopen → directory removed → Runner.run

An entry may hold further packages, each compiled for one batch size, which run batches of exactly
that size. A program that is one slice of a model needs the group of its ranks: that of the native
runner (:func:`create_group`, :func:`open_group`), or another one of `collective.py`.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import logging
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import ProgramEntry
from cluster.errors import ProgramError
from cluster.program import collective, node
from cluster.program.loaded import Compute, LoadedProgram, dispatch_by_batch
from cluster.program.pytorch import compute_with

logger = logging.getLogger(__name__)

RUNNER_MODULE = "headrace_runner"
"""Name under which the extension is compiled; it is part of its init symbol."""


def load_aoti(
    artifact: Artifact,
    entry: ProgramEntry,
    compute_threads: int,
    group: collective.Group | collective.SharedMemoryGroup | None = None,
) -> LoadedProgram:
    """Load an ``aoti`` entry; ProgramError if a package cannot be loaded.

    ``group``: ranks of the model's slices, if the program is one of them.
    """
    native = runs_natively(entry)
    if not native and entry.native_runner is not None:
        logger.warning(
            "%s: no native runner for %s and PyTorch %s; falling back to PyTorch's loader, "
            "which holds Python's lock during computation and slows down reading of requests",
            entry.file,
            node.python_abi(),
            node.torch_version(),
        )

    def load_package(file: str) -> Compute:
        package = artifact.file(file)
        try:
            if native:
                extension = artifact.file(str(entry.native_runner))
                return _native(package, extension, compute_threads, group)
            return _by_pytorch(package, compute_threads, entry.target, group)
        except (zipfile.BadZipFile, RuntimeError, ImportError) as error:
            reason = str(error).partition("\n")[0]  # libtorch appends its stack
            raise ProgramError(f"{package}: cannot be loaded: {reason}") from error

    static = {file.batch: load_package(file.file) for file in entry.static_files}
    compute = dispatch_by_batch(load_package(entry.file), static)
    return LoadedProgram(
        entry,
        artifact.manifest.inputs_of(entry),
        "native" if native else "python",
        compute,
        one_by_one=artifact.manifest.one_by_one,
    )


def runs_natively(entry: ProgramEntry) -> bool:
    """Whether the entry's native runner was built for this Python and PyTorch."""
    return (
        entry.native_runner is not None
        and entry.python_abi == node.python_abi()
        and entry.torch_version == node.torch_version()
    )


def runner_of(artifact: Artifact, entry: ProgramEntry) -> Path | None:
    """Return the checked path of the entry's native runner, or None if it does not fit."""
    if entry.kind != "aoti" or not runs_natively(entry):
        return None
    return artifact.file(str(entry.native_runner))


def create_group(
    extension: Path,
    size: int,
    timeout_s: float = collective.TIMEOUT_S,
    slot_bytes: int = collective.SLOT_BYTES,
) -> collective.SharedMemoryGroup:
    """Create rank 0 of a new group by the native runner ``extension``.

    ProgramError if there is no memory for it.
    """
    return _group(lambda kind: kind.create(size, slot_bytes, timeout_s), extension)


def open_group(
    extension: Path, address: str, rank: int, timeout_s: float = collective.TIMEOUT_S
) -> collective.SharedMemoryGroup:
    """Open rank ``rank`` of the group at ``address``, in another process of rank 0's node.

    ProgramError if rank 0 is unavailable or on another node, or the rank is already open.
    """
    return _group(lambda kind: kind.open(address, rank, timeout_s), extension)


def _group(make: Callable[[Any], Any], extension: Path) -> collective.SharedMemoryGroup:
    try:
        group: collective.SharedMemoryGroup = make(_import_runner(extension).SharedMemoryGroup)
    except (RuntimeError, ValueError, ImportError) as error:
        raise ProgramError(str(error)) from error
    return group


def torch_misfit(entry: ProgramEntry) -> str | None:
    """Return why this node's PyTorch cannot run the entry, or None; minor releases must match."""
    built, installed = _minor(entry.torch_version), _minor(node.torch_version())
    if built != installed:
        return f"built for PyTorch {built}, installed is {installed}"
    return None


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _native(
    package: Path,
    extension: Path,
    compute_threads: int,
    group: collective.Group | collective.SharedMemoryGroup | None,
) -> Compute:
    runner = _import_runner(extension)
    native_group = group if isinstance(group, runner.SharedMemoryGroup) else None
    if group is not None and native_group is None:
        _refuse_native(group, f"it belongs to another native runner than {extension}")
        collective.register()
    # The shared object stays mapped after its file is removed, so a killed replica leaves no
    # unpacked copy behind.
    with tempfile.TemporaryDirectory(prefix="headrace-program-") as directory:
        with zipfile.ZipFile(package) as archive:
            archive.extractall(directory)
        compute: Compute = runner.Runner(_root(directory), compute_threads, native_group).run
    return compute if group is None or native_group is not None else _with(group, compute)


def _refuse_native(group: Any, reason: str) -> None:
    if type(group).__name__ == collective.SharedMemoryGroup.__name__:
        raise ProgramError(f"the group does not match the runner of this slice: {reason}")


def _with(group: collective.Group | None, compute: Compute) -> Compute:
    if group is None:
        return compute

    def reduced(arrays: list) -> list:
        with collective.using(group):
            return compute(arrays)

    return reduced


def _root(directory: str) -> str:
    """Return the only top-level folder of the unpacked archive."""
    (inner,) = Path(directory).iterdir()
    return str(inner)


@cache
def _import_runner(extension: Path) -> Any:
    """Import the native runner from the artifact, after the part of libtorch that it links to."""
    torch_spec = importlib.util.find_spec("torch")
    if torch_spec is None or torch_spec.origin is None:
        raise ProgramError("PyTorch is not installed: install headrace's dependencies")
    ctypes.CDLL(str(Path(torch_spec.origin).parent / "lib" / "libtorch_cpu.so"), ctypes.RTLD_GLOBAL)
    loader = importlib.machinery.ExtensionFileLoader(RUNNER_MODULE, str(extension))
    spec = importlib.util.spec_from_loader(RUNNER_MODULE, loader)
    if spec is None:
        raise ProgramError(f"{extension}: expected an extension module")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _by_pytorch(package: Path, compute_threads: int, target: str, group: Any) -> Compute:
    # Imported here: it costs about 2 s, needed only if the native runner does not match.
    from torch._inductor import aoti_load_package

    if group is not None:
        _refuse_native(group, "PyTorch's loader runs this program, and cannot use a native group")
        collective.register()
    model = aoti_load_package(str(package), run_single_threaded=True)
    return _with(group, compute_with(model, compute_threads, target))
