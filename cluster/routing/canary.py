"""Canary: the verdict on a new version, from the outcomes of its requests.

outcomes → Judge → verdict: the reason to return to the old version, or None
"""

from __future__ import annotations

from collections import deque


class Judge:
    """Judge of the last ``window`` outcomes of the new version; its first verdict is final."""

    def __init__(
        self, max_error_rate: float, max_disagreement: float | None, window: int, min_requests: int
    ) -> None:
        self._max_error_rate = max_error_rate
        self._max_disagreement = max_disagreement
        self._min_requests = min_requests
        self._failed: deque[bool] = deque(maxlen=window)
        self._compared: deque[tuple[int, int]] = deque(maxlen=window)
        self.verdict: str | None = None
        """Reason that the new version is disabled; None while it is enabled."""

    def answered(self, ok: bool) -> None:
        """Record whether the new version answered a request."""
        self._failed.append(not ok)
        count, failures = len(self._failed), sum(self._failed)
        if count >= self._min_requests and failures > self._max_error_rate * count:
            self._disable(
                f"{failures} of its last {count} requests failed, more than the share of "
                f"{self._max_error_rate:g} that max_error_rate allows"
            )

    def compared(self, items: int, differing: int) -> None:
        """Record a request that both versions answered: its items, and how many labels differ."""
        if self._max_disagreement is None:
            return
        self._compared.append((items, differing))
        total = sum(items for items, _ in self._compared)
        other = sum(differing for _, differing in self._compared)
        if len(self._compared) >= self._min_requests and other > self._max_disagreement * total:
            self._disable(
                f"it answered {other} of the last {total} items with another label than the old "
                "version, "
                f"more than the share of {self._max_disagreement:g} that max_disagreement allows"
            )

    def _disable(self, reason: str) -> None:
        self.verdict = self.verdict or reason
