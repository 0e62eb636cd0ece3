"""Stages of an OpenVINO program: its graph, cut at tensors that have the cuts' names.

TARGET.xml ─→ for each stage: entering tensors → parameters, leaving tensors → results → stage-S.xml

The operators are those of the whole program, quantized as a whole and with the same constants, so
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
from cluster.compression.export import exported
from cluster.compression.programs.files import ProgramFiles
from cluster.compression.work import Work
from cluster.errors import CompressionError, PlanError
from cluster.parallel.graph import CutPoint, cuts
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
"""OpenVINO's name of an element type → the protocol's name."""


def graph_of(work: Work) -> GraphModule:
    """Return the graph that OpenVINO converts, whose nodes name the tensors of OpenVINO's graph."""
    # An optional package, which only builds of this kind need.
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    program = exported(work.float_module.eval(), work.inputs, strict=False)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        graph: GraphModule = TorchFXPythonDecoder.from_exported_program(program).pt_module
    return graph


def cuts_of(graph: GraphModule, entry: ProgramEntry, files: ProgramFiles) -> list[CutPoint]:
    """Return the cuts of the graph whose tensors exist in the program.

    OpenVINO fuses operators, which removes the tensors between them.
    """
    outputs = _outputs(_read(entry, files))
    possible = []
    for cut in cuts(graph.graph):
        ports = [outputs.get(name) for name in cut.carried]
        if all(port is not None and _is_batched(port) for port in ports):
            specs = tuple(_spec(n, p) for n, p in zip(cut.carried, ports, strict=True))
            possible.append(CutPoint(cut.after, cut.carried, specs))
    return possible


def build(
    whole: ProgramEntry,
    whole_files: ProgramFiles,
    inputs: tuple[TensorSpec, ...],
    carried: Sequence[tuple[TensorSpec, ...]],
    stages: Sequence[ProgramFiles],
) -> list[tuple[ProgramEntry, tuple[TensorSpec, ...]]]:
    """Write one program per stage; return the entries, and the tensors that each stage computes.

    ``carried``: tensors across each cut, one fewer than stages. An entry's ``inputs`` are the
    entering tensors that its stage uses. PlanError if a stage needs another tensor.
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
    names = {spec.name for spec in entering}
    computed: tuple[TensorSpec, ...] = ()
    if leaving is None:  # the model's own results
        results = list(model.get_results())
    else:
        computed = tuple(spec for spec in leaving if spec.name not in names)
        results = [opset.result(outputs[spec.name]) for spec in computed]
    parameters = {}
    for spec in entering:
        if (port := outputs.get(spec.name)) is None:
            continue  # an input without effect on any output
        if port.get_node().get_type_name() == "Parameter":
            parameters[spec.name] = port.get_node()
            continue
        parameter = opset.parameter(port.get_partial_shape(), port.get_element_type())
        for target in port.get_target_inputs():
            target.replace_source_output(parameter.output(0))
        parameter.output(0).get_tensor().set_names({spec.name})
        parameters[spec.name] = parameter
    _batch_from(next(iter(parameters.values())), model, set(parameters), inputs)
    reachable = _reachable(results)
    used = {n: node for n, node in parameters.items() if node.get_friendly_name() in reachable}
    try:
        part = openvino.Model(results, list(used.values()), "stage")
        part.validate_nodes_and_infer_types()
    except RuntimeError as error:
        raise PlanError(
            f"OpenVINO's program cannot be cut in front of {', '.join(names)}: a later stage "
            f"needs further tensors; build kind aoti instead ({_first_line(error)})"
        ) from error
    openvino.save_model(part, files.file("xml"), compress_to_fp16=False)
    name = files.name("xml")
    entry = whole.model_copy(
        update={
            "file": name,
            "other_files": (files.name("bin"),),
            "static_files": tuple(StaticFile(batch=b, file=name) for b in files.static_batches),
            "inputs": tuple(spec for spec in entering if spec.name in used),
        }
    )
    return entry, computed


def _batch_from(
    parameter: Any, model: Any, entering: set[str], inputs: tuple[TensorSpec, ...]
) -> None:
    """Redirect reads of the batch size from the model's inputs to the stage's ``parameter``."""
    import numpy as np
    from openvino import opset13 as opset

    batch = opset.gather(
        opset.shape_of(parameter, "i64"), np.array([0], np.int64), np.array(0, np.int64)
    )
    sizes = {spec.name: np.array(spec.item_shape, np.int64) for spec in inputs}
    for source in model.get_parameters():
        names = source.output(0).get_names()
        if source.get_friendly_name() == parameter.get_friendly_name() or names & entering:
            continue
        item = next(sizes[name] for name in names if name in sizes)
        for target in source.output(0).get_target_inputs():
            shape_of = target.get_node()
            if shape_of.get_type_name() != "ShapeOf":
                continue
            kind = shape_of.get_output_element_type(0)
            shape = opset.convert(opset.concat([batch, item], 0), kind)
            for reader in shape_of.output(0).get_target_inputs():
                reader.replace_source_output(shape.output(0))


def _reachable(results: Sequence[Any]) -> set[str]:
    """Return the names of the operators that the results depend on."""
    reachable: set[str] = set()
    stack = list(results)
    while stack:
        op = stack.pop()
        if op.get_friendly_name() in reachable:
            continue
        reachable.add(op.get_friendly_name())
        stack += [port.get_source_output().get_node() for port in op.inputs()]
    return reachable


def _read(entry: ProgramEntry, files: ProgramFiles) -> Any:
    import openvino

    (weights,) = entry.other_files
    try:
        return openvino.Core().read_model(files.artifact / entry.file, files.artifact / weights)
    except RuntimeError as error:
        raise CompressionError(f"{entry.file}: OpenVINO cannot read it: {error}") from error


def _outputs(model: Any) -> dict[str, Any]:
    """Return the named tensors of the graph, by name."""
    return {
        name.removesuffix(":0"): port
        for op in model.get_ops()
        if op.get_type_name() != "Result"
        for port in op.outputs()
        for name in port.get_names()
    }


def _is_batched(port: Any) -> bool:
    shape = port.get_partial_shape()
    dynamic = [size.is_dynamic for size in shape] if shape.rank.is_static else []
    known = port.get_element_type().get_type_name() in _DATATYPES
    return bool(dynamic) and dynamic[0] and not any(dynamic[1:]) and known


def _spec(name: str, port: Any) -> TensorSpec:
    sizes = tuple(size.get_length() for size in list(port.get_partial_shape())[1:])
    datatype = _DATATYPES[port.get_element_type().get_type_name()]
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *sizes))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def weights_between(graph: GraphModule, stage_nodes: set[str]) -> dict[str, torch.Tensor]:
    """Return the tensors that the operators of a stage read, by name."""
    weights = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr" and any(user.name in stage_nodes for user in node.users):
            value = _attribute(graph, str(node.target))
            if isinstance(value, torch.Tensor):
                weights[str(node.target)] = value.detach().contiguous()
    return weights


def _attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module
