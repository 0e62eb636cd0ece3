"""Who may come in: a middleware of every replica, behind the request guard.

    Authorization: Bearer KEY  or  x-api-key: KEY
        no key, or none that is known → 401      not for this model → 403      too often → 429

The keys stand in the YAML file that ``HEADRACE_API_KEYS_FILE`` names, or themselves, as the same
YAML, in ``HEADRACE_API_KEYS``; with neither, everybody may ask everything. No error shows any of
that text: errors come into logs, and into Serve's status. Health checks need no key. A router is
let in to the models by a random key that the processes of the cluster share.
"""

from __future__ import annotations

import hmac
import logging
import math
import os
import re
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path

import orjson
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.config.base import load, parse
from cluster.config.clients import Client, Clients
from cluster.config.guarded_files import require_absolute, require_file
from cluster.config.plain_yaml import parse_yaml
from cluster.errors import ConfigError
from cluster.protocol.metadata import error_body
from deployments.http.headers import API_KEY, LENT_BODY, ROUTER_KEY
from deployments.http.quotas import Quotas
from deployments.ray.session import session_directory, shared_secret

logger = logging.getLogger("ray.serve")

FILE_VARIABLE = "HEADRACE_API_KEYS_FILE"
VARIABLE = "HEADRACE_API_KEYS"

_ROUTER_KEY = b"headrace-router-key"

_LENT_BODY = LENT_BODY.encode()

LOOK_AGAIN_S = 1.0
"""How often the file is looked at for another modification time."""

_MODEL = re.compile(r"/v2/(?:models|shadow)/([^/]+)")
_INFERENCE = re.compile(r"/v2/models/[^/]+(?:/versions/[^/]+)?/(?:infer|predict)/?$")
_OPEN = re.compile(r"/v2/health/(?:live|ready)$|/-/healthz$")
"""Paths without a key: probes, and Serve's own, by which HAProxy finds replicas healthy."""


class Keys:
    """The clients as they stand in the file, or the environment, now."""

    def __init__(self, read: Callable[[], Clients], modified: Callable[[], float]) -> None:
        self._read = read
        self._modified = modified
        self._looked = time.monotonic()
        self._version = modified()
        self._said = ""
        self._set(read())

    def _set(self, clients: Clients) -> None:
        self._clients = clients.clients

    def refresh(self) -> None:
        """Read a changed file again; one that cannot be read leaves the keys as they are."""
        now = time.monotonic()
        if now - self._looked < LOOK_AGAIN_S:
            return
        self._looked = now
        try:
            version = self._modified()
            if version != self._version:
                self._set(self._read())
                self._version = version
            self._said = ""
        except ConfigError as error:
            if self._said != str(error):  # once, and not every second until it is mended
                self._said = str(error)
                logger.error("the API keys stay as they were: %s", error)

    def find(self, key: str) -> Client | None:
        """Whose key that is. Takes as long for every key of a length, known or not."""
        digest = sha256(key.encode()).digest()
        found = None
        for client in self._clients:
            if hmac.compare_digest(client.digest, digest):
                found = client
        return found


def configured() -> Keys | None:
    """The keys that the environment asks for; None if it asks for none.

    ConfigError if they cannot be read: a server that should be closed does not open.
    """
    path, text = os.environ.get(FILE_VARIABLE), os.environ.get(VARIABLE)
    if path and text:
        raise ConfigError(f"{FILE_VARIABLE} and {VARIABLE} are both set; unset one of them")
    if path:
        file, what = Path(path), f"{FILE_VARIABLE}={path}"
        require_absolute(file, FILE_VARIABLE)
        return Keys(lambda: load(file, Clients, secret=True), lambda: _modified(file, what))
    if text:
        return Keys(lambda: _parsed(text), lambda: 0.0)
    return None


def _modified(file: Path, what: str) -> float:
    require_file(file, what)
    try:
        return file.stat().st_mtime
    except OSError as error:
        raise ConfigError(f"{what}: cannot be read: {error.strerror}") from None


def _parsed(text: str) -> Clients:
    return parse(parse_yaml(text, VARIABLE, secret=True), Clients, VARIABLE)


class ApiKeys:
    """ASGI middleware; see the top of this file."""

    def __init__(self, app: ASGIApp, keys: Keys, quotas: Quotas, router_key: str) -> None:
        self._app = app
        self._keys = keys
        self._quotas = quotas
        self._router_key = router_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _OPEN.match(scope["path"]):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        if self._from_router(scope):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            # Only a router has memory that a replica may read.
            headers = [each for each in scope["headers"] if each[0] != _LENT_BODY]
            await self._app({**scope, "headers": headers}, receive, send)
            return
        status, said, header = refusal
        body = orjson.dumps(error_body(said))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *((name.encode(), value.encode()) for name, value in header.items()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _from_router(self, scope: Scope) -> bool:
        given = Headers(scope=scope).get(ROUTER_KEY)
        return given is not None and hmac.compare_digest(given.encode(), self._router_key)

    def _refusal(self, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        """Status, sentence and headers of the answer to one who may not; None for one who may."""
        self._keys.refresh()
        key = _key(Headers(scope=scope))
        if key is None:
            said = "this server asks for a key: send it as Authorization: Bearer KEY"
            return 401, said, {"www-authenticate": "Bearer"}
        client = self._keys.find(key)
        if client is None:
            return 401, "no client has this key", {"www-authenticate": "Bearer"}
        model = _MODEL.match(scope["path"])
        if model and not any(fnmatchcase(model[1], pattern) for pattern in client.models):
            return 403, f"the key of {client.name} is not for {model[1]:.80}", {}
        if scope["method"] == "POST" and _INFERENCE.match(scope["path"]):
            wait_s = self._quotas.take(client)
            if wait_s > 0:
                said = (
                    f"{client.name} may ask {client.requests_per_s:g} times per second; try again "
                    f"in {wait_s:.2f} s"
                )
                return 429, said, {"retry-after": str(math.ceil(wait_s))}
        return None


def _key(headers: Headers) -> str | None:
    given = headers.get("authorization")
    if given is not None:
        kind, _, key = given.partition(" ")
        return key.strip() if kind.lower() == "bearer" and key.strip() else None
    return headers.get(API_KEY)


def router_key() -> str:
    """Return the cluster's secret by which models know a request of the router."""
    return shared_secret(_ROUTER_KEY)


def quota_directory() -> Path:
    """Return the directory of the quotas of this node's replicas, removed with Ray's session."""
    return session_directory() / "headrace-quotas"
