"""Error that ends a benchmark with a message instead of a traceback."""

from __future__ import annotations


class BenchmarkError(Exception):
    """Missing requirement or failed server; the message says what to change."""
