"""Loader of OpenVINO's intermediate representation, compiled for this CPU at load time.

NAME.xml + NAME.bin → read_model ┬→ compiled with a dynamic batch      → infer request
                                 └→ reshaped to each of static_files   → infer request

The files hold a graph and tensors, no code. Inference runs without Python's lock, and neither
PyTorch nor NNCF is imported.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import ProgramEntry
from cluster.errors import ProgramError, RequestError
from cluster.program import node
from cluster.program.loaded import Compute, LoadedProgram, dispatch_by_batch
from cluster.tensors import TensorSpec

_INT32 = np.iinfo(np.int32)

PACKAGE = "openvino"
INSTALL = "pip install 'headrace[openvino]'"

PRECISION = "precision"
"""Option: precision of floating layers: f32, bf16 or f16. OpenVINO falls back to the nearest
precision that the CPU supports: f16 to bf16, bf16 to f32."""

DYNAMIC_GROUP = "dynamic_quantization_group_size"
"""Option: values per scale where activations are quantized at run time; 0: not quantized."""


def load_openvino(artifact: Artifact, entry: ProgramEntry, compute_threads: int) -> LoadedProgram:
    """Load an ``openvino`` entry; ProgramError if OpenVINO cannot read or compile it."""
    # Imported here: an extra of about 0.5 s, for programs of this kind only.
    import openvino

    (weights,) = (artifact.file(name) for name in entry.other_files)
    options = {
        # Lowest latency for one batch at a time, on the replica's number of threads. Pinned
        # threads of several replicas would all occupy the same cores.
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": compute_threads,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": entry.options[PRECISION],
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": int(entry.options[DYNAMIC_GROUP]),
    }
    specs = artifact.manifest.inputs_of(entry)
    try:
        core = openvino.Core()
        model = core.read_model(artifact.file(entry.file), weights)

        def compiled(batch: int | None) -> Compute:
            graph = model if batch is None else _reshape(model, specs, batch)
            return _compute(core.compile_model(graph, "CPU", options), specs)

        static = {file.batch: compiled(file.batch) for file in entry.static_files}
        compute = dispatch_by_batch(compiled(None), static)
    except RuntimeError as error:
        raise ProgramError(f"{entry.file}: OpenVINO cannot load it: {error}") from error
    return LoadedProgram(entry, specs, "openvino", compute, one_by_one=artifact.manifest.one_by_one)


def openvino_misfit(entry: ProgramEntry) -> str | None:
    """Return why this node cannot run the entry, or None; OpenVINO reads older releases' files."""
    installed, built = node.installed_version(PACKAGE), entry.versions.get(PACKAGE, "0")
    if installed is None:
        return f"OpenVINO is not installed ({INSTALL})"
    if _release(installed) < _release(built):
        return f"built by OpenVINO {built}, installed is {installed}"
    return None


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _reshape(model: Any, specs: tuple[TensorSpec, ...], batch: int) -> Any:
    """Return a copy of the graph for that batch size; both share the weights."""
    copy = model.clone()
    names = _names(model)
    copy.reshape({s.name: [batch, *s.item_shape] for s in specs if s.name in names})
    return copy


def _compute(compiled: Any, specs: tuple[TensorSpec, ...]) -> Compute:
    request, names = compiled.create_infer_request(), _names(compiled)
    outputs = len(compiled.outputs)

    def compute(arrays: list) -> list:
        for spec, array in zip(specs, arrays, strict=True):
            _check_width(spec, array)
        # An input that no output depends on is not in the graph.
        tensors = {s.name: a for s, a in zip(specs, arrays, strict=True) if s.name in names}
        # Inputs are read in place; outputs are copied, because the next run overwrites them.
        results = request.infer(tensors, share_inputs=True, share_outputs=False)
        return [results[position] for position in range(outputs)]

    return compute


def _check_width(spec: TensorSpec, array: np.ndarray) -> None:
    """Raise RequestError for an integer of more than 32 bits, of which OpenVINO drops the rest."""
    if spec.datatype not in ("INT64", "UINT64", "UINT32"):
        return
    low, high = int(array.min()), int(array.max())
    if low < _INT32.min or high > _INT32.max:
        raise RequestError(
            f"input {spec.name} holds {high if high > _INT32.max else low}, this model's program "
            f"computes with integers of 32 bits: {_INT32.min} to {_INT32.max}"
        )


def _names(model: Any) -> set[str]:
    return {name for port in model.inputs for name in port.get_names()}
