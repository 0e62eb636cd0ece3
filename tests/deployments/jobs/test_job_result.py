"""Result of a job: the same on both sides of a log, with the error's class."""

from __future__ import annotations

import pytest

from cluster import errors
from cluster.errors import (
    CompressionError,
    ConfigError,
    GateError,
    HeadraceError,
    LostProcessError,
    PlanError,
    SourceError,
)
from deployments.jobs import result
from deployments.jobs.result import JobResult, last_result, split_line

ID = "ab" * 32
RESULT = JobResult(0, ID)


class _LocalError(LostProcessError):
    """Error whose class only this file knows."""


def test_line_is_ascii_and_gives_the_artifact_back() -> None:
    line = JobResult.failed(SourceError("naïve\nsecond line")).to_line()
    assert line.isascii()
    assert "\n" not in line
    text, read = split_line(line)
    assert (text, str(read and read.error)) == ("", "naïve\nsecond line")
    assert split_line(RESULT.to_line()) == ("", RESULT)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("a"), 2),
        (PlanError("a"), 2),
        (SourceError("a"), 2),
        (CompressionError("a"), 1),
        (LostProcessError("a"), 1),
        (GateError("a", "/report"), 3),
    ],
)
def test_error_keeps_class_message_and_status(error: HeadraceError, status: int) -> None:
    read = JobResult.from_json(JobResult.failed(error).to_json())
    assert read.status == status
    assert type(read.error) is type(error)
    assert str(read.error) == "a"
    assert getattr(read.error, "report", "/report") == "/report"


def test_every_error_of_the_tree_keeps_its_class() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) > 15
    for kind in kinds:
        error = GateError("a", "b") if kind is GateError else kind("a")
        assert type(JobResult.from_json(JobResult.failed(error).to_json()).error) is kind


def test_unknown_class_becomes_its_known_base() -> None:
    read = JobResult.from_json(JobResult.failed(_LocalError("a")).to_json())
    assert type(read.error) is LostProcessError
    for kind in ("NewError", "annotations", "__name__"):  # of a later release, or of nobody
        text = JobResult.failed(SourceError("a")).to_json().replace("SourceError", kind)
        assert type(JobResult.from_json(text).error) is CompressionError


def test_result_is_found_after_unfinished_line() -> None:
    assert split_line(f"50%|████ {RESULT.to_line()}") == ("50%|████ ", RESULT)


@pytest.mark.parametrize(
    "line",
    [
        "",
        f"artifact {ID}",
        result._MARK + "{",
        result._MARK + "[]",
        result._MARK + '{"status": 0}',
        result._MARK + '{"status": "x", "artifact": null, "error": null}',
        result._MARK + '{"status": 1, "artifact": null, "error": {"kind": "SourceError"}}',
    ],
)
def test_other_line_is_no_result(line: str) -> None:
    assert split_line(line) == (line, None)


def test_last_result_of_a_log_counts() -> None:
    printed_before = JobResult(0, "cd" * 32).to_line()
    log = f"{printed_before}\ndata ok\n{RESULT.to_line()}\nafter\n{result._MARK}\n"
    assert last_result(log) == RESULT
    assert last_result("data ok\n") is None
