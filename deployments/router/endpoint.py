"""One request of a route: body → items → the route's node → answer body.

200  outputs; a partial answer also reports its branches, in `parameters`
4xx  an invalid request, with the messages of a model
502, 503, 504  {"error": ..., "branches": [...]}: outcome and reason of every target
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cluster.config.serving import Limits
from cluster.errors import RequestError
from cluster.protocol.answer import encode_infer
from cluster.protocol.binary_tensor import HEADER_LENGTH
from cluster.protocol.infer import InferRequest, decode_infer, parse_header_length
from cluster.protocol.metadata import error_body
from cluster.routing.answer_cache import content_key
from cluster.routing.deadline import route_deadline
from deployments.http import tracing
from deployments.http.body import read_body
from deployments.http.deadline import DEADLINE_KEY, Deadline
from deployments.http.errors import RETRY_AFTER_S, json_response
from deployments.http.headers import PRIORITY, REQUEST_ID, SERVER_TIMING, TRACE_CONTEXT
from deployments.http.request import priority_of, require_tensors
from deployments.http.server_timing import server_timing
from deployments.ray.time_limits import MAX_REQUEST_TIMEOUT_S
from deployments.router.call import Call, Items, NoAnswerError, Reply, Report
from deployments.router.nodes.build import RouteNode
from deployments.router.replica_table import Replicas

FORWARDED = (PRIORITY, *TRACE_CONTEXT)
"""Headers of a request that are forwarded to its branches."""

_ID_LENGTH = 128
_UNPRINTABLE = re.compile(r"[^ -~]")


@dataclass(frozen=True)
class RouteEndpoint:
    """Endpoint of a route: decodes the request, asks the route's node, encodes the reply."""

    served: RouteNode
    limits: Limits
    replicas: Replicas
    version: str
    router_headers: Mapping[str, str]
    """Headers that the router adds for the models."""

    async def infer(self, request: Request) -> Response:
        """Answer one inference request: see the module's docstring."""
        started = time.monotonic()
        require_tensors(request)
        priority_of(request)  # an invalid one is rejected here rather than by every model
        contract = self.served.node.contract
        body = await read_body(request, self.limits.body_bytes)
        header_length = parse_header_length(request.headers.get(HEADER_LENGTH))
        decoded = decode_infer(
            body, header_length, contract.inputs, contract.outputs, self.limits.json_bytes
        )
        if contract.max_items is not None and decoded.batch > contract.max_items:
            raise RequestError(
                f"the request holds {decoded.batch} items, this route takes at most "
                f"{contract.max_items} in one request; split the request"
            )
        decoded_at = time.monotonic()
        timing = {"ingress": (decoded_at - started) * 1e3}
        tracing.phases(timing)
        call = self._call(request, decoded, started)
        try:
            reply = await self._answer(Items(decoded.arrays), call)
        except NoAnswerError as error:
            return self._error_response(error, started)
        replied_at = time.monotonic()
        response = self._response(decoded, reply, timing, started)
        ended_at = time.monotonic()
        outcome = "partial" if reply.partial else "cached" if "cached" in reply.facts else "ok"
        self.served.metrics.answered(outcome, ended_at - started, reply.reports)
        if outcome == "cached":
            self.served.metrics.statistics.cached(ended_at - started)
        else:
            self.served.metrics.statistics.answered(
                decoded.batch,
                queue_s=0,
                input_s=decoded_at - started,
                infer_s=replied_at - decoded_at,
                output_s=ended_at - replied_at,
            )
            self.served.metrics.statistics.executed(decoded.batch, replied_at - decoded_at)
        return response

    def _call(self, request: Request, decoded: InferRequest, started: float) -> Call:
        deadline = request.scope.get(DEADLINE_KEY) or Deadline(started + MAX_REQUEST_TIMEOUT_S)
        # The route itself answers at the deadline, with the replies that it has by then.
        deadline.enforced_by_application = True
        headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}
        request_id = decoded.id or request.headers.get(REQUEST_ID) or uuid.uuid4().hex
        return Call(
            deadline=route_deadline(started, deadline.at, self.served.route.timeout_s),
            # The id comes from JSON and becomes a header, which allows fewer characters.
            request_id=_UNPRINTABLE.sub("_", request_id[:_ID_LENGTH]),
            headers={**headers, **self.router_headers},
        )

    async def _answer(self, items: Items, call: Call) -> Reply:
        answers = self.served.answers
        if answers is None:
            return await self.served.node.answer(items, call)
        started = time.monotonic()
        key = content_key(items.arrays)
        cached = answers.get(self.replicas.generation, key)
        self.served.metrics.cache(cached is not None, answers.bytes)
        if cached is not None:
            return Reply(cached, facts={"cached": True})
        self.served.metrics.statistics.missed(time.monotonic() - started)
        generation = self.replicas.generation
        reply = await self.served.node.answer(items, call)
        if not reply.partial:
            answers.put(generation, key, reply.outputs)
        return reply

    def _response(
        self, decoded: InferRequest, reply: Reply, timing: Mapping[str, float], started: float
    ) -> Response:
        if reply.missing:
            answered = tuple(
                output for output in decoded.outputs if output.name not in reply.missing
            )
            decoded = replace(decoded, outputs=answered)
        parameters = dict(reply.facts)
        if reply.partial:
            parameters["partial"] = True
            for report in reply.reports:
                parameters |= _flat_parameters(report)
        encoded = encode_infer(
            self.served.route.name,
            self.version,
            decoded,
            reply.outputs,
            self.served.node.contract.outputs,
            parameters,
            self.served.node.contract.labels,
        )
        spans = {**timing, **_spans(reply.reports), **reply.timing}
        spans["total"] = (time.monotonic() - started) * 1e3
        return Response(
            encoded.body, headers={**encoded.headers, SERVER_TIMING: server_timing(spans)}
        )

    def _error_response(self, error: NoAnswerError, started: float) -> Response:
        status = error.http_status
        outcome = "rejected" if status < 500 else "late" if status == 504 else "failed"
        self.served.metrics.answered(outcome, time.monotonic() - started, error.reports)
        body: dict[str, Any] = error_body(str(error))
        if error.reports:
            body = {**body, "branches": [report.plain() for report in error.reports]}
        response = json_response(body, status)
        if status == 503:
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response


def _flat_parameters(report: Report) -> dict[str, str | float | bool]:
    """Return a report as flat parameters: the protocol knows no nested ones."""
    parameters: dict[str, str | float | bool] = {
        f"branch.{report.name}.outcome": report.outcome.value,
        f"branch.{report.name}.ms": round(report.ms, 3),
    }
    if report.reason is not None:
        parameters[f"branch.{report.name}.reason"] = report.reason
    return parameters


def _spans(reports: Sequence[Report], prefix: str = "") -> dict[str, float]:
    spans: dict[str, float] = {}
    for report in reports:
        name = f"{prefix}{report.name}"
        spans[name] = report.ms
        spans |= {f"{name}.{part}": ms for part, ms in report.timing.items()}
        spans |= _spans(report.branches, f"{name}.")
    return spans
