"""Loading AOTInductor packages: by the artifact's native runner, else by PyTorch's own loader.

NAME.pt2 → unpacked beside nothing that lasts → dlopen → directory removed → Runner.run
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import logging
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.artifact.artifact import Artifact
from cluster.artifact.manifest import ProgramEntry
from cluster.errors import ProgramError
from cluster.program import node
from cluster.tensors import TensorSpec

logger = logging.getLogger(__name__)

RUNNER_MODULE = "headrace_runner"
"""Name the extension is compiled under; it is part of its init symbol."""


class AotiProgram:
    """An AOTInductor package in memory."""

    def __init__(
        self,
        entry: ProgramEntry,
        inputs: tuple[TensorSpec, ...],
        runner: str,
        run: Callable[[list], list],
    ) -> None:
        self.entry = entry
        self.runner = runner
        self._inputs = inputs
        self._run = run

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See :class:`cluster.program.program.Program`."""
        # Compiled code trusts its inputs: it would read memory beyond a wrong one.
        if not self._takes(inputs):
            expected = ", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in self._inputs)
            raise ProgramError(
                f"{self.entry.file} takes {expected}, C-contiguous and of one batch size; "
                f"got {_shown(inputs)}"
            )
        try:
            return self._run(list(inputs))
        except (RuntimeError, ValueError) as error:
            raise ProgramError(f"{self.entry.file} failed on {_shown(inputs)}: {error}") from error

    def _takes(self, inputs: Sequence[np.ndarray]) -> bool:
        return len(inputs) == len(self._inputs) and all(
            array.dtype == spec.dtype
            and array.shape == (inputs[0].shape[:1] + spec.item_shape)
            and len(array) > 0
            and array.flags.c_contiguous
            for spec, array in zip(self._inputs, inputs, strict=True)
        )


def _shown(arrays: Sequence[np.ndarray]) -> str:
    return ", ".join(
        f"{array.dtype}{list(array.shape)}{'' if array.flags.c_contiguous else ' with gaps'}"
        for array in arrays
    )


def load_aoti(artifact: Artifact, entry: ProgramEntry, compute_threads: int) -> AotiProgram:
    """Load an ``aoti`` entry; ProgramError if the package cannot be loaded."""
    package = artifact.file(entry.file)
    # The shared object stays mapped after its file is gone, so a replica that is killed
    # leaves no unpacked copy behind.
    with tempfile.TemporaryDirectory(prefix="headrace-program-") as directory:
        try:
            with zipfile.ZipFile(package) as archive:
                archive.extractall(directory)
            if entry.native_runner is not None and _runner_fits(entry):
                extension = artifact.file(entry.native_runner)
                runner = _import_runner(extension).Runner(_root(directory), compute_threads)
                return AotiProgram(entry, artifact.manifest.inputs, "native", runner.run)
            logger.warning(
                "%s: no native runner for %s and PyTorch %s; PyTorch's loader holds Python's "
                "lock while it computes, so requests are read more slowly",
                entry.file, node.python_abi(), node.torch_version(),
            )  # fmt: skip
            run = _python_runner(package, compute_threads)
            return AotiProgram(entry, artifact.manifest.inputs, "python", run)
        except (zipfile.BadZipFile, RuntimeError, ImportError) as error:
            reason = str(error).partition("\n")[0]  # libtorch appends its stack
            raise ProgramError(f"{package}: cannot be loaded: {reason}") from error


def aoti_misfit(entry: ProgramEntry) -> str | None:
    """Why this node's PyTorch cannot run the entry, or None: its ABI holds for a minor release."""
    built, installed = _minor(entry.torch_version), _minor(node.torch_version())
    if built != installed:
        return f"built for PyTorch {built}, installed is {installed}"
    return None


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _runner_fits(entry: ProgramEntry) -> bool:
    return entry.python_abi == node.python_abi() and entry.torch_version == node.torch_version()


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


def _python_runner(package: Path, compute_threads: int) -> Callable[[list], list]:
    # Imported only when the native runner does not fit: it costs a replica about 2 s.
    import torch
    from torch._inductor import aoti_load_package

    model = aoti_load_package(str(package), run_single_threaded=True)

    def run(arrays: list) -> list:
        torch.set_num_threads(compute_threads)
        with torch.inference_mode():
            outputs = model(*(torch.from_numpy(array) for array in arrays))
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        # Cloned, because a result may be a view of an input, which is only borrowed.
        return [
            tensor.cpu().clone(memory_format=torch.contiguous_format).numpy() for tensor in outputs
        ]

    return run
