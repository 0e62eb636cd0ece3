"""Authentication of clients, and the admission of their requests to a model or route by name.

    Authorization: Bearer KEY  or  x-api-key: KEY
        missing or unknown key → 401      key of other models → 403      quota exceeded → 429

    ApiKeys    in front of every process that answers: authenticates
    Door       in front of each application of Headrace: admits, by the name that it was built with

No name is taken from a URL: a model has one name, whatever its route prefix, and a router looks up
the route and then calls :func:`refusal_for`. A foreign application is admitted by its name.
Without API keys everything is open. Probes need no key. The cluster's router has admitted the
client already: a model accepts its requests by a random secret of the cluster.
"""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import orjson
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.config.clients import Client
from cluster.errors import ConfigError
from cluster.protocol.metadata import error_body
from deployments.http.headers import API_KEY, LENT_BODY, ROUTER_KEY
from deployments.http.keys import FILE_VARIABLE, Keys, configured
from deployments.http.quotas import Quotas
from deployments.ray.session import session_directory, shared_secret

_ROUTER_SECRET = b"headrace-router-key"
_LENT_BODY = LENT_BODY.encode()
_ADMISSION = "headrace.admission"
_QUOTAS = "headrace-quotas"

SERVE_PROBES = frozenset({"/-/healthz"})
"""Path of Serve, by which HAProxy finds replicas healthy."""

PROBES = SERVE_PROBES | {"/v2/health/live", "/v2/health/ready"}
"""Paths that need no key."""

_NAMED = re.compile(r"/v2/(?:models|shadow)/([^/]+)(?:/|$)")
_SERVER = re.compile(
    r"/v2/?$|/v2/models/?$|/v2/repository/index/?$|/v2/health/|/docs$|/openapi\.json$|/-/routes/?$"
)
"""Paths of the server itself in Serve's proxy."""

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that run no inference, and do not count against a quota."""


@dataclass(frozen=True)
class Refusal:
    """Answer to a request that is not admitted."""

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    async def send(self, send: Send) -> None:
        """Send the answer, as JSON."""
        body = orjson.dumps(error_body(self.message))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *((name.encode(), value.encode()) for name, value in self.headers.items()),
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True)
class Admission:
    """Authenticated request, before its admission to a model or route."""

    client: Client | None
    """None: the cluster's router, which has admitted the client."""

    quotas: Quotas
    method: str

    def refusal(self, name: str) -> Refusal | None:
        """Check the client's models and count a request for inference; None: admitted."""
        if self.client is None:
            return None
        if (refusal := self.foreign_to(name)) is not None:
            return refusal
        return None if self.method in _READING else self.over_quota()

    def foreign_to(self, name: str) -> Refusal | None:
        """Check the client's models alone; None: its key opens this one."""
        client = self.client
        if client is None or any(fnmatchcase(name, pattern) for pattern in client.models):
            return None
        return Refusal(403, f"the key of {client.name} gives no access to {name:.80}")

    def over_quota(self) -> Refusal | None:
        """Count a request; None: it is within the quota."""
        client = self.client
        if client is None or (wait_s := self.quotas.take(client)) == 0:
            return None
        return Refusal(
            429,
            f"{client.name} may send {client.requests_per_s:g} requests per second; retry after "
            f"{wait_s:.2f} s",
            {"retry-after": str(math.ceil(wait_s))},
        )


def refusal_for(scope: Scope, name: str) -> Refusal | None:
    """Admit a request to the route of that name; None: admitted, or the server has no keys."""
    admission: Admission | None = scope.get(_ADMISSION)
    return None if admission is None else admission.refusal(name)


def foreign_to(scope: Scope, name: str) -> Refusal | None:
    """Check alone whether the client's key opens that name; None: it does, or there are no keys."""
    admission: Admission | None = scope.get(_ADMISSION)
    return None if admission is None else admission.foreign_to(name)


class Authenticator:
    """Keys, quotas and router's secret of one process."""

    def __init__(self, keys: Keys, quotas: Quotas, router_key: str) -> None:
        self._keys = keys
        self._quotas = quotas
        self._router_key = router_key.encode()

    def authenticate(self, scope: Scope) -> Admission | Refusal:
        """Return the admission of an HTTP request by its key, or the refusal."""
        headers = Headers(scope=scope)
        secret = headers.get(ROUTER_KEY)
        if secret is not None and hmac.compare_digest(secret.encode(), self._router_key):
            return Admission(None, self._quotas, scope["method"])
        self._keys.refresh_soon()
        challenge = {"www-authenticate": "Bearer"}
        key = _key(headers)
        if key is None:
            message = "this server requires an API key; send it as Authorization: Bearer KEY"
            return Refusal(401, message, challenge)
        client = self._keys.find(key)
        if client is None:
            return Refusal(401, "unknown API key", challenge)
        return Admission(client, self._quotas, scope["method"])


def authenticator() -> Authenticator | None:
    """Return this process's authenticator; None if the environment has no API keys.

    Raises ConfigError if they cannot be read, so that no server opens without its keys.
    """
    keys = configured()
    if keys is None:
        return None
    return Authenticator(keys, Quotas(session_directory() / _QUOTAS), router_key())


Rule = Callable[[Scope, Admission], Refusal | None]
"""Admission of an authenticated request; None: admitted."""


class ApiKeys:
    """ASGI middleware that authenticates requests, and admits them by a rule."""

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        rule: Rule,
        *,
        probes: frozenset[str] = PROBES,
        hands_over: bool = True,
    ) -> None:
        """``probes``: paths that need no key. ``hands_over``: whether the application gets the
        admission; Serve's proxy cannot take it along to another process."""
        self._app = app
        self._authenticator = authenticator
        self._rule = rule
        self._probes = probes
        self._hands_over = hands_over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        if self._is_probe(scope):
            await self._app(scope, receive, send)
            return
        # A request through Serve's own proxy reaches the application without the middleware.
        admission = scope.get(_ADMISSION) or self._authenticator.authenticate(scope)
        if isinstance(admission, Refusal):
            await admission.send(send)
            return
        if (refusal := self._rule(scope, admission)) is not None:
            await refusal.send(send)
            return
        headers = scope["headers"]
        if admission.client is not None:  # only a router may name memory to read
            headers = [header for header in headers if header[0] != _LENT_BODY]
        admitted = {**scope, "headers": headers}
        if self._hands_over:
            admitted[_ADMISSION] = admission
        await self._app(admitted, receive, send)

    def _is_probe(self, scope: Scope) -> bool:
        path, root = scope["path"], scope.get("root_path", "")
        paths = {path, path.removeprefix(root)}  # ``http_options.root_path`` comes before Serve's
        return not paths.isdisjoint(self._probes) and scope["method"] in _READING


class _Doors:
    """Doors of this process: a replica without one runs a foreign application."""

    count = 0


def door(app: ASGIApp, name: str | None, has_keys: bool) -> ASGIApp:
    """Put a door in front of one application of Headrace, if the server has API keys.

    ``has_keys``: whether the server had keys where the application was built. ConfigError if this
    node has none, or the other way round: a server is not closed on some of its nodes.
    ``name``: the model's name, for all paths of the application. None: the application calls
    :func:`refusal_for` for each of its routes, and every client may use its other paths.
    """
    keys = authenticator()
    if (keys is not None) != has_keys:
        raise ConfigError(
            f"API keys: this node has {'some' if keys else 'none'}, the node that built the "
            f"application has {'some' if has_keys else 'none'}; set {FILE_VARIABLE} alike where "
            "`ray start` runs, on every node"
        )
    if keys is None:
        return app
    _Doors.count += 1
    return ApiKeys(app, keys, any_client if name is None else only(name))


def middleware(keys: Authenticator, application: str | None) -> Middleware:
    """Return the middleware of this process.

    ``application``: name of the replica's application; None in Serve's own proxy.
    """
    if application is None:
        return Middleware(ApiKeys, authenticator=keys, rule=in_proxy, hands_over=False)
    if _Doors.count:
        return Middleware(ApiKeys, authenticator=keys, rule=any_client)
    # Which of its methods compute is unknown, so each request counts.
    return Middleware(ApiKeys, authenticator=keys, rule=foreign(application), probes=SERVE_PROBES)


def any_client(scope: Scope, admission: Admission) -> None:
    """Admit every client."""


def only(name: str) -> Rule:
    """Admit clients whose key is for that name."""
    return lambda scope, admission: admission.refusal(name)


def foreign(application: str) -> Rule:
    """Admit clients whose key is for an application that is not ours, and count every request."""
    return lambda scope, admission: admission.foreign_to(application) or admission.over_quota()


def in_proxy(scope: Scope, admission: Admission) -> Refusal | None:
    """Admit a request in Serve's own proxy, which knows no application's name.

    To a model's or route's paths with a key for that name, and to the server's own; behind them a
    door counts. All other paths need a key for all, and count here.
    """
    if match := _NAMED.match(scope["path"]):
        return admission.foreign_to(match[1])
    if _SERVER.match(scope["path"]):
        return None
    if admission.client is not None and "*" not in admission.client.models:
        return Refusal(403, f"the key of {admission.client.name} gives no access to this path")
    return admission.over_quota()


def _key(headers: Headers) -> str | None:
    authorization = headers.get("authorization")
    if authorization is None:
        return headers.get(API_KEY)
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def router_key() -> str:
    """Return the cluster's secret by which models know a request of the router."""
    return shared_secret(_ROUTER_SECRET)
