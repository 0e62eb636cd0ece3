"""Headrace for Python: compress a PyTorch model, prove the result, and serve it on Ray Serve.

    compress   recipe or model → the command line's job → Artifact     compression.py
    load       name → Artifact → program, in this process → Model       model.py
    plan       name, devices → ShardPlan                                planning.py
    serve      builders for serve.run and for `import_path:`            serve.py
    configs    Recipe, Gate, ModelArgs, ...                             cluster/config
    errors     HeadraceError and its subclasses                         cluster/errors.py

``import headrace`` imports neither PyTorch nor Ray: a name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headrace.packages import require_ours

if TYPE_CHECKING:
    from cluster import __version__ as __version__
    from cluster.artifact.artifact import Artifact as Artifact
    from cluster.artifact.manifest import Manifest as Manifest
    from cluster.config.gate import Gate as Gate
    from cluster.config.parallel import Parallel as Parallel
    from cluster.config.parallel import ParallelBuild as ParallelBuild
    from cluster.config.recipe import Evaluation as Evaluation
    from cluster.config.recipe import ProgramBuild as ProgramBuild
    from cluster.config.recipe import Recipe as Recipe
    from cluster.config.routing import Canary as Canary
    from cluster.config.routing import Cascade as Cascade
    from cluster.config.routing import Chain as Chain
    from cluster.config.routing import Ensemble as Ensemble
    from cluster.config.routing import Hedge as Hedge
    from cluster.config.routing import MultiTask as MultiTask
    from cluster.config.routing import Quorum as Quorum
    from cluster.config.routing import RouterArgs as RouterArgs
    from cluster.config.routing import Scatter as Scatter
    from cluster.config.routing import Shadow as Shadow
    from cluster.config.search import Search as Search
    from cluster.config.serving import Batching as Batching
    from cluster.config.serving import Limits as Limits
    from cluster.config.serving import ModelArgs as ModelArgs
    from cluster.config.sources import DataSource as DataSource
    from cluster.config.sources import ImageInput as ImageInput
    from cluster.config.sources import ModelSource as ModelSource
    from cluster.config.sources import TensorInput as TensorInput
    from cluster.config.sources import TextInput as TextInput
    from cluster.config.steps import Distill as Distill
    from cluster.config.steps import Prune as Prune
    from cluster.config.steps import Quantize as Quantize
    from cluster.config.steps import ReplaceActivation as ReplaceActivation
    from cluster.config.steps import Train as Train
    from cluster.errors import ArtifactCorruptError as ArtifactCorruptError
    from cluster.errors import ArtifactError as ArtifactError
    from cluster.errors import ArtifactNotFoundError as ArtifactNotFoundError
    from cluster.errors import ArtifactUntrustedError as ArtifactUntrustedError
    from cluster.errors import ClusterError as ClusterError
    from cluster.errors import CompressionError as CompressionError
    from cluster.errors import ConfigError as ConfigError
    from cluster.errors import GateError as GateError
    from cluster.errors import HeadraceError as HeadraceError
    from cluster.errors import PlanError as PlanError
    from cluster.errors import ProgramError as ProgramError
    from cluster.errors import RequestError as RequestError
    from cluster.errors import SourceError as SourceError
    from cluster.parallel.plan import ShardPlan as ShardPlan
    from headrace import serve as serve
    from headrace.compression import compress as compress
    from headrace.model import Model as Model
    from headrace.model import load as load
    from headrace.planning import plan as plan

# Module → the public names that it holds; the imports above are the same for type checkers.
_MODULES: dict[str, str] = {
    "cluster": "__version__",
    "cluster.artifact.artifact": "Artifact",
    "cluster.artifact.manifest": "Manifest",
    "cluster.config.gate": "Gate",
    "cluster.config.parallel": "Parallel ParallelBuild",
    "cluster.config.recipe": "Evaluation ProgramBuild Recipe",
    "cluster.config.routing": (
        "Canary Cascade Chain Ensemble Hedge MultiTask Quorum RouterArgs Scatter Shadow"
    ),
    "cluster.config.search": "Search",
    "cluster.config.serving": "Batching Limits ModelArgs",
    "cluster.config.sources": "DataSource ImageInput ModelSource TensorInput TextInput",
    "cluster.config.steps": "Distill Prune Quantize ReplaceActivation Train",
    "cluster.errors": (
        "ArtifactCorruptError ArtifactError ArtifactNotFoundError ArtifactUntrustedError "
        "ClusterError CompressionError ConfigError GateError HeadraceError PlanError ProgramError "
        "RequestError SourceError"
    ),
    "cluster.parallel.plan": "ShardPlan",
    "headrace.compression": "compress",
    "headrace.model": "Model load",
    "headrace.planning": "plan",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}
_SUBMODULES = ("serve",)


if not TYPE_CHECKING:  # a type checker would accept any name of a module with __getattr__

    def __getattr__(name: str) -> Any:
        """Import a public name on first use; ImportError if a package of ours is a foreign one."""
        if name in _SUBMODULES:
            require_ours()
            return import_module(f"headrace.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'headrace' has no attribute {name!r}")
        require_ours()
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_SUBMODULES})
