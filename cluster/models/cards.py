"""Accuracy that the card of published weights states, as a check of a recipe's preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.config.plain_yaml import parse_yaml
from cluster.errors import ConfigError

_DATASET = "ImageNet-1K"
_FILE = "README.md"


@dataclass(frozen=True)
class CardAccuracy:
    """Accuracy by the weights' card, 0..1, and the name of the data set it was measured on."""

    value: float
    dataset: str


def of_torchvision(meta: dict[str, Any]) -> CardAccuracy | None:
    """Return the top-1 accuracy on ImageNet in the metadata of torchvision's weights, or None."""
    percent = meta.get("_metrics", {}).get(_DATASET, {}).get("acc@1")
    return None if percent is None else CardAccuracy(percent / 100, _DATASET)


def of_model_card(readme: bytes | None) -> CardAccuracy | None:
    """Return the first accuracy in the ``model-index`` of a Hugging Face README.md, or None.

    The index is a list of models, each with ``results`` of a ``dataset``, each with ``metrics``.
    """
    for model in _listed(_front_matter(readme or b""), "model-index"):
        for result in _listed(model, "results"):
            for metric in _listed(result, "metrics"):
                value = metric.get("value")
                if metric.get("type") == "accuracy" and isinstance(value, int | float):
                    dataset = result.get("dataset")
                    name = dataset.get("name", "") if isinstance(dataset, dict) else ""
                    return CardAccuracy(value / 100 if value > 1 else float(value), str(name))
    return None


def _front_matter(readme: bytes) -> Any:
    """Return the data between the first two ``---`` lines; None without them, or if not YAML."""
    start, _, rest = readme.replace(b"\r\n", b"\n").partition(b"---\n")
    front, end, _ = rest.partition(b"\n---")
    if start.strip() or not end:
        return None
    try:
        return parse_yaml(front, _FILE)
    except ConfigError:  # a card of another kind states nothing
        return None


def _listed(mapping: Any, key: str) -> list[dict[str, Any]]:
    """Return the mappings in a mapping's list; empty if the card has another form there."""
    values = mapping.get(key) if isinstance(mapping, dict) else None
    return (
        [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
    )
