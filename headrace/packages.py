"""Check that Python imports our packages under their names.

``cluster`` and ``deployments`` are common names. A folder on PYTHONPATH, or another distribution,
may have a package of that name, of which this process would run a part.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("cluster", "deployments")


def require_ours() -> None:
    """Check both packages; ImportError with the location of a foreign one and the fix."""
    for name in PACKAGES:
        if (location := foreign(name)) is not None:
            raise ImportError(message(name, location), name=name)


def foreign(name: str) -> str | None:
    """Return the location of the package that Python imports by this name, if it is not ours."""
    spec = find_spec(name)
    if spec is None:
        return "nothing"
    expected = Path(__file__).resolve().parents[1] / name / "__init__.py"
    origin = spec.origin or ", ".join(spec.submodule_search_locations or ())
    return None if Path(origin).resolve() == expected else origin


def message(name: str, location: str) -> str:
    """Return the error for a package of another origin: what was found, expected, and the fix."""
    expected = Path(__file__).resolve().parents[1] / name
    return (
        f"`import {name}` finds {location}, expected Headrace's package {expected}; take that "
        f"folder off PYTHONPATH, or uninstall the distribution that it belongs to (`pip uninstall "
        f"{name}`) and install Headrace again"
    )
