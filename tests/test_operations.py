"""docs/operations.md names tests and files that are there, every fault, and numbers that add up."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import yaml

from deployments.ray.time_limits import DRAIN_START_S, MAX_REQUEST_TIMEOUT_S, node_drain_s

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "operations.md").read_text()
FEWEST_FAULTS = 25


def test_every_test_and_file_it_names_is_there() -> None:
    named = set(re.findall(r"`((?:tests|deployments|k8s)/[\w./-]+)`", TEXT))
    assert len(named) > 10
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]
    linked = re.findall(r"\]\(([\w./]+\.md)\)", TEXT)
    assert not [name for name in linked if not (ROOT / "docs" / name).exists()]


def faults() -> dict[str, set[str]]:
    """What breaks → the test files that break it, as their marks say."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                (what,) = node.args
                assert isinstance(what, ast.Constant)
                found.setdefault(what.value, set()).add(str(path.relative_to(ROOT)))
    return found


def failures() -> dict[str, str]:
    """First cell → file of the table of failures."""
    section = TEXT.partition("## What failures look like")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")]
    shown: dict[str, str] = {}
    last = ""
    for row in rows[2:]:
        cell = row[-1].strip()
        last = last if cell == "same" else cell
        shown[row[0].strip()] = last
    return shown


def test_nothing_is_left_to_be_filled_in() -> None:
    assert not re.findall(r"@[A-Z]+@", TEXT)


def test_every_fault_that_a_test_makes_has_its_line() -> None:
    shown = failures()
    assert len(faults()) >= FEWEST_FAULTS
    for what, files in faults().items():
        assert what in shown, f"no line for {what!r} in docs/operations.md"
        assert any(f"`{file}`" in shown[what] for file in files), (what, files, shown[what])


def test_the_times_it_names_are_those_of_the_code() -> None:
    assert f"has found no room elsewhere within {DRAIN_START_S:.0f} s" in TEXT
    assert f"the longest request ({MAX_REQUEST_TIMEOUT_S:.0f})" in TEXT
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", TEXT, re.MULTILINE)
    assert int(stop_s) > node_drain_s({})


def _figure(pattern: str) -> float:
    (found,) = re.findall(pattern, TEXT)
    return float(found.replace(",", ""))


def test_the_capacity_is_what_the_measured_figures_make_of_it() -> None:
    node_mib = _figure(r"\| a node's [^|]*\| (\d+) MiB")
    request_ms = _figure(r"\| a request of 1 KB[^|]*\| ([\d.]+) ms;")
    haproxy_ms = _figure(r"\| a request of 1 KB[^|]*\| [\d.]+ ms; ([\d.]+) ms")
    check_ms = _figure(r"\| one of HAProxy's health checks: CPU of the replica \| ([\d.]+) ms")
    section = TEXT.partition("## Capacity on paper")[2]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")]
    table = {row[0].strip(): [cell.strip().replace(",", "") for cell in row[1:]] for row in rows}
    nodes = [int(cell) for cell in table["nodes"]]
    assert nodes == [10, 100, 1000]
    for column, count in enumerate(nodes):
        replicas = 4 * count
        row = {name: cells[column] for name, cells in table.items()}

        def near(prefix: str, value: float, row: dict[str, str] = row) -> None:
            (cell,) = [text for name, text in row.items() if name.startswith(prefix)]
            found = float(re.findall(r"[\d.]+", cell)[-1])
            assert abs(found - value) <= max(0.02 * value, 0.05), (prefix, cell, value)

        near("replicas", replicas)
        near("requests/s", 0.66 * replicas / request_ms * 1e3)
        near("cores for HAProxy", 0.66 * 4 / request_ms * haproxy_ms)
        near("memory of Ray's own", count * node_mib / 1024)
        near("the head asks for signs", count)
        near("Serve's controller checks replicas", replicas)
        near("health checks that each HAProxy makes", replicas / 5)
        near("… that each replica answers", count / 5 * check_ms / 1e3 * 100)


def test_the_unit_has_what_systemd_reads() -> None:
    (unit,) = re.findall(r"^```ini\n(.*?)^```", TEXT, re.M | re.S)
    assert {"[Unit]", "[Service]", "[Install]"} <= set(unit.splitlines())
    assert "KillMode=control-group" in unit
    for line in unit.splitlines():
        assert not line or re.match(r"[#\[]|\w+=", line), line


def test_its_configs_are_yaml() -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", TEXT, re.M | re.S):
        assert yaml.safe_load(block)
