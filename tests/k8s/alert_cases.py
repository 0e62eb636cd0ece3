"""Synthetic series per alert: some that fire it, and similar ones that do not.

Values are in promtool's notation, one sample per 15 s: ``5x80`` stays at 5 for 20 minutes,
``0+3x80`` is a counter of 0.2 per second, ``_`` is no sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Series = dict[str, str]

JOB = 'job="models/headrace"'
"""Label that the Prometheus operator sets on the series of our PodMonitor."""


def of_others(series: Series) -> Series:
    """Return the series of another team's Ray cluster, or of a second monitor on our pods."""
    return {name.replace(JOB, 'job="others/ray"'): values for name, values in series.items()}


@dataclass(frozen=True)
class Case:
    """Series → values that fire an alert or do not, and its labels besides severity."""

    firing: Series
    silent: tuple[Series, ...]
    labels: dict[str, str] = field(default_factory=dict)
    at: str = "18m"
    severity: str = "warning"
    every: str = "15s"
    """Interval of samples and of rule evaluation."""
    more: tuple[tuple[Series, dict[str, str]], ...] = ()
    """Further series that fire it, with its labels."""


APPLICATION = {"ray_io_cluster": "c", "application": "a"}
DEPLOYMENT = {**APPLICATION, "deployment": "model-a"}
MODEL = {"ray_io_cluster": "c", "model": "m"}
ROUTE = {"ray_io_cluster": "c", "route": "r"}
POD = {"ray_io_cluster": "c", "pod": "p"}


def _series(name: str, labels: dict[str, str], **more: str) -> str:
    text = ", ".join(f'{label}="{value}"' for label, value in {**labels, **more}.items())
    return f"{name}{{{JOB}, {text}}}"


def _replica(number: int, controller: str = "w") -> str:
    more = {"replica": f"r{number}", "WorkerId": controller}
    return _series("ray_serve_deployment_replica_healthy", DEPLOYMENT, **more)


def _status(code: int) -> str:
    return _series("ray_serve_num_http_requests_total", APPLICATION, status_code=str(code))


def _outcome(outcome: str) -> str:
    return _series("ray_headrace_requests_total", MODEL, outcome=outcome)


def _latencies(series: str, labels: dict[str, str], within: dict[str, float]) -> Series:
    """Return a histogram with this number of requests per sample within each bound."""
    return {_series(series, labels, le=le): f"0+{n}x80" for le, n in within.items()}


def _stages(
    first_s: float, second_s: float, values: str = "0+{}x140", process: str = "w"
) -> Series:
    """Return the compute time of two stages of a replica, in seconds per sample of 15 s."""
    return {
        _series(
            "ray_headrace_stage_seconds_total",
            MODEL,
            stage=str(stage),
            tp_rank="0",
            doing="compute",
            WorkerId=process,
        ): values.format(seconds)
        for stage, seconds in enumerate((first_s, second_s))
    }


def _route(outcome: str) -> str:
    return _series("ray_headrace_route_requests_total", ROUTE, outcome=outcome)


def _compared(agree: str) -> str:
    return _series("ray_headrace_compared_items_total", ROUTE, agree=agree)


def _returns(process: str) -> str:
    return _series("ray_headrace_canary_returns_total", ROUTE, WorkerId=process)


def _shares(first: str, second: str, used: int) -> Series:
    rest = 100 if "total" in second else 100 - used
    return {_series(first, POD): f"{used}x80", _series(second, POD): f"{rest}x80"}


TARGET = _series("ray_serve_autoscaling_target_replicas", DEPLOYMENT)
HEALTHY, OTHER = _replica(1), _replica(2)
ONGOING = _series("ray_serve_replica_processing_queries", DEPLOYMENT, replica="r1")
LOADED = _series("ray_headrace_model_load_s", MODEL)
UP = _series("up", POD, endpoint="metrics")
GCS = _series("ray_gcs_actors_count", {"ray_io_cluster": "c"}, State="Created")
DISK = _series("ray_node_disk_utilization_percentage", POD)
OF_A_JOB = [series.replace('"c"', '"job"') for series in (UP, GCS)]
MEMORY = ("ray_node_mem_used", "ray_node_mem_total")
STORE = ("ray_object_store_used_memory", "ray_object_store_available_memory")
LATENCY = "ray_serve_http_request_latency_ms_bucket"
QUEUE = "ray_headrace_queue_wait_ms_bucket"

CASES = {
    "HeadraceNoReplica": Case(
        # An outage that has lasted for over two hours.
        {TARGET: "2x150", HEALTHY: "1x10 _x140"},
        (
            {TARGET: "2x150", HEALTHY: "1x150"},
            {TARGET: "0x150", HEALTHY: "1x10 _x140"},
            # A new cluster, without a ready replica so far.
            {TARGET: "_x140 2x10", HEALTHY: "_x145 0x5"},
        ),
        DEPLOYMENT,
        at="149m",
        severity="critical",
        every="1m",
    ),
    "HeadraceReplicasMissing": Case(
        {TARGET: "2x80", HEALTHY: "1x80"},
        (
            {TARGET: "2x80", HEALTHY: "1x80", OTHER: "1x80"},
            # A replica that starts within five minutes, such as in a rolling upgrade.
            {TARGET: "2x80", HEALTHY: "1x80", OTHER: "_x56 1x24"},
        ),
        DEPLOYMENT,
        more=(
            # No replica has been ready yet.
            ({TARGET: "2x80"}, DEPLOYMENT),
            # One replica, as two controllers report it, of which the first has ended.
            ({TARGET: "2x80", _replica(1, "old"): "1x80", _replica(1, "new"): "1x80"}, DEPLOYMENT),
        ),
    ),
    "HeadraceReplicaRestarting": Case(
        # Replicas in turn that never become ready.
        {TARGET: "1x80"} | {_replica(n): f"_x{20 + 10 * n} 0x5" for n in range(5)},
        (
            {TARGET: "1x80"} | {_replica(n): f"_x{20 + 10 * n} 0x5" for n in range(4)},
            # A rolling upgrade of ten.
            {TARGET: "10x80"}
            | {_replica(n): "1x40" for n in range(10)}
            | {_replica(n): "_x40 1x40" for n in range(10, 20)},
            # A controller that restarts repeatedly beside two replicas.
            {TARGET: "2x80"} | {_replica(n % 2, f"w{n // 2}"): "1x80" for n in range(10)},
        ),
        DEPLOYMENT,
    ),
    "HeadraceModelLoadSlow": Case({LOADED: "61x80"}, ({LOADED: "59x80"},), MODEL),
    "HeadraceErrorRateHigh": Case(
        {_status(200): "0+97x80", _status(504): "0+3x80"},
        (
            {_status(200): "0+995x80", _status(500): "0+5x80"},
            {_status(200): "0+50x80", _status(400): "0+50x80"},
            # One request in a quarter of a minute, and it fails: too few to page.
            {_status(500): "0+1x80"},
        ),
        APPLICATION,
        severity="critical",
        more=(({_status(200): "0+97x80", _status(408): "0+3x80"}, APPLICATION),),
    ),
    "HeadraceLatencyHigh": Case(
        {_status(200): "0+100x80"}
        | _latencies(LATENCY, APPLICATION, {"1000": 98, "2000": 100, "+Inf": 100}),
        (
            {_status(200): "0+100x80"}
            | _latencies(LATENCY, APPLICATION, {"1000": 99.5, "2000": 100, "+Inf": 100}),
            # One request in a quarter of a minute.
            {_status(200): "0+1x80"}
            | _latencies(LATENCY, APPLICATION, {"1000": 0, "2000": 1, "+Inf": 1}),
        ),
        APPLICATION,
    ),
    "HeadraceQueueWaitHigh": Case(
        {_outcome("ok"): "0+100x80"}
        | _latencies(QUEUE, MODEL, {"250": 98, "500": 100, "+Inf": 100}),
        (
            {_outcome("ok"): "0+100x80"}
            | _latencies(QUEUE, MODEL, {"250": 99.5, "500": 100, "+Inf": 100}),
            {_outcome("ok"): "0+1x80"} | _latencies(QUEUE, MODEL, {"250": 0, "500": 1, "+Inf": 1}),
        ),
        MODEL,
    ),
    "HeadraceQueueGrowing": Case(
        {TARGET: "1x200", HEALTHY: "1x200", ONGOING: "1x120 40x80"},
        (
            {TARGET: "1x200", HEALTHY: "1x200", ONGOING: "40x200"},
            {TARGET: "1x200", HEALTHY: "1x200", ONGOING: "1x120 8x80"},
        ),
        DEPLOYMENT,
        at="42m",
    ),
    "HeadraceTrafficStopped": Case(
        {_status(200): "0+15x80 1200x120"},
        ({_status(200): "0+15x200"}, {_status(200): "7x200"}),
        APPLICATION,
        at="35m",
    ),
    "HeadraceStageImbalance": Case(
        _stages(13.5, 4.5),
        (_stages(13.5, 12), _stages(1.35, 0.45)),
        MODEL,
        at="30m",
        # With stale series of two ended replicas.
        more=(
            (
                _stages(13.5, 4.5)
                | _stages(900, 300, "{}x140", "dead")
                | _stages(90, 30, "{}x140", "dead, too"),
                MODEL,
            ),
        ),
    ),
    "HeadraceRouteDegraded": Case(
        {_route("ok"): "0+90x80", _route("late"): "0+6x80", _route("partial"): "0+4x80"},
        (
            {_route("ok"): "0+96x80", _route("partial"): "0+4x80"},
            {_route("ok"): "0+50x80", _route("rejected"): "0+50x80"},
        ),
        ROUTE,
    ),
    "HeadraceShadowDisagrees": Case(
        {_compared("yes"): "0+95x80", _compared("no"): "0+5x80"},
        (
            {_compared("yes"): "0+99x80", _compared("no"): "0+1x80"},
            # Forty items are too few for a verdict.
            {_compared("yes"): "0x20 20x60", _compared("no"): "0x20 20x60"},
        ),
        ROUTE,
    ),
    "HeadraceCanaryReturned": Case(
        {_returns("w1"): "_x200 1x50"},
        ({}, {_returns("w1"): "1x250"}),  # ended, six hours after the return
        ROUTE,
        at="490m",
        every="2m",
        # The router was deployed again, and its new process has returned as well.
        more=(({_returns("w1"): "1x250", _returns("w2"): "_x200 1x50"}, ROUTE),),
    ),
    "HeadraceHeadDown": Case(
        # The head of a job's cluster answers.
        {UP: "1x80", GCS: "1x20", OF_A_JOB[0]: "1x80", OF_A_JOB[1]: "1x80"},
        (
            {UP: "1x80", GCS: "1x80"},
            {UP: "1x80", GCS: "0x80"},
            {UP: "1x80", GCS: "1x80"} | of_others({OF_A_JOB[0]: "1x80"}),
        ),
        {"ray_io_cluster": "c"},
        severity="critical",
        more=(
            ({UP: "0x80"}, {"ray_io_cluster": "c"}),
            ({UP: "1x20", GCS: "1x20"}, {"endpoint": "metrics"}),
        ),
    ),
    "HeadraceMetricsAbsent": Case(
        {LOADED: "1x20"}, ({LOADED: "1x80"},), more=((of_others({LOADED: "1x80"}), {}),)
    ),
    "HeadraceNodeSilent": Case(
        {UP: "0x80"},
        ({UP: "1x80"}, {UP.replace("metrics", "dash-metrics"): "0x80"}),
        {**POD, "job": "models/headrace", "endpoint": "metrics"},
    ),
    "HeadraceNodeMemory": Case(_shares(*MEMORY, 92), (_shares(*MEMORY, 88),), POD),
    "HeadraceObjectStoreFull": Case(_shares(*STORE, 92), (_shares(*STORE, 88),), POD),
    "HeadraceDiskFull": Case({DISK: "91x80"}, ({DISK: "89x80"},), POD),
}
