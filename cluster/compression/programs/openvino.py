"""OpenVINO's intermediate representation: a graph in XML and weights, no code.

float32, bf16, fp16        Work's float module → convert → weights in 16 bits, or as they are
static_int8                → convert → nncf.quantize with the recipe's calibration samples
dynamic_int8               → convert → nncf.compress_weights, activations quantized as it runs
weight_only_int8, _int4    → convert → nncf.compress_weights

OpenVINO does not take torchao's quantized graphs, so NNCF quantizes the float model again, by
the same scheme, the same samples and with the same layers left out.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from cluster.artifact.entries import ProgramEntry, StaticFile
from cluster.compression.programs.files import ProgramFiles
from cluster.compression.programs.openvino_layers import operators_of, operators_with_weights
from cluster.compression.work import Job, Work, exported
from cluster.config.steps import Quantize
from cluster.data import PreparedSamples
from cluster.errors import CompressionError
from cluster.program import node
from cluster.program.openvino import DYNAMIC_GROUP, PACKAGE, PRECISION
from cluster.tensors import TensorSpec

_BATCH = 32
"""Calibration samples that run at once."""

DYNAMIC_GROUP_SIZE = 32
"""Activations that share a scale in dynamic_int8. All encoder layers of MiniLM at 128 tokens:
cosine 0.998 to float32, where whole rows of 384 leave 0.994."""

INT4_GROUP_SIZE = 32
"""Weights that share a scale and a zero point in weight_only_int4."""

_PRECISIONS = {"bf16": "bf16", "fp16": "f16"}
"""Scheme → what OpenVINO computes in; every other leaves what it does not quantize in float32."""

_NOT_LINEAR = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "Gather",
)
"""Operators whose weights the schemes for linear layers leave alone; Gather is an embedding."""


def supports(work: Work, target: str, job: Job) -> str | None:
    """See :class:`cluster.compression.programs.builder.ProgramBuilder`."""
    if target != "cpu-x86":
        return f"kind openvino is built for cpu-x86, not for {target}; take aoti"
    if work.precision is None:
        return None
    step = work.precision.step
    if step.scheme not in _QUANTIZERS and step.scheme not in _PRECISIONS:
        return f"OpenVINO has no scheme {step.scheme} for CPUs"
    return None


def build(work: Work, target: str, files: ProgramFiles, job: Job) -> ProgramEntry:
    """See :class:`cluster.compression.programs.builder.ProgramBuilder`.

    CompressionError also if none of the program's operators would have fewer bits although a step
    asked for them.
    """
    # An extra: seconds to import, and only a build needs all of it.
    import openvino

    precision = work.precision
    scheme = precision.step.scheme if precision else None
    module = precision.float_module if precision else work.module
    graph, kept = _converted(module, work.inputs, precision.bfloat16_layers if precision else ())
    group = 0
    if precision is not None and scheme in _QUANTIZERS:
        graph = _quantized(graph, precision.step, kept, _Samples(job.train, work.inputs))
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
        cpu_features=(),  # code is made for the CPU that loads it
        torch_version=node.torch_version(),
        native_runner=None,
        python_abi=None,
        # Static shapes need no files of their own: the loader compiles the graph once more.
        static_files=tuple(StaticFile(batch=batch, file=name) for batch in files.static_batches),
        versions={PACKAGE: str(node.version_of(PACKAGE))},
        options={
            PRECISION: _PRECISIONS.get(str(scheme), "f32"),
            DYNAMIC_GROUP: str(group),
        },
        quantized_operators=operators,
    )


def _stored(scheme: str | None) -> tuple[str, ...]:
    """Types that the weights have in the graph where the scheme gave them fewer bits.

    Half precision is made of all floating weights, but only as the graph is saved.
    """
    return ("f32", "f16", "bf16") if scheme in _PRECISIONS else ("i8", "u8", "i4", "u4")


def _converted(
    module: torch.nn.Module, inputs: tuple[TensorSpec, ...], kept: tuple[str, ...]
) -> tuple[Any, list[str]]:
    """The module as a graph with a dynamic batch, and its operators of the ``kept`` layers."""
    import openvino
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    program = exported(module.eval(), inputs, strict=False)
    try:
        with _quiet():
            decoder = TorchFXPythonDecoder.from_exported_program(program)
            graph = openvino.convert_model(decoder)
    # The frontends raise many types, without a common base.
    except Exception as error:
        raise CompressionError(f"OpenVINO cannot convert the model: {error}") from error
    ports = {name: port for port in graph.inputs for name in port.get_names()}
    names = program.graph_signature.user_inputs
    for name, spec in zip(names, inputs, strict=True):
        if name in ports:  # an input that no output depends on is gone
            ports[name].get_tensor().set_names({spec.name})
    graph.reshape(
        {s.name: list(s.shape) for name, s in zip(names, inputs, strict=True) if name in ports}
    )
    return graph, operators_of(graph, decoder.pt_module, kept)


def _quantized(graph: Any, step: Quantize, kept: list[str], samples: _Samples) -> Any:
    try:
        with _quiet():
            return _QUANTIZERS[step.scheme](graph, step, kept, samples)
    # NNCF's errors have no common base, and it lets those of OpenVINO and NumPy through.
    except Exception as error:
        advice = ""
        if step.scheme == "static_int8" and step.calibration == "histogram":
            # NumPy's message, if an activation hardly differs from sample to sample.
            advice = "; if it is a histogram that fails, set calibration: minmax"
        raise CompressionError(f"NNCF cannot quantize the model: {error}{advice}") from error


@dataclass(frozen=True)
class _Samples:
    """Training samples by the names of the model's inputs."""

    train: PreparedSamples
    inputs: tuple[TensorSpec, ...]

    def batch(self, indices: range) -> dict[str, Any]:
        arrays, _ = self.train.batch(indices)
        return {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}


# ---------------------------------------------------------------------------- schemes


def _static(graph: Any, step: Quantize, kept: list[str], samples: _Samples) -> Any:
    import nncf

    count = min(step.calibration_samples, len(samples.train))
    batches = [range(first, min(first + _BATCH, count)) for first in range(0, count, _BATCH)]
    taken = {name for port in graph.inputs for name in port.get_names()}

    def arrays(indices: range) -> dict[str, Any]:
        return {name: each for name, each in samples.batch(indices).items() if name in taken}

    attends = any(op.get_type_name() == "ScaledDotProductAttention" for op in graph.get_ops())
    return nncf.quantize(
        graph,
        nncf.Dataset(batches, arrays),
        subset_size=len(batches),
        # Activations get a zero point where they are not what a ReLU leaves.
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if attends else None,
        ignored_scope=nncf.IgnoredScope(names=kept),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=_ranges(step)
        ),
    )


def _ranges(step: Quantize) -> Any:
    """NNCF's estimator of the recipe's calibration."""
    from nncf.quantization import range_estimator as known

    if step.calibration == "percentile":
        outside = (1 - step.percentile / 100) / 2  # at each end

        def quantile() -> Any:
            return known.StatisticsCollectorParameters(
                known.StatisticsType.QUANTILE,
                known.AggregatorType.MEAN,
                quantile_outlier_prob=outside,
            )

        return known.RangeEstimatorParameters(min=quantile(), max=quantile())
    return {
        "minmax": known.RangeEstimatorParametersSet.MINMAX,
        "histogram": known.RangeEstimatorParametersSet.HISTOGRAM,
    }[step.calibration]


def _weights_int8(graph: Any, step: Quantize, kept: list[str], samples: _Samples) -> Any:
    import nncf

    return nncf.compress_weights(
        graph, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=_linear_but(kept)
    )


def _weights_int4(graph: Any, step: Quantize, kept: list[str], samples: _Samples) -> Any:
    import nncf

    return nncf.compress_weights(
        graph,
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        group_size=INT4_GROUP_SIZE,
        all_layers=True,
        ignored_scope=_linear_but(kept),
    )


def _linear_but(kept: list[str]) -> Any:
    import nncf

    return nncf.IgnoredScope(names=kept, types=list(_NOT_LINEAR), validate=False)


_QUANTIZERS: dict[str, Callable[[Any, Quantize, list[str], _Samples], Any]] = {
    "static_int8": _static,
    "dynamic_int8": _weights_int8,
    "weight_only_int8": _weights_int8,
    "weight_only_int4": _weights_int4,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tables and bars that both libraries print: the job shows its own."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
