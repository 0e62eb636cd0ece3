"""Where models come from: a source of the recipe → a module that is ready to compress.

ModelSource ─→ load.py ─┬─ from_torchvision.py ─┐
                        ├─ from_hf.py ──────────┼─→ built.py (Built) ─→ load.py probes it once
                        └─ from_python.py ──────┘                       and answers LoadedModel
               checkpoints.py: weights from a file, put into a built module, never running code
"""

from cluster.models.load import LoadedModel, load_model, source_fingerprint

__all__ = ["LoadedModel", "load_model", "source_fingerprint"]
