"""Origins of web pages whose scripts may call the server (CORS)."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def _origin(value: str) -> str:
    if value in ("*", "null"):
        raise ValueError(
            f"{value!r} would let any page use the models; name each origin, such as "
            "https://app.example"
        )
    if not _ORIGIN.fullmatch(value):
        raise ValueError(
            "an origin is a scheme, a host and perhaps a port, in lower case and without a path or "
            "a slash at its end, such as https://app.example or http://localhost:3000"
        )
    default = _DEFAULT_PORTS.get(value.partition(":")[0])
    if default is not None and value.endswith(default):
        raise ValueError(f"browsers omit the default port; write {value.removesuffix(default)}")
    return value


Origin = Annotated[str, AfterValidator(_origin)]
"""Origin as browsers send it: scheme, host, and a port other than the scheme's own."""

CorsOrigins = Annotated[
    tuple[Origin, ...],
    Field(
        description="Origins of web pages whose scripts may send requests and read the answers, "
        "such as https://app.example. Empty: none; no CORS headers are sent."
    ),
]
