"""References, faults and numbers of docs/operations.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import yaml

from deployments.ray.time_limits import DRAIN_START_S, MAX_REQUEST_TIMEOUT_S, node_drain_s

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "operations.md").read_text()
FEWEST_FAULTS = 25


def test_named_tests_and_files_exist() -> None:
    named = set(re.findall(r"`((?:tests|deployments|k8s)/[\w./-]+)`", TEXT))
    assert len(named) > 10
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]
    linked = re.findall(r"\]\(([\w./]+\.md)\)", TEXT)
    assert not [name for name in linked if not (ROOT / "docs" / name).exists()]


def faults() -> dict[str, set[str]]:
    """Return fault → test files with its mark."""
    files: dict[str, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                (fault,) = node.args
                assert isinstance(fault, ast.Constant)
                files.setdefault(fault.value, set()).add(str(path.relative_to(ROOT)))
    return files


def failures() -> dict[str, str]:
    """Return first cell → test of the table of failures."""
    section = TEXT.partition("## What failures look like")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")]
    shown: dict[str, str] = {}
    last = ""
    for row in rows[2:]:
        cell = row[-1].strip()
        last = last if cell == "same" else cell
        shown[row[0].strip()] = last
    return shown


def test_manual_has_no_placeholders() -> None:
    assert not re.findall(r"@[A-Z]+@", TEXT)


def test_every_tested_fault_is_in_the_table() -> None:
    shown = failures()
    assert len(faults()) >= FEWEST_FAULTS
    for fault, files in faults().items():
        assert fault in shown, f"no line for {fault!r} in docs/operations.md"
        assert any(f"`{file}`" in shown[fault] for file in files), (fault, files, shown[fault])


def test_times_of_the_manual_equal_the_code() -> None:
    assert f"has found no room elsewhere within {DRAIN_START_S:.0f} s" in TEXT
    assert f"the longest request ({MAX_REQUEST_TIMEOUT_S:.0f})" in TEXT
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", TEXT, re.MULTILINE)
    assert int(stop_s) > node_drain_s({})


def _figure(pattern: str) -> float:
    (figure,) = re.findall(pattern, TEXT)
    return float(figure.replace(",", ""))


def test_capacity_table_follows_measured_figures() -> None:
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
            number = float(re.findall(r"[\d.]+", cell)[-1])
            assert abs(number - value) <= max(0.02 * value, 0.05), (prefix, cell, value)

        near("replicas", replicas)
        near("requests/s", 0.66 * replicas / request_ms * 1e3)
        near("cores for HAProxy", 0.66 * 4 / request_ms * haproxy_ms)
        near("memory of Ray's own", count * node_mib / 1024)
        near("the head asks for signs", count)
        near("Serve's controller checks replicas", replicas)
        near("health checks that each HAProxy makes", replicas / 5)
        near("… that each replica answers", count / 5 * check_ms / 1e3 * 100)


def test_systemd_unit_is_valid() -> None:
    (unit,) = re.findall(r"^```ini\n(.*?)^```", TEXT, re.M | re.S)
    assert {"[Unit]", "[Service]", "[Install]"} <= set(unit.splitlines())
    assert "KillMode=control-group" in unit
    for line in unit.splitlines():
        assert not line or re.match(r"[#\[]|\w+=", line), line


def test_configs_of_the_manual_are_yaml() -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", TEXT, re.M | re.S):
        assert yaml.safe_load(block)
