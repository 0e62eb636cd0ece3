"""OpenVINO's intermediate representation: a graph in XML and weights, no code.

float32, bf16, fp16        Work's float module → convert → weights in 32 or 16 bits
static_int8                → convert → nncf.quantize with the recipe's calibration samples
dynamic_int8               → convert → nncf.compress_weights, activations quantized as it runs
weight_only_int8, _int4    → convert → nncf.compress_weights

OpenVINO does not accept torchao's quantized graphs, so NNCF quantizes the float model again, with
the same scheme, samples and bfloat16 layers. The converted graph is compared with the float model
before it is quantized.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cluster.artifact.entries import ProgramEntry, StaticFile
from cluster.compression.equivalence import check_rewrite
from cluster.compression.export import exported
from cluster.compression.indexing.checked import checks_of
from cluster.compression.probes import Probes
from cluster.compression.programs.files import ProgramFiles
from cluster.compression.programs.openvino_layers import operators_of, operators_with_weights
from cluster.compression.work import Job, Work
from cluster.config.recipe import Recipe
from cluster.config.steps import Quantize
from cluster.data import PreparedSamples
from cluster.errors import CompressionError
from cluster.models import faults
from cluster.program import node
from cluster.program.openvino import DYNAMIC_GROUP, PACKAGE, PRECISION
from cluster.tensors import BATCH, TensorSpec

_BATCH = 32
"""Batch size of the calibration."""

DYNAMIC_GROUP_SIZE = 32
"""Activations that share a scale in dynamic_int8. With all encoder layers of MiniLM at 128 tokens,
the cosine to float32 is 0.998, against 0.994 with whole rows of 384."""

INT4_GROUP_SIZE = 32
"""Weights that share a scale and a zero point in weight_only_int4."""

_PRECISIONS = {"bf16": "bf16", "fp16": "f16"}
"""Scheme → OpenVINO's precision; other schemes leave unquantized operators in float32."""

_NOT_LINEAR = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "Gather",
)
"""Operators that schemes for linear layers do not quantize; Gather is an embedding."""


def refusal(scheme: str | None, target: str, recipe: Recipe) -> str | None:
    """See :class:`cluster.compression.programs.builder.ProgramBuilder`."""
    if target != "cpu-x86":
        return f"kind openvino is built for cpu-x86, not for {target}; use aoti"
    if scheme is not None and scheme not in _QUANTIZERS and scheme not in _PRECISIONS:
        return f"OpenVINO has no scheme {scheme} for CPUs"
    return None


def build(work: Work, target: str, files: ProgramFiles, job: Job) -> ProgramEntry:
    """See :class:`cluster.compression.programs.builder.ProgramBuilder`.

    CompressionError also if the recipe quantizes, but no operator of the program would have fewer
    bits.
    """
    # An optional package that takes seconds to import; only a build needs it.
    import openvino

    precision = work.precision
    scheme = work.scheme
    layers = precision.bfloat16_layers if precision else ()
    batch = job.recipe.model.max_batch_size
    graph, exempt = _convert(work.float_module, work.inputs, layers, batch, job.probes_for(work))
    group = 0
    if precision is not None and scheme in _QUANTIZERS:
        graph = _quantize(
            graph, precision.step, exempt, _Samples(job.train, work.inputs, batch or _BATCH)
        )
        group = DYNAMIC_GROUP_SIZE if scheme == "dynamic_int8" else 0
    operators = operators_with_weights(graph, _stored(scheme)) if precision is not None else 0
    if precision is not None and operators == 0:
        raise CompressionError(
            f"scheme {scheme} changes none of the operators in OpenVINO's graph; build this model "
            "without the kind openvino, or choose another scheme"
        )
    openvino.save_model(graph, files.file("xml"), compress_to_fp16=scheme in _PRECISIONS)
    name = files.name("xml")
    return ProgramEntry(
        kind="openvino",
        target=target,
        file=name,
        other_files=(files.name("bin"),),
        cpu_features=(),  # OpenVINO compiles for the CPU that loads the program
        torch_version=node.torch_version(),
        native_runner=None,
        python_abi=None,
        # Static shapes need no own files: the loader compiles the same graph again.
        static_files=tuple(StaticFile(batch=batch, file=name) for batch in files.static_batches),
        versions={PACKAGE: str(node.installed_version(PACKAGE))},
        options={
            PRECISION: _PRECISIONS.get(str(scheme), "f32"),
            DYNAMIC_GROUP: str(group),
        },
        quantized_operators=operators,
        index_checks=checks_of(work.float_module),
    )


def _stored(scheme: str | None) -> tuple[str, ...]:
    """Return the graph's types of weights to which the scheme gives fewer bits.

    Half precision converts all floating weights, but only when the graph is saved.
    """
    return ("f32", "f16", "bf16") if scheme in _PRECISIONS else ("i8", "u8", "i4", "u4")


def _convert(
    module: torch.nn.Module,
    inputs: tuple[TensorSpec, ...],
    layers: tuple[str, ...],
    batch: int | None,
    probes: Probes | None = None,
) -> tuple[Any, list[str]]:
    """Return the module as a graph, and its operators of ``layers``.

    ``batch``: its batch size; None: dynamic. CompressionError if the graph computes something else
    than the module on the ``probes``.
    """
    import openvino
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    program = exported(module.eval(), inputs, strict=False, batch=batch)
    _name_corrections(program)
    try:
        with _quiet():
            decoder = TorchFXPythonDecoder.from_exported_program(program)
            graph = openvino.convert_model(decoder)
            _set_shapes(graph, program.graph_signature.user_inputs, inputs, batch)
    # The frontends' errors have no common base. Shapes can contradict an operator, such as a
    # pooling whose kernel is larger than its input.
    except Exception as error:
        # Of several lines, the first ones name places in OpenVINO's source.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")
        raise CompressionError(
            f"OpenVINO cannot convert the model: {reason}; build the kind aoti"
        ) from error
    if probes is not None:
        check_rewrite(_runnable(graph, inputs), module, probes, "OpenVINO's graph", _ADVICE)
    return graph, operators_of(graph, decoder.pt_module, layers)


def _set_shapes(
    graph: Any, names: Sequence[str], inputs: tuple[TensorSpec, ...], batch: int | None
) -> None:
    """Give the graph's inputs, by their names in the exported program, our names and shapes."""
    ports = {name: port for port in graph.inputs for name in port.get_names()}
    # An input without effect on any output is removed.
    specs = {name: spec for name, spec in zip(names, inputs, strict=True) if name in ports}
    for name, spec in specs.items():
        ports[name].get_tensor().set_names({spec.name})
    graph.reshape({spec.name: [batch or BATCH, *spec.item_shape] for spec in specs.values()})


def _name_corrections(program: torch.export.ExportedProgram) -> None:
    """Write PyTorch's default correction, 1, into variances: OpenVINO's default is 0."""
    aten = torch.ops.aten
    variances = [kind.correction for kind in (aten.var, aten.std, aten.var_mean, aten.std_mean)]
    for call in program.graph.nodes:
        if call.target in variances and call.kwargs.get("correction") is None:
            call.kwargs = {**call.kwargs, "correction": 1}


_ADVICE = "build this model without openvino in programs.kinds"


def _runnable(graph: Any, inputs: tuple[TensorSpec, ...]) -> Callable[..., list[torch.Tensor]]:
    """Return the graph as a function of tensors that computes in float32."""
    import openvino

    compiled = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = {name for port in compiled.inputs for name in port.get_names()}

    def run(*tensors: torch.Tensor) -> list[torch.Tensor]:
        pairs = zip(inputs, tensors, strict=True)
        outputs = compiled({spec.name: x.numpy() for spec, x in pairs if spec.name in names})
        return [torch.from_numpy(outputs[port].copy()) for port in compiled.outputs]

    return run


def _quantize(graph: Any, step: Quantize, exempt: list[str], samples: _Samples) -> Any:
    try:
        with _quiet():
            return _QUANTIZERS[step.scheme](graph, step, exempt, samples)
    # NNCF's errors have no common base; it also passes on those of OpenVINO and NumPy.
    except Exception as error:
        advice = ""
        if step.scheme == "static_int8" and step.calibration == "histogram":
            # NumPy's histogram fails if an activation is nearly constant.
            advice = "; if a histogram fails, set calibration: minmax"
        raise CompressionError(
            f"NNCF cannot quantize the model: {faults.sentence(error)}{advice}"
        ) from error


@dataclass(frozen=True)
class _Samples:
    """Training samples by the names of the model's inputs."""

    train: PreparedSamples
    inputs: tuple[TensorSpec, ...]
    batch_size: int

    def batch(self, indices: range) -> dict[str, Any]:
        arrays, _ = self.train.batch(indices)
        return {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}


# ---------------------------------------------------------------------------- schemes


def _static(graph: Any, step: Quantize, exempt: list[str], samples: _Samples) -> Any:
    import nncf

    count = min(step.calibration_samples, len(samples.train))
    step_size = samples.batch_size
    batches = [range(i, min(i + step_size, count)) for i in range(0, count, step_size)]
    names = {name for port in graph.inputs for name in port.get_names()}

    def arrays(indices: range) -> dict[str, Any]:
        return {name: array for name, array in samples.batch(indices).items() if name in names}

    attends = any(op.get_type_name() == "ScaledDotProductAttention" for op in graph.get_ops())
    return nncf.quantize(
        graph,
        nncf.Dataset(batches, arrays),
        subset_size=len(batches),
        # MIXED: activations have a zero point, except behind a ReLU.
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if attends else None,
        ignored_scope=nncf.IgnoredScope(names=exempt),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=_ranges(step)
        ),
    )


def _ranges(step: Quantize) -> Any:
    """Return NNCF's estimator for the recipe's calibration."""
    from nncf.quantization import range_estimator as estimators

    if step.calibration == "percentile":
        outside = (1 - step.percentile / 100) / 2  # at each end

        def quantile() -> Any:
            return estimators.StatisticsCollectorParameters(
                estimators.StatisticsType.QUANTILE,
                estimators.AggregatorType.MEAN,
                quantile_outlier_prob=outside,
            )

        return estimators.RangeEstimatorParameters(min=quantile(), max=quantile())
    return {
        "minmax": estimators.RangeEstimatorParametersSet.MINMAX,
        "histogram": estimators.RangeEstimatorParametersSet.HISTOGRAM,
    }[step.calibration]


def _weights_int8(graph: Any, step: Quantize, exempt: list[str], samples: _Samples) -> Any:
    import nncf

    return nncf.compress_weights(
        graph, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=_linear_except(exempt)
    )


def _weights_int4(graph: Any, step: Quantize, exempt: list[str], samples: _Samples) -> Any:
    import nncf

    return nncf.compress_weights(
        graph,
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        group_size=INT4_GROUP_SIZE,
        all_layers=True,
        ignored_scope=_linear_except(exempt),
    )


def _linear_except(exempt: list[str]) -> Any:
    import nncf

    return nncf.IgnoredScope(names=exempt, types=list(_NOT_LINEAR), validate=False)


_QUANTIZERS: dict[str, Callable[[Any, Quantize, list[str], _Samples], Any]] = {
    "static_int8": _static,
    "dynamic_int8": _weights_int8,
    "weight_only_int8": _weights_int8,
    "weight_only_int4": _weights_int4,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the tables and bars that both libraries print: the job prints its own."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
