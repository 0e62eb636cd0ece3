"""Specs of tensors between components: names, datatypes and shapes.

Datatype names are those of the Open Inference Protocol v2 (``FP32``, ``INT64``, ...). Arrays are
numpy, so that a replica never imports PyTorch's Python package.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

BATCH = -1
"""Size of a variable dimension: the batch."""

DATATYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
"""Protocol datatype name → numpy dtype. BYTES and BF16 are unsupported: no model uses them."""


class TensorSpec(BaseModel):
    """Name, datatype and shape of one input or output of a model.

    ``shape`` has :data:`BATCH` (-1) as its first dimension; the others are fixed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="Name of the tensor in requests and answers.")
    datatype: str = Field(description=f"One of {', '.join(DATATYPES)}.")
    shape: tuple[int, ...] = Field(
        min_length=1, description="Dimensions; the first is -1, the batch."
    )

    @field_validator("datatype")
    @classmethod
    def _known_datatype(cls, value: str) -> str:
        if value not in DATATYPES:
            raise ValueError(f"{value!r} is unknown, expected one of {', '.join(DATATYPES)}")
        return value

    @field_validator("shape")
    @classmethod
    def _batch_first(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if value[0] != BATCH or any(size < 1 for size in value[1:]):
            raise ValueError(
                f"{list(value)} must start with -1 (the batch) and have positive sizes after it"
            )
        return value

    @property
    def dtype(self) -> np.dtype:
        return DATATYPES[self.datatype]

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item, without the batch dimension."""
        return self.shape[1:]

    @property
    def item_bytes(self) -> int:
        """Bytes of one item."""
        return math.prod(self.item_shape) * self.dtype.itemsize

    def zeros(self, batch: int) -> np.ndarray:
        """Return a zero array of this spec with ``batch`` items."""
        return np.zeros((batch, *self.item_shape), self.dtype)


class IndexRange(BaseModel):
    """Range of the elements ``start`` to ``stop - 1`` of an item, as they index a table.

    Elements are counted in C order; ``stop`` None: up to the last one. A floating element counts
    without its fraction, as PyTorch converts it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: int = Field(default=0, ge=0, lt=2**63)
    stop: int | None = Field(default=None, ge=0, lt=2**63)
    low: int = Field(default=0, ge=-(2**63), lt=2**63)
    high: int = Field(ge=-(2**63), lt=2**63)
