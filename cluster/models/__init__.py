"""Sources of models: a source of the recipe → a module that is ready to compress.

ModelSource ─→ load.py ─┬─ from_torchvision.py ─┐
                        ├─ from_hf.py ──────────┼─→ BuiltModel ─→ load.py probes it once
                        └─ from_python.py ──────┘                 and returns LoadedModel
               checkpoints.py: weights from a file into a built module, without running code
"""

from cluster.models.load import LoadedModel, load_model, source_fingerprint

__all__ = ["LoadedModel", "load_model", "source_fingerprint"]
