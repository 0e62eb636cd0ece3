"""``python -P -m deployments.drain``: attempts until one is final, or the deadline passes.

A Ray process that cannot reach the head waits forever, or Ray ends it. So each attempt is a
process, and after an attempt that did not reach the head another one starts.
"""

from __future__ import annotations

import subprocess
import sys
import time

from cluster.errors import ConfigError
from deployments.drain.attempt import DONE, FAILED
from deployments.ray.time_limits import node_drain_s

_RETRY_S = 1.0
_MARGIN_S = 5.0  # for an attempt to report the remaining replicas


def main() -> int:
    """Drain this node; return the exit status: 0, or 1 with the reason on stderr."""
    try:
        deadline_s = node_drain_s()
    except ConfigError as error:
        print(f"the node is not drained: {error}", file=sys.stderr)
        return 1
    started = time.monotonic()
    while (remaining_s := started + deadline_s - time.monotonic()) > _RETRY_S:
        command = [sys.executable, "-P", "-m", "deployments.drain.attempt", str(remaining_s)]
        try:
            done = subprocess.run(command, timeout=remaining_s + _MARGIN_S, check=False)
        except subprocess.TimeoutExpired:
            break
        if done.returncode in (DONE, FAILED):
            return int(done.returncode == FAILED)
        time.sleep(_RETRY_S)  # the head may be available again
    print(
        f"the node is not drained after {deadline_s:.0f} s; its remaining replicas end with it",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
