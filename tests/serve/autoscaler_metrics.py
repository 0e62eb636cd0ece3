"""Metrics of an autoscaler's container, from Ray's reporter.

A local cluster has no autoscaler: it requests pods from Kubernetes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client import start_http_server
from ray.autoscaler._private.prom_metrics import AutoscalerPrometheusMetrics
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.metrics_reporter import AutoscalerMetricsReporter
from ray.core.generated.instance_manager_pb2 import Instance

GROUP = "cpu"


@contextlib.contextmanager
def autoscaler_metrics() -> Iterator[str]:
    """Yield ``HOST:PORT`` with metrics of a group with a running pod and a requested one."""
    metrics = AutoscalerPrometheusMetrics(session_name="session")
    group = NodeTypeConfig(GROUP, min_worker_nodes=1, max_worker_nodes=2, resources={"CPU": 2})
    pods = [
        Instance(instance_id=str(status), instance_type=GROUP, status=status)
        for status in (Instance.RAY_RUNNING, Instance.REQUESTED)
    ]
    AutoscalerMetricsReporter(metrics).report_instances(pods, {GROUP: group})
    server, thread = start_http_server(0, "127.0.0.1", metrics.registry)
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
