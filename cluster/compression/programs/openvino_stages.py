"""Stages of an OpenVINO program: its own graph, cut where its tensors bear the cuts' names.

TARGET.xml ─→ for each stage: what enters becomes a parameter, what leaves a result → stage-S.xml

The operators stay those of the whole program, quantized as a whole and with the same constants, so
the stages compute the same bit for bit.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from cluster.artifact.entries import ProgramEntry, StaticFile
from cluster.compression.programs.files import ProgramFiles
from cluster.compression.work import Work, exported
from cluster.errors import CompressionError, PlanError
from cluster.parallel.graph import Cut, cuts
from cluster.tensors import TensorSpec

_DATATYPES = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "f32": "FP32",
    "f64": "FP64",
}
"""What OpenVINO calls an element type → the protocol's name for it."""


def graph_of(work: Work) -> GraphModule:
    """The graph that OpenVINO converts, whose nodes name the tensors of its own."""
    # An extra, which only builds of this kind need.
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    module = work.precision.float_module if work.precision else work.module
    program = exported(module.eval(), work.inputs, strict=False)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        graph: GraphModule = TorchFXPythonDecoder.from_exported_program(program).pt_module
    return graph


def cuts_of(graph: GraphModule, entry: ProgramEntry, files: ProgramFiles) -> list[Cut]:
    """The places where the program can be cut: those of the graph whose tensors it still has.

    OpenVINO fuses operators, and what was between them is gone.
    """
    outputs = _outputs(_read(entry, files))
    found = []
    for cut in cuts(graph.graph):
        ports = [outputs.get(name) for name in cut.carried]
        if all(port is not None and _is_batched(port) for port in ports):
            specs = tuple(_spec(n, p) for n, p in zip(cut.carried, ports, strict=True))
            found.append(Cut(cut.after, cut.carried, specs))
    return found


def build(
    whole: ProgramEntry,
    whole_files: ProgramFiles,
    inputs: tuple[TensorSpec, ...],
    carried: Sequence[tuple[TensorSpec, ...]],
    stages: Sequence[ProgramFiles],
) -> list[tuple[ProgramEntry, tuple[TensorSpec, ...]]]:
    """Write one program per stage; return the entries, and the tensors that each stage computes.

    ``carried``: what crosses each cut, one fewer than there are stages. An entry's ``inputs`` are
    those of the entering tensors that its stage uses. PlanError if a stage needs anything else.
    """
    built = []
    for stage, files in enumerate(stages):
        entering = inputs if stage == 0 else carried[stage - 1]
        leaving = carried[stage] if stage < len(carried) else None
        built.append(_stage(_read(whole, whole_files), whole, inputs, entering, leaving, files))
    return built


def _stage(
    model: Any,
    whole: ProgramEntry,
    inputs: tuple[TensorSpec, ...],
    entering: tuple[TensorSpec, ...],
    leaving: tuple[TensorSpec, ...] | None,
    files: ProgramFiles,
) -> tuple[ProgramEntry, tuple[TensorSpec, ...]]:
    import openvino
    from openvino import opset13 as opset

    outputs = _outputs(model)
    given = {spec.name for spec in entering}
    made: tuple[TensorSpec, ...] = ()
    if leaving is None:  # the model's own results
        results = list(model.get_results())
    else:
        made = tuple(spec for spec in leaving if spec.name not in given)
        results = [opset.result(outputs[spec.name]) for spec in made]
    parameters = {}
    for spec in entering:
        if (port := outputs.get(spec.name)) is None:
            continue  # an input that no output depends on
        if port.get_node().get_type_name() == "Parameter":
            parameters[spec.name] = port.get_node()
            continue
        parameter = opset.parameter(port.get_partial_shape(), port.get_element_type())
        for target in port.get_target_inputs():
            target.replace_source_output(parameter.output(0))
        parameter.output(0).get_tensor().set_names({spec.name})
        parameters[spec.name] = parameter
    _batch_from(next(iter(parameters.values())), model, set(parameters), inputs)
    used = _reachable(results)
    own = {name: each for name, each in parameters.items() if each.get_friendly_name() in used}
    try:
        part = openvino.Model(results, list(own.values()), "stage")
        part.validate_nodes_and_infer_types()
    except RuntimeError as error:
        raise PlanError(
            f"OpenVINO's program cannot be cut in front of {', '.join(given)}: a later stage "
            f"needs more than crosses there; build kind aoti instead ({_first_line(error)})"
        ) from error
    openvino.save_model(part, files.file("xml"), compress_to_fp16=False)
    name = files.name("xml")
    entry = whole.model_copy(
        update={
            "file": name,
            "other_files": (files.name("bin"),),
            "static_files": tuple(StaticFile(batch=b, file=name) for b in files.static_batches),
            "inputs": tuple(spec for spec in entering if spec.name in own),
        }
    )
    return entry, made


def _batch_from(parameter: Any, model: Any, own: set[str], inputs: tuple[TensorSpec, ...]) -> None:
    """Let what asks the model's inputs for the batch size ask what enters the stage instead."""
    import numpy as np
    from openvino import opset13 as opset

    batch = opset.gather(
        opset.shape_of(parameter, "i64"), np.array([0], np.int64), np.array(0, np.int64)
    )
    sizes = {spec.name: np.array(spec.item_shape, np.int64) for spec in inputs}
    for each in model.get_parameters():
        names = each.output(0).get_names()
        if each.get_friendly_name() == parameter.get_friendly_name() or names & own:
            continue
        item = next(sizes[name] for name in names if name in sizes)
        for target in each.output(0).get_target_inputs():
            asking = target.get_node()
            if asking.get_type_name() != "ShapeOf":
                continue
            kind = asking.get_output_element_type(0)
            shape = opset.convert(opset.concat([batch, item], 0), kind)
            for reader in asking.output(0).get_target_inputs():
                reader.replace_source_output(shape.output(0))


def _reachable(results: Sequence[Any]) -> set[str]:
    """Names of the operators that the results depend on."""
    found: set[str] = set()
    todo = list(results)
    while todo:
        op = todo.pop()
        if op.get_friendly_name() in found:
            continue
        found.add(op.get_friendly_name())
        todo += [port.get_source_output().get_node() for port in op.inputs()]
    return found


def _read(entry: ProgramEntry, files: ProgramFiles) -> Any:
    import openvino

    (weights,) = entry.other_files
    try:
        return openvino.Core().read_model(files.artifact / entry.file, files.artifact / weights)
    except RuntimeError as error:
        raise CompressionError(f"{entry.file}: OpenVINO cannot read it: {error}") from error


def _outputs(model: Any) -> dict[str, Any]:
    """Every tensor of the graph that has a name, by it."""
    return {
        name.removesuffix(":0"): port
        for op in model.get_ops()
        if op.get_type_name() != "Result"
        for port in op.outputs()
        for name in port.get_names()
    }


def _is_batched(port: Any) -> bool:
    shape = port.get_partial_shape()
    dynamic = [each.is_dynamic for each in shape] if shape.rank.is_static else []
    known = port.get_element_type().get_type_name() in _DATATYPES
    return bool(dynamic) and dynamic[0] and not any(dynamic[1:]) and known


def _spec(name: str, port: Any) -> TensorSpec:
    sizes = tuple(each.get_length() for each in list(port.get_partial_shape())[1:])
    datatype = _DATATYPES[port.get_element_type().get_type_name()]
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *sizes))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def weights_between(graph: GraphModule, stage_nodes: set[str]) -> dict[str, torch.Tensor]:
    """The float tensors that the operators of a stage read, by name."""
    found = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr" and any(user.name in stage_nodes for user in node.users):
            value = _attribute(graph, str(node.target))
            if isinstance(value, torch.Tensor):
                found[str(node.target)] = value.detach().contiguous()
    return found


def _attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module
