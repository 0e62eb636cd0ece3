"""atheris on the parser of binary tensors: it refuses with RequestError, or not at all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="needs atheris, of the dev extra (Linux on x86-64)")

SCRIPT = Path(__file__).with_name("fuzzed_infer.py")
RUNS = 100_000
MOST_S = 15


def fuzz(corpus: Path, *options: str) -> subprocess.CompletedProcess[str]:
    corpus.mkdir()
    return subprocess.run(
        [
            sys.executable,
            SCRIPT,
            corpus,
            f"-runs={RUNS}",
            f"-max_total_time={MOST_S}",
            "-max_len=1024",
            "-seed=6",
            "-timeout=5",
            f"-artifact_prefix={corpus.parent}/",
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_no_body_raises_anything_but_a_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = fuzz(tmp_path / "corpus")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs = re.search(r"Done (\d+) runs in (\d+) second", done.stderr)
    assert runs is not None, done.stderr[-3000:]
    assert int(runs[1]) >= 1000
    covered = [int(found) for found in re.findall(r" cov: (\d+) ", done.stderr)]
    assert covered[-1] > covered[0]  # it learned its way into the parser
    with capsys.disabled():
        print(f"\natheris: {runs[1]} bodies in {runs[2]} s, no crash", end="")
