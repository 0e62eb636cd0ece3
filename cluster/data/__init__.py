"""Labelled samples: a source of the recipe → training, validation and test → arrays for the model.

DataSource ─→ load.py ─┬─ from_digits.py ──────┐
                       ├─ from_imagefolder.py ─┼─→ LabelledSet ─→ split.py ─→ LabelledData:
                       ├─ from_safetensors.py ─┤   (samples.py)        (train, validation, test)
                       └─ from_python.py ──────┘
Samples ─→ prepared.py: image files, texts or arrays → batches of the model's inputs
        ─→ readable.py: the files that cannot be read, up to a limit

Samples stay encoded until a batch needs them. This room does not import PyTorch.
"""

from cluster.data.load import LabelledData, load_data, require_every_class, require_labels
from cluster.data.prepared import PreparedSamples
from cluster.data.readable import require_readable
from cluster.data.samples import Samples

__all__ = [
    "LabelledData",
    "PreparedSamples",
    "Samples",
    "load_data",
    "require_every_class",
    "require_labels",
    "require_readable",
]
