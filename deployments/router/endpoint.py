"""One request of a route: body → items → the route's node → answer body.

200  outputs; of a partial answer also who is missing, in `parameters`
4xx  what is wrong with the request, as a model would say it
502, 503, 504  {"error": ..., "branches": [...]}: who was asked, and why that was not enough
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response

from cluster.config.serving import Limits
from cluster.errors import RequestError
from cluster.protocol.answer import encode_infer
from cluster.protocol.infer import HEADER_LENGTH, InferRequest, decode_infer, parse_header_length
from cluster.protocol.metadata import error_body
from cluster.routing.answer_cache import content_key
from cluster.routing.deadline import own_deadline
from deployments.http import tracing
from deployments.http.body import read_body
from deployments.http.deadline import DEADLINE, Deadline
from deployments.http.errors import RETRY_AFTER_S, json_response
from deployments.http.headers import PRIORITY, REQUEST_ID, SERVER_TIMING, TRACE_CONTEXT
from deployments.http.request import priority_of, require_tensors
from deployments.http.server_timing import server_timing
from deployments.ray.time_limits import MAX_REQUEST_TIMEOUT_S
from deployments.router.call import Call, Items, NoAnswerError, Reply, Report
from deployments.router.nodes.build import RouteNode
from deployments.router.replica_table import Replicas

FORWARDED = (PRIORITY, *TRACE_CONTEXT)
"""Headers of a request that its branches get as they are."""

_ID_LENGTH = 128
_UNPRINTABLE = re.compile(r"[^ -~]")


@dataclass(frozen=True)
class RouteEndpoint:
    """What answering for a route needs."""

    served: RouteNode
    limits: Limits
    replicas: Replicas
    version: str
    own_headers: Mapping[str, str]
    """What the router itself adds for the models."""

    async def infer(self, request: Request) -> Response:
        """See the top of this file."""
        started = time.monotonic()
        require_tensors(request)
        priority_of(request)  # refused here rather than by every model
        contract = self.served.node.contract
        body = await read_body(request, self.limits.body_bytes)
        header_length = parse_header_length(request.headers.get(HEADER_LENGTH))
        decoded = decode_infer(
            body, header_length, contract.inputs, contract.outputs, self.limits.json_bytes
        )
        if contract.max_items is not None and decoded.batch > contract.max_items:
            raise RequestError(
                f"the request holds {decoded.batch} items, this route takes at most "
                f"{contract.max_items} in one request; split it"
            )
        timing = {"ingress": (time.monotonic() - started) * 1e3}
        tracing.phases(timing)
        call = self._call(request, decoded, started)
        try:
            reply = await self._answer(Items(decoded.arrays), call)
        except NoAnswerError as error:
            return self._refused(error, started)
        response = self._response(decoded, reply, timing, started)
        outcome = "partial" if reply.partial else "cached" if "cached" in reply.facts else "ok"
        self.served.metrics.answered(outcome, time.monotonic() - started, reply.reports)
        return response

    def _call(self, request: Request, decoded: InferRequest, started: float) -> Call:
        given = request.scope.get(DEADLINE) or Deadline(started + MAX_REQUEST_TIMEOUT_S)
        given.kept_by_application = True  # what has come by then is the answer
        headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}
        request_id = decoded.id or request.headers.get(REQUEST_ID) or uuid.uuid4().hex
        return Call(
            deadline=own_deadline(started, given.at, self.served.route.timeout_s),
            # It becomes a header, in which not everything may stand that JSON holds.
            request_id=_UNPRINTABLE.sub("_", request_id[:_ID_LENGTH]),
            headers={**headers, **self.own_headers},
        )

    async def _answer(self, items: Items, call: Call) -> Reply:
        answers = self.served.answers
        if answers is None:
            return await self.served.node.answer(items, call)
        key = content_key(items.arrays)
        kept = answers.get(self.replicas.generation, key)
        self.served.metrics.cache(kept is not None, answers.bytes)
        if kept is not None:
            return Reply(kept, facts={"cached": True})
        generation = self.replicas.generation
        reply = await self.served.node.answer(items, call)
        if not reply.partial:
            answers.put(generation, key, reply.outputs)
        return reply

    def _response(
        self, decoded: InferRequest, reply: Reply, timing: Mapping[str, float], started: float
    ) -> Response:
        if reply.missing:
            there = tuple(each for each in decoded.outputs if each.name not in reply.missing)
            decoded = replace(decoded, outputs=there)
        parameters = dict(reply.facts)
        if reply.partial:
            parameters["partial"] = True
            for report in reply.reports:
                parameters |= _described(report)
        encoded = encode_infer(
            self.served.route.name, self.version, decoded, reply.outputs,
            self.served.node.contract.outputs, parameters,
        )  # fmt: skip
        spans = {**timing, **_spans(reply.reports), **reply.timing}
        spans["total"] = (time.monotonic() - started) * 1e3
        return Response(
            encoded.body, headers={**encoded.headers, SERVER_TIMING: server_timing(spans)}
        )

    def _refused(self, error: NoAnswerError, started: float) -> Response:
        status = error.http_status
        outcome = "rejected" if status < 500 else "late" if status == 504 else "failed"
        self.served.metrics.answered(outcome, time.monotonic() - started, error.reports)
        said = {**error_body(str(error)), "branches": [each.plain() for each in error.reports]}
        response = json_response(said if error.reports else error_body(str(error)), status)
        if status == 503:
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response


def _described(report: Report) -> dict[str, str | float | bool]:
    """A branch in flat parameters, the only ones that the protocol knows."""
    said: dict[str, str | float | bool] = {
        f"branch.{report.name}.outcome": report.ended.value,
        f"branch.{report.name}.ms": round(report.ms, 3),
    }
    if report.reason is not None:
        said[f"branch.{report.name}.reason"] = report.reason
    return said


def _spans(reports: Sequence[Report], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for report in reports:
        name = f"{prefix}{report.name}"
        found[name] = report.ms
        found |= {f"{name}.{part}": ms for part, ms in report.timing.items()}
        found |= _spans(report.below, f"{name}.")
    return found
