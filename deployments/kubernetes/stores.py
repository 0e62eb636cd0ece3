"""Whether pods would find the artifact store that a URI names."""

from __future__ import annotations

import re

import fsspec

from cluster.errors import ConfigError

_URI = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://[^/\s]+(/\S*)?")
_HERE_ALONE = ("file", "local", "memory")
"""What fsspec keeps on the machine, or in the process, that asks for it."""


def require_reachable(uri: str) -> None:
    """ConfigError if the URI is none, or of a place that exists on this machine alone."""
    match = _URI.fullmatch(uri)
    scheme = uri.partition("://")[0]
    if scheme in _HERE_ALONE:
        raise ConfigError(
            f"--store {uri}: pods have no {scheme}:// of this machine's; give a bucket (s3://..., "
            "gs://...), or the directory itself, and replicas read from the claim"
        )
    if match is None or scheme not in fsspec.available_protocols():
        raise ConfigError(
            f"--store {uri!r}: no bucket is named so; give s3://BUCKET/PATH, gs://BUCKET/PATH, or "
            "another URI that fsspec knows"
        )
