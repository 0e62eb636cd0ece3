"""Fuzzing of the parser of binary tensors: RequestError is its only error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="needs atheris, of the dev extra (Linux on x86-64)")

SCRIPT = Path(__file__).with_name("fuzzed_infer.py")
RUNS = 100_000
MAX_S = 15


def fuzz(corpus: Path, *options: str) -> subprocess.CompletedProcess[str]:
    corpus.mkdir()
    return subprocess.run(
        [
            sys.executable,
            SCRIPT,
            corpus,
            f"-runs={RUNS}",
            f"-max_total_time={MAX_S}",
            "-max_len=1024",
            "-seed=6",
            "-timeout=5",
            # The kernel counts the largest memory of this process as that of its child.
            "-rss_limit_mb=0",
            f"-artifact_prefix={corpus.parent}/",
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_fuzzed_bodies_raise_request_error_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = fuzz(tmp_path / "corpus")
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    runs = re.search(r"Done (\d+) runs in (\d+) second", process.stderr)
    assert runs is not None, process.stderr[-3000:]
    assert int(runs[1]) >= 1000
    covered = [int(count) for count in re.findall(r" cov: (\d+) ", process.stderr)]
    assert covered[-1] > covered[0]  # coverage grows during the run
    with capsys.disabled():
        print(f"\natheris: {runs[1]} bodies in {runs[2]} s, no crash", end="")
