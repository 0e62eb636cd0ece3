"""Loading OpenVINO's intermediate representation, which is compiled for this CPU as it loads.

NAME.xml + NAME.bin → read_model ┬→ compiled with a dynamic batch      → infer request
                                 └→ reshaped to each of static_files   → infer request

The files hold a graph and tensors, no code. Inference runs without Python's lock, and neither
PyTorch nor NNCF is imported.
"""

from __future__ import annotations

from typing import Any

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import ProgramEntry
from cluster.errors import ProgramError
from cluster.program import node
from cluster.program.loaded import Compute, LoadedProgram, by_batch
from cluster.tensors import TensorSpec

PACKAGE = "openvino"
INSTALL = "pip install 'headrace[openvino]'"

PRECISION = "precision"
"""Option: what floating layers compute in, f32, bf16 or f16. A CPU without such arithmetic takes
the nearest it has: OpenVINO may run f16 as bf16, and bf16 as f32."""

DYNAMIC_GROUP = "dynamic_quantization_group_size"
"""Option: values that share a scale where activations are quantized at run time; 0: they stay
floating."""


def load_openvino(artifact: Artifact, entry: ProgramEntry, compute_threads: int) -> LoadedProgram:
    """Load an ``openvino`` entry; ProgramError if OpenVINO cannot read or compile it."""
    # An extra, which only programs of this kind need; about 0.5 s.
    import openvino

    (weights,) = (artifact.file(name) for name in entry.other_files)
    options = {
        # One batch at a time, as soon as possible, on the threads that the replica was given.
        # Pinned threads of several replicas would all stand on the same cores.
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
            graph = model if batch is None else _reshaped(model, specs, batch)
            return _compute(core.compile_model(graph, "CPU", options), specs)

        static = {each.batch: compiled(each.batch) for each in entry.static_files}
        compute = by_batch(compiled(None), static)
    except RuntimeError as error:
        raise ProgramError(f"{entry.file}: OpenVINO cannot load it: {error}") from error
    return LoadedProgram(entry, specs, "openvino", compute)


def openvino_misfit(entry: ProgramEntry) -> str | None:
    """Why this node cannot run the entry: OpenVINO reads what it or an older release wrote."""
    installed, built = node.version_of(PACKAGE), entry.versions.get(PACKAGE, "0")
    if installed is None:
        return f"OpenVINO is not installed ({INSTALL})"
    if _release(installed) < _release(built):
        return f"built by OpenVINO {built}, installed is {installed}"
    return None


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _reshaped(model: Any, specs: tuple[TensorSpec, ...], batch: int) -> Any:
    """A copy of the graph for that batch; both share the weights."""
    copy = model.clone()
    taken = _names(model)
    copy.reshape({s.name: [batch, *s.item_shape] for s in specs if s.name in taken})
    return copy


def _compute(compiled: Any, specs: tuple[TensorSpec, ...]) -> Compute:
    request, taken = compiled.create_infer_request(), _names(compiled)
    outputs = len(compiled.outputs)

    def compute(arrays: list) -> list:
        # An input that no output depends on is not in the graph.
        given = {s.name: a for s, a in zip(specs, arrays, strict=True) if s.name in taken}
        # Inputs are read where they lie; outputs are copied, for the next run overwrites them.
        found = request.infer(given, share_inputs=True, share_outputs=False)
        return [found[position] for position in range(outputs)]

    return compute


def _names(model: Any) -> set[str]:
    return {name for port in model.inputs for name in port.get_names()}
