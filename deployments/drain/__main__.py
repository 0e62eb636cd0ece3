"""``python -m deployments.drain``: attempts until one has an end, or the time is over.

A process of Ray's that cannot reach the head waits for ever, or is ended by Ray. So each attempt is
a process of its own, and one that heard nothing from the head is followed by another.
"""

from __future__ import annotations

import subprocess
import sys
import time

from cluster.errors import ConfigError
from deployments.drain.attempt import DONE, ENDED
from deployments.ray.time_limits import node_drain_s

_RETRY_S = 1.0
_MARGIN_S = 5.0  # in which an attempt says what is left


def main() -> int:
    """Drain this node; the exit status: 0, or 1 with the reason said."""
    try:
        deadline_s = node_drain_s()
    except ConfigError as error:
        print(f"nothing is drained: {error}", file=sys.stderr)
        return 1
    started = time.monotonic()
    while (left_s := started + deadline_s - time.monotonic()) > _RETRY_S:
        command = [sys.executable, "-P", "-m", "deployments.drain.attempt", str(left_s)]
        try:
            done = subprocess.run(command, timeout=left_s + _MARGIN_S, check=False)
        except subprocess.TimeoutExpired:
            break
        if done.returncode in (DONE, ENDED):
            return int(done.returncode == ENDED)
        time.sleep(_RETRY_S)  # the head is away, and may come back
    print(f"given up after {deadline_s:.0f} s; what is still here ends with it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
