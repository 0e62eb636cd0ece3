"""Rules of imports between the rooms. A new room is one entry in ``MAY_IMPORT``."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "deployments", "headrace", "benchmarks")
MAX_LINES = 350

# Room → the rooms it may import, besides itself. A room is a folder or file of `cluster`.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "progress": set(),
    "fingerprint": set(),
    "factory": {"errors", "fingerprint"},
    "tensors": set(),
    "activation": set(),
    "text_table": set(),
    "independence": {"tensors", "errors"},
    "config": {"activation", "tensors", "errors"},
    "preprocess": {"config", "errors"},
    "artifact": {"activation", "config", "tensors", "errors"},
    "protocol": {"activation", "tensors", "errors"},
    "models": {
        "activation",
        "preprocess",
        "independence",
        "config",
        "tensors",
        "errors",
        "factory",
        "fingerprint",
    },
    "data": {
        "activation",
        "preprocess",
        "config",
        "tensors",
        "errors",
        "factory",
        "fingerprint",
        "progress",
    },
    # The eager kind rebuilds the model from its source.
    "program": {"artifact", "models", "independence", "config", "tensors", "errors"},
    "runtime": {"config", "tensors", "errors"},
    "routing": {"activation", "config", "tensors", "errors"},
    "parallel": {"program", "artifact", "config", "tensors", "errors"},
    "compression": {
        "activation",
        "parallel",
        "program",
        "artifact",
        "models",
        "data",
        "independence",
        "config",
        "tensors",
        "errors",
        "progress",
        "fingerprint",
        "factory",
        "text_table",
    },
}

# The same for the rooms and files of `cluster/compression`, which is larger than the rest.
COMPRESSION_MAY_IMPORT: dict[str, set[str]] = {
    "launch": set(),
    "layers": set(),
    "labels": set(),
    "meaning": {"labels", "training"},
    "origin": set(),
    "record": set(),
    "figures": set(),
    "feasibility": {"programs", "quantization", "evaluation", "layers", "figures"},
    "probes": set(),
    "equivalence": {"probes"},
    "export": {"equivalence", "probes"},
    "work": {"launch", "record", "equivalence", "probes"},
    "draft": {"evaluation", "work", "equivalence", "probes"},
    "indexing": {"work", "export"},
    "programs": {"indexing", "work", "export", "equivalence", "probes"},
    "evaluation": {"record", "figures", "probes"},
    "report": {"evaluation", "record", "figures"},
    "training": {"work", "layers"},
    "activations": {"work", "layers"},
    "sensitivity": {"work", "evaluation"},
    "pruning": {
        "training",
        "sensitivity",
        "evaluation",
        "work",
        "layers",
        "equivalence",
        "probes",
    },
    "quantization": {
        "training",
        "sensitivity",
        "work",
        "layers",
        "export",
        "equivalence",
        "probes",
    },
    "steps": {
        "training",
        "pruning",
        "quantization",
        "activations",
        "evaluation",
        "record",
        "work",
    },
    "source_check": {"steps", "evaluation", "record", "work"},
    "search": {"steps", "activations", "programs", "evaluation", "draft", "record", "work"},
    "sharding": {"programs", "indexing", "evaluation", "draft", "work", "equivalence"},
    "self_checks": {"draft", "probes"},
    "packaging": {
        "self_checks",
        "sharding",
        "programs",
        "evaluation",
        "report",
        "draft",
        "record",
        "origin",
        "work",
    },
    "front": {"packaging", "search", "record", "work"},
    "job": {
        "feasibility",
        "front",
        "packaging",
        "sharding",
        "search",
        "steps",
        "programs",
        "labels",
        "meaning",
        "source_check",
        "origin",
        "record",
        "work",
        "launch",
    },
}

# The same for `deployments`, whose rooms may import all of `cluster`.
DEPLOYMENTS_MAY_IMPORT: dict[str, set[str]] = {
    "ray": set(),
    "config": {"ray"},
    "http": {"ray"},
    "shards": {"ray"},
    "model": {"shards", "http", "ray"},
    "router": {"config", "http", "ray"},
    "jobs": {"router"},
    "drain": {"ray"},
    "local": {"http", "ray"},
    "kubernetes": {"config", "shards", "ray"},
    "app": {"config", "http", "model", "router", "shards", "ray"},
    "cli": {"config", "http", "router", "shards", "jobs", "local", "kubernetes", "ray"},
    "recipes": set(),
}

# The same for the modules of `headrace`, with its own modules and rooms of the two packages below.
# The package itself imports a module at the first use of one of its names.
HEADRACE_MAY_IMPORT: dict[str, set[str]] = {
    "headrace.packages": set(),
    "headrace.command": {"headrace.packages", "deployments.cli"},
    "headrace.sources": {"cluster.config", "cluster.errors"},
    "headrace.compression": {
        "headrace.sources",
        "cluster.artifact",
        "cluster.config",
        "cluster.factory",
        "cluster.errors",
        "deployments.jobs",
    },
    "headrace.model": {
        "cluster.artifact",
        "cluster.program",
        "cluster.protocol",
        "cluster.tensors",
        "cluster.errors",
    },
    "headrace.planning": {"cluster.artifact", "cluster.parallel"},
    "headrace.serve": {"headrace.packages", "deployments.app", "cluster.config"},
}

# Names that are private to Ray; only the room `deployments/ray` may use them, so that the next
# release of Ray is checked in one place, by its contract tests.
PRIVATE_TO_RAY = (
    "ray._private",
    "ray._raylet",
    "ray.core",
    "ray.experimental",
    "ray.serve._private",
    "ray.serve.context",
)

# Library → the one module that uses it: each kind of YAML file has one reader and one dialect.
YAML_READERS = {
    "ruamel": "cluster.config.plain_yaml",  # recipes and configs: YAML 1.2
    "yaml": "deployments.kubernetes.manifest_yaml",  # manifests: as kubectl reads them
}

# The same for `benchmarks`: the harness, shared rooms, and one room per benchmark.
_SHARED = {"load", "contenders", "servers", "artifacts", "harness"}
BENCHMARKS_MAY_IMPORT: dict[str, set[str]] = {
    "harness": set(),
    "artifacts": {"harness"},
    "servers": {"artifacts", "harness"},
    "contenders": {"servers", "artifacts", "harness"},
    "load": {"contenders", "harness"},
    "serving": _SHARED,
    "programs": {"artifacts", "harness"},
    "compression": {"artifacts", "harness"},
    "parallelism": _SHARED,
    "router": _SHARED,
}

# No module on the import path of a serving replica may import these: they cost seconds of start
# and hundreds of megabytes.
HEAVY = {
    "torch",
    "torchvision",
    "torchao",
    "torch_pruning",
    "sklearn",
    "safetensors",
    "transformers",
    "openvino",
    "nncf",
}
REPLICA = ("deployments.app", "deployments.model.replica", "deployments.http.catalog")

UNCLEAR = re.compile(
    r"(^|_)(utils?|helpers?|managers?|handlers?|engines?|workers?|misc|common)(_|$)"
)


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


@cache
def imports(module: str, *, at_import: bool) -> frozenset[str]:
    """Return the imports of a module: our modules by full name, others by their first part.

    ``at_import`` leaves out imports inside functions.
    """
    tree = ast.parse(MODULES[module].read_text())
    names = set()
    for node in _at_import(tree) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in members}
    return frozenset(name if name in MODULES else name.partition(".")[0] for name in names)


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from _at_import(child)


def room(module: str) -> str:
    return module.split(".")[1]


def room_of_deployments(module: str) -> str | None:
    return room(module) if module.startswith("deployments.") else None


CLUSTER = sorted(name for name in MODULES if name.startswith("cluster."))


@pytest.mark.parametrize("module", CLUSTER)
def test_cluster_room_imports_only_rooms_below(module: str) -> None:
    ours = {name for name in imports(module, at_import=False) if name.startswith("cluster.")}
    allowed = MAY_IMPORT[room(module)] | {room(module)}
    wrong = sorted(name for name in ours if room(name) not in allowed)
    assert not wrong, f"{module} imports {wrong}; its room may import {sorted(allowed)}"


COMPRESSION = [name for name in CLUSTER if name.startswith("cluster.compression.")]


@pytest.mark.parametrize("module", COMPRESSION)
def test_compression_room_imports_only_rooms_below(module: str) -> None:
    ours = {n for n in imports(module, at_import=False) if n.startswith("cluster.compression.")}
    part = module.split(".")[2]
    allowed = COMPRESSION_MAY_IMPORT[part] | {part}
    wrong = sorted(name for name in ours if name.split(".")[2] not in allowed)
    assert not wrong, f"{module} imports {wrong}; its room may import {sorted(allowed)}"


DEPLOYMENTS = sorted(name for name in MODULES if name.startswith("deployments."))


@pytest.mark.parametrize("module", DEPLOYMENTS)
def test_deployment_room_imports_only_rooms_below(module: str) -> None:
    ours = {n for n in imports(module, at_import=False) if n.startswith("deployments.")}
    allowed = DEPLOYMENTS_MAY_IMPORT[room(module)] | {room(module)}
    wrong = sorted(name for name in ours if room(name) not in allowed)
    assert not wrong, f"{module} imports {wrong}; its room may import {sorted(allowed)}"


HEADRACE = sorted(name for name in MODULES if name.startswith("headrace."))


@pytest.mark.parametrize("module", HEADRACE)
def test_headrace_module_imports_only_its_rooms(module: str) -> None:
    ours = {name for name in imports(module, at_import=False) if name in MODULES}
    rooms = {".".join(name.split(".")[:2]) for name in ours}
    wrong = sorted(rooms - HEADRACE_MAY_IMPORT[module])
    assert not wrong, f"{module} imports {wrong}"


@pytest.mark.parametrize("module", [*CLUSTER, *DEPLOYMENTS])
def test_lower_packages_do_not_import_headrace(module: str) -> None:
    ours = imports(module, at_import=False)
    assert not [name for name in ours if name.partition(".")[0] == "headrace"]


BENCHMARKS = sorted(name for name in MODULES if name.startswith("benchmarks."))


@pytest.mark.parametrize("module", BENCHMARKS)
def test_room_of_benchmarks_imports_only_rooms_below(module: str) -> None:
    ours = {name for name in imports(module, at_import=False) if name.startswith("benchmarks.")}
    allowed = BENCHMARKS_MAY_IMPORT[room(module)] | {room(module)}
    wrong = sorted(name for name in ours if room(name) not in allowed)
    assert not wrong, f"{module} imports {wrong}; its room may import {sorted(allowed)}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_ray_room_uses_private_names_of_ray(module: str) -> None:
    if room_of_deployments(module) == "ray":
        return
    tree = ast.parse(MODULES[module].read_text())
    names = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    names |= {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    private = sorted(
        name for name in names for root in PRIVATE_TO_RAY if f"{name}.".startswith(f"{root}.")
    )
    assert not private, f"{module} uses {private}: move the call into deployments/ray"


@pytest.mark.parametrize("library", YAML_READERS)
def test_yaml_library_is_used_by_one_module(library: str) -> None:
    users = [module for module in MODULES if library in imports(module, at_import=False)]
    assert users == [YAML_READERS[library]]


@pytest.mark.parametrize("module", CLUSTER)
def test_cluster_imports_neither_ray_nor_deployments(module: str) -> None:
    assert not imports(module, at_import=False) & {"ray", "deployments", "fastapi", "starlette"}
    assert not [name for name in imports(module, at_import=False) if name.startswith("deployments")]


def test_every_room_has_a_rule() -> None:
    rooms = {room(module) for module in CLUSTER}
    assert rooms == set(MAY_IMPORT)
    assert {room(module) for module in DEPLOYMENTS} == set(DEPLOYMENTS_MAY_IMPORT)
    assert {room(module) for module in BENCHMARKS} == set(BENCHMARKS_MAY_IMPORT)
    assert set(HEADRACE) == set(HEADRACE_MAY_IMPORT)
    assert {module.split(".")[2] for module in COMPRESSION} == set(COMPRESSION_MAY_IMPORT)


def test_imports_have_no_cycles() -> None:
    # Imports inside functions count: hiding a cycle does not remove it.
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for other in sorted(imports(module, at_import=False)):
            # A package's __init__ imports its modules; that is no cycle.
            if other in MODULES and not module.startswith(f"{other}."):
                visit(other, (*path, module))
        done.add(module)

    for module in MODULES:
        visit(module, ())


def test_replica_imports_no_heavy_package() -> None:
    seen: set[str] = set()
    todo = [(name, name) for name in REPLICA]
    while todo:
        module, path = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        packages = {module.rpartition(".")[0]} & set(MODULES)
        for other in sorted(imports(module, at_import=True) | packages):
            assert other not in HEAVY, f"{path} → {other}"
            if other in MODULES:
                todo.append((other, f"{path} → {other}"))
    assert "cluster.runtime.batcher" in seen  # the walk is complete


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_is_short_and_clearly_named(module: str) -> None:
    lines = len(MODULES[module].read_text().splitlines())
    assert lines <= MAX_LINES, (
        f"{module} has {lines} lines, at most {MAX_LINES}; move its second role out"
    )
    for part in module.split("."):
        assert not UNCLEAR.search(part), f"{module}: {part!r} does not name a role"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_has_docstring_and_clear_class_names(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    assert ast.get_docstring(tree), f"{module} has no docstring"
    unclear = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and UNCLEAR.search(re.sub(r"(?<!^)(?=[A-Z])", "_", node.name).lower())
    ]
    assert not unclear, f"{module}: {unclear} do not name a role"


def test_modules_of_tests_have_unique_names() -> None:
    """One run imports all of them by their file names alone."""
    names = Counter(path.name for path in ROOT.glob("tests/**/test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
