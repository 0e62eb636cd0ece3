"""Manifest records of one file and of one program."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cluster.tensors import TensorSpec


class Record(BaseModel):
    """Base of all records in a manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def _visible(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds a line break or another non-printable character")
    return text


Line = Annotated[str, AfterValidator(_visible)]
"""Text of printable characters only, safe for logs and messages."""


class FileEntry(Record):
    """One file of the artifact, keyed by its path inside the artifact."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Hash of the file's bytes.")
    size_bytes: int = Field(ge=0, lt=2**63)


class StaticFile(Record):
    """A program compiled for one batch size."""

    batch: int
    file: Line = Field(description="Path inside the artifact.")


class IndexCheck(Record):
    """Check of computed indices inside a program: its result is one of the program's outputs."""

    operator: Line = Field(description="Operator that reads the indices, such as embedding.")
    inputs: tuple[Line, ...] = Field(description="Inputs that the indices are computed from.")
    bounds: tuple[int, int] | None = Field(
        default=None, description="Lowest and highest index; null: the batch decides."
    )
    divides: bool = Field(
        default=False, description="Whether the operator divides by the integers, none of them 0."
    )


class SelfCheck(Record):
    """A program's outputs for a few inputs, which a replica computes again before it is ready."""

    file: Line = Field(
        description="Path inside the artifact of an .npz file: input0, ..., output0, ..., each "
        "[items, ...]; spreads, one per output, root mean square over the items."
    )
    limit: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="Largest difference, in spreads: twice the program's from its model.",
    )
    cpu_features: tuple[Line, ...] = Field(
        description="CPU flags of the machine on which the program was measured."
    )


class ProgramEntry(Record):
    """One compiled program and its requirements for a node."""

    kind: Line = Field(description="Loader: a key of program.PROGRAM_KINDS.")
    target: Line = Field(description="Target of the compilation, such as cpu-x86.")
    file: Line = Field(description="Path of the program (its main file) inside the artifact.")
    other_files: tuple[Line, ...] = Field(
        default=(), description="Further files of the program, such as OpenVINO's weights."
    )
    cpu_features: tuple[Line, ...] = Field(
        description="CPU flags (as in /proc/cpuinfo) that its instructions may use."
    )
    torch_version: Line = Field(description="PyTorch version of the compilation.")
    native_runner: Line | None = Field(
        description="Path of the extension that runs it without Python's lock, if one was built."
    )
    python_abi: Line | None = Field(description="Python ABI of that extension, cpython-311-...")
    static_files: tuple[StaticFile, ...] = Field(
        default=(), description="Programs for one batch size each, if these measured faster."
    )
    versions: dict[Line, Line] = Field(
        default={}, description="Package → required version, except PyTorch, such as openvino."
    )
    options: dict[Line, Line] = Field(
        default={}, description="Options of its loader, such as the precision of the computation."
    )
    quantized_operators: int = Field(
        default=0, description="Number of its operators that compute or are stored in fewer bits."
    )
    inputs: tuple[TensorSpec, ...] | None = Field(
        default=None, description="Its inputs; null: the model's inputs."
    )
    self_check: SelfCheck | None = Field(
        default=None, description="Check of a replica's start; null in older artifacts and parts."
    )
    index_checks: tuple[IndexCheck, ...] = Field(
        default=(), description="Checks that it returns as further outputs, in their order."
    )

    @property
    def key(self) -> str:
        """Key among the artifact's programs: ``target/kind``."""
        return f"{self.target}/{self.kind}"

    @property
    def loaded_files(self) -> frozenset[str]:
        """Paths of the program's own files, which a replica loads, except the runner."""
        return frozenset(
            {self.file, *self.other_files, *(static.file for static in self.static_files)}
        )


class Latency(Record):
    """Time of one run at one batch size, in milliseconds."""

    batch: int = Field(ge=1, lt=2**31)
    p50_ms: float = Field(gt=0, allow_inf_nan=False)
    p99_ms: float = Field(gt=0, allow_inf_nan=False)

    @property
    def items_per_s(self) -> float:
        """Throughput of back-to-back runs at the median latency, in items per second."""
        return self.batch / self.p50_ms * 1e3
