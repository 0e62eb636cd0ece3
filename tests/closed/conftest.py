"""Cluster that requires API keys and exports its spans to an OpenTelemetry collector."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from client_keys import CLIENTS
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support import cluster, serve_config
from support.wait import WITHIN_S

from deployments.http.keys import FILE_VARIABLE
from deployments.local import LocalCluster

ROUTES: list[dict[str, Any]] = [
    {"name": "mean", "kind": "ensemble", "targets": ["one", "cut"]},
    {"name": "nested", "kind": "cascade", "targets": ["one", "mean"], "thresholds": 1.0},
    {"name": "watched", "kind": "shadow", "target": "one", "shadow": "cut"},
]


TRACING = {
    "enabled": True,
    "exporter_import_path": "deployments.http.tracing:otlp",
    "sampling_ratio": 0.0,  # clients request sampling for single traces
}


def _name(span: Span) -> str:
    if not span.name.startswith("replica_handle_request"):
        return span.name
    return f"replica {next(a.value.string_value for a in span.attributes if a.key == 'app')}"


@dataclass
class Collector:
    """Spans that a collector received over OTLP in HTTP."""

    spans: list[Span] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def of(self, trace_id: str, enough: set[str], within_s: float = 30) -> dict[str, list[Span]]:
        """Return the spans of a trace by name, once there is one of each name in ``enough``.

        Serve's span of a replica is named ``"replica APPLICATION"``. Each process exports on its
        own schedule: a test lists every span that it checks in ``enough``.
        """

        def received() -> dict[str, list[Span]]:
            by_name: dict[str, list[Span]] = {}
            for span in self.spans:
                if span.trace_id.hex() == trace_id:
                    by_name.setdefault(_name(span), []).append(span)
            return by_name

        with self.changed:
            assert self.changed.wait_for(lambda: enough <= set(received()), within_s), received()
            return received()


@dataclass(frozen=True)
class Closed:
    """Cluster with its file of keys and its collector."""

    cluster: LocalCluster
    keys: Path
    config: dict[str, Any]
    collector: Collector

    @property
    def models(self) -> str:
        return f"{self.cluster.http}/v2/models"


@pytest.fixture(scope="session")
def collector() -> Iterator[tuple[Collector, int]]:
    received = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = ExportTraceServiceRequest()
            sent.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
            with received.changed:
                for resource in sent.resource_spans:
                    for scope in resource.scope_spans:
                        received.spans.extend(scope.spans)
                received.changed.notify_all()
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield received, server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def closed(
    int8_artifact_store: Path,
    cut_artifact_store: Path,
    collector: tuple[Collector, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Closed]:
    directory = tmp_path_factory.mktemp("closed")
    keys = directory / "keys.yaml"
    keys.write_text(yaml.safe_dump({"clients": CLIENTS}))
    spans, collector_port = collector
    environment = {
        FILE_VARIABLE: str(keys),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    applications = [
        serve_config.model(
            "one", "tiny-int8", int8_artifact_store, cors_origins=["https://app.example"]
        ),
        serve_config.model("cut", "tiny-cut", cut_artifact_store, parallel={"pipeline": 2}),
        serve_config.router(ROUTES),
    ]
    config = serve_config.write(directory, *applications, tracing_config=TRACING)
    with cluster.running(directory / "state", cpus=5, **environment) as started:
        started.deploy(config, timeout_s=WITHIN_S)
        yield Closed(started, keys, yaml.safe_load(config.read_text()), spans)


@pytest.fixture(scope="session")
def body() -> bytes:
    """Return the JSON body of an infer request of one item."""
    data = np.random.default_rng(0).uniform(-1, 1, 256).tolist()
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 1, 16, 16], "data": data}
    return json.dumps({"inputs": [tensor]}).encode()
