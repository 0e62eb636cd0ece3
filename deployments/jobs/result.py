"""Result of a compression job, and its two forms as JSON: a line of the log, and a file.

job (any node) ─ line ─→ job's log ─→ headrace compress: hides the line ─ file ─→ headrace.compress

The log is all that comes back from a remote cluster. The line begins with a mark, so it is found
behind the unfinished line of another writer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

from cluster import errors
from cluster.errors import (
    CompressionError,
    ConfigError,
    GateError,
    HeadraceError,
    PlanError,
    SourceError,
)

ACCEPTED, FAILED, WRONG, REJECTED = 0, 1, 2, 3
"""Exit statuses of the job, and of the commands of ``headrace``."""

_MARK = "headrace-result "


def exit_status(error: HeadraceError) -> int:
    """Return the exit status of a process that an error has ended."""
    if isinstance(error, GateError):
        return REJECTED
    return WRONG if isinstance(error, ConfigError | PlanError | SourceError) else FAILED


@dataclass(frozen=True)
class JobResult:
    """Outcome of a job: its exit status, and the artifact's id or the error.

    A job that was killed has neither; nor has one of a release without this line.
    """

    status: int
    artifact: str | None = None
    error: HeadraceError | None = None

    @classmethod
    def failed(cls, error: HeadraceError) -> Self:
        """Return the result of a job, or of its submission, that ended with this error."""
        return cls(exit_status(error), error=error)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the result that :meth:`to_json` has written; ValueError for any other text."""
        try:
            fields = json.loads(text)
            error = None if fields["error"] is None else _error(**fields["error"])
            return cls(int(fields["status"]), fields["artifact"], error)
        except (LookupError, TypeError) as wrong:
            raise ValueError(f"not the result of a job: {text[:200]!r}") from wrong

    def to_json(self) -> str:
        """Return the result as one line of ASCII."""
        error = None if self.error is None else _fields(self.error)
        return json.dumps({"status": self.status, "artifact": self.artifact, "error": error})

    def to_line(self) -> str:
        """Return the line of the job's log."""
        return _MARK + self.to_json()


def split_line(line: str) -> tuple[str, JobResult | None]:
    """Return a log line without its result, and the result; None for a line without one."""
    text, mark, end = line.rpartition(_MARK)
    if mark:
        try:
            return text, JobResult.from_json(end)
        except ValueError:
            pass  # a line of another program
    return line, None


def last_result(log: str) -> JobResult | None:
    """Return the last result in a whole log; None for a log without one."""
    results = (split_line(line)[1] for line in reversed(log.splitlines()))
    return next((result for result in results if result is not None), None)


def _fields(error: HeadraceError) -> dict[str, str]:
    """Return an error as data; a class that `cluster.errors` lacks becomes its base there."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__]
    fields = {"kind": kinds[0], "message": str(error)}
    return fields | {"report": error.report} if isinstance(error, GateError) else fields


def _error(kind: str, message: str, report: str = "") -> HeadraceError:
    """Return the error of that data; a class that is unknown here becomes CompressionError."""
    known = getattr(errors, kind, None)
    if known is GateError:
        return GateError(message, report)
    if not (isinstance(known, type) and issubclass(known, HeadraceError)):
        known = CompressionError
    return known(message)
