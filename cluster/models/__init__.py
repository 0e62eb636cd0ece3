"""Sources of models: a source of the recipe → a module that is ready to compress.

ModelSource ─→ load.py ─┬─ from_torchvision.py ─┐
                        ├─ from_hf.py ──────────┼─→ BuiltModel ─→ probe, batch_check ─→ LoadedModel
                        └─ from_python.py ──────┘
               answer.py, applied_activation.py: one row of logits or numbers per item
               checkpoints.py: weights from a file into a built module, without running code
               forward.py: runs of a user's module that leave nothing behind in it
               faults.py, dependent_part.py: the submodule at fault, for one sentence
"""

from cluster.models.copying import copy_of
from cluster.models.load import LoadedModel, load_model, source_fingerprint

__all__ = ["LoadedModel", "copy_of", "load_model", "source_fingerprint"]
