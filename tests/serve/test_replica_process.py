"""Process of a replica: small, ready soon, and measured permanently."""

from __future__ import annotations

import os
import re
import time
from datetime import datetime
from pathlib import Path

import pytest
from prometheus import Metrics, wait_for

_READY = re.compile(
    r"(\S+ \S+),(\d{3}) .* model tiny: artifact .* (?:native|openvino) runner, ready in (\S+) s"
)


def test_replica_has_neither_python_torch_nor_a_compiler(served) -> None:
    pid = served.replica_pid("tiny")
    mapped = Path(f"/proc/{pid}/maps").read_text()
    runtime = {"aoti": "libtorch_cpu.so", "openvino": "libopenvino.so"}
    assert runtime[served.artifact.manifest.fastest["cpu-x86"]] in mapped
    assert "libtorch_python.so" not in mapped
    children = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue  # ended meanwhile
        if f"\nPPid:\t{pid}\n" in text:
            children.append(text.splitlines()[0])
    assert children == []


def test_replica_is_ready_soon_after_its_start(served, capsys: pytest.CaptureFixture[str]) -> None:
    (log,) = (served.cluster.record.ray_dir / "session_latest/logs/serve").glob("replica_tiny_*")
    match = _READY.search(log.read_text())
    assert match is not None, "the log has no line with the time of readiness"
    ready_at = datetime.fromisoformat(f"{match[1]}.{match[2]}").timestamp()
    after_s = ready_at - _started_at(served.replica_pid("tiny"))
    with capsys.disabled():
        print(
            f"\n  replica ready {after_s:.1f} s after its process started, "
            f"{match[3]} s of it for the model"
        )
    # 2 to 3 s on an idle machine; here three models start at once, on cores that may be busy.
    assert 0 < after_s < 60


def test_every_measurement_stays_exported(served) -> None:
    def complete(metrics: Metrics) -> bool:
        names = {name for name, _ in metrics}
        times = ("queue_wait_ms", "preprocess_ms", "compute_ms", "encode_ms", "batch_size")
        return {f"ray_headrace_{name}_count" for name in times} < names and (
            "ray_headrace_model_load_s",
            "",
        ) in metrics

    served.assert_answers()
    metrics = wait_for(served, complete)
    assert 0 < metrics["ray_headrace_model_load_s", ""] < 60
    # Ray drops a gauge after two exports unless it is set again.
    time.sleep(max(0.0, served.started_at + 32 - time.monotonic()))
    wait_for(served, complete)


def _started_at(pid: int) -> float:
    """Return the start of a process, in seconds since 1970."""
    # The name, field 2, may hold spaces; the fields after its bracket start at 3.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - uptime_s + int(fields[19]) / os.sysconf("SC_CLK_TCK")
