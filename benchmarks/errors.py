"""What ends a benchmark with a message instead of a traceback."""

from __future__ import annotations


class BenchmarkError(Exception):
    """Something needed is missing, or a contender failed; the message says what to do."""
