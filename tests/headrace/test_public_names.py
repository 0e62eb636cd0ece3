"""``import headrace`` is fast, complete for type checkers, and refuses foreign packages."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import headrace

FILE = Path(headrace.__file__)
IMPORT_S = 0.2


def python(code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def cpu_s(code: str) -> float:
    """Return the least CPU time of five runs in seconds: other processes' load does not count."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python(code).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(seconds)


def test_import_costs_less_than_its_limit() -> None:
    assert cpu_s("import headrace") - cpu_s("pass") < IMPORT_S


def test_import_loads_no_framework() -> None:
    code = "import sys, headrace; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(python(code).stdout.split())
    assert "headrace" in loaded
    assert not loaded & {"torch", "ray", "numpy", "pydantic", "cluster", "deployments"}


def test_command_line_names_load_no_ray_nor_torch() -> None:
    code = (
        "import sys, headrace as h; h.compress, h.load, h.plan, h.Recipe, h.serve.model; "
        "print('ray' in sys.modules, 'torch' in sys.modules)"
    )
    assert python(code).stdout.split() == ["False", "False"]


def test_type_checkers_see_every_name_and_no_other() -> None:
    tree = ast.parse(FILE.read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    typed = {
        (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {(module, name) for name, module in headrace._HOMES.items()}
    assert typed == lazy | {("headrace", name) for name in headrace._SUBMODULES}


def test_every_name_is_importable_and_listed() -> None:
    for name in (*headrace._HOMES, *headrace._SUBMODULES):
        assert getattr(headrace, name) is not None
        assert name in dir(headrace)
    assert headrace.compress.__name__ == "compress"  # no module hides the function


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'decompress'"):
        headrace.decompress  # noqa: B018


def test_packages_are_marked_as_typed() -> None:
    for package in ("headrace", "cluster", "deployments"):  # its names come from the other two
        assert (FILE.parents[1] / package / "py.typed").is_file()


@pytest.mark.parametrize("use", ["from headrace import Recipe", "headrace.serve.model({})"])
def test_foreign_package_is_refused_with_fix(tmp_path: Path, use: str) -> None:
    (tmp_path / "cluster.py").write_text("raise RuntimeError('the package of this path ran')\n")
    done = python(f"import headrace\n{use}", cwd=tmp_path)
    assert done.returncode == 1
    assert f"ImportError: `import cluster` finds {tmp_path / 'cluster.py'}" in done.stderr
    assert "pip uninstall cluster" in done.stderr
