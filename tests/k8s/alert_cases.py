"""For every alert, made-up series on which it rings and series near those on which it does not.

Values in promtool's notation, a sample each 15 s: ``5x80`` stays at 5 for 20 minutes, ``0+3x80``
is a counter of 0.2 per second, ``_`` is no sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """Series → values; the alert's labels besides its severity when it rings."""

    rings: Series
    silent: tuple[Series, ...]
    labels: dict[str, str] = field(default_factory=dict)
    at: str = "18m"
    severity: str = "warning"
    more: tuple[tuple[Series, dict[str, str]], ...] = ()
    """Other series on which it rings, with the labels it has then."""


def _deployment(series: str, more: str = "") -> str:
    return f'{series}{{ray_io_cluster="c", application="a", deployment="model-a"{more}}}'


def _replica(number: int) -> str:
    return _deployment("ray_serve_deployment_replica_healthy", f', replica="r{number}"')


WANTED = _deployment("ray_serve_autoscaling_target_replicas")
HEALTHY = _deployment("ray_serve_deployment_replica_healthy", ', replica="r1"')
OTHER = _deployment("ray_serve_deployment_replica_healthy", ', replica="r2"')
ONGOING = _deployment("ray_serve_replica_processing_queries", ', replica="r1"')
DEPLOYMENT = {"ray_io_cluster": "c", "application": "a", "deployment": "model-a"}
APPLICATION = {"ray_io_cluster": "c", "application": "a"}
MODEL = {"ray_io_cluster": "c", "model": "m"}
ROUTE = {"ray_io_cluster": "c", "route": "r"}
POD = {"ray_io_cluster": "c", "pod": "p"}
LOADED = 'ray_headrace_model_load_s{ray_io_cluster="c", model="m"}'
GCS = 'ray_gcs_actors_count{ray_io_cluster="c", State="Created"}'
UP = 'up{ray_io_cluster="c", endpoint="metrics", pod="p"}'
OF_A_JOB = [each.replace('"c"', '"job"') for each in (UP, GCS)]
DISK = 'ray_node_disk_utilization_percentage{ray_io_cluster="c", pod="p"}'
RETURNS = 'ray_headrace_canary_returns_total{ray_io_cluster="c", route="r"}'


def _status(code: int) -> str:
    return (
        f'ray_serve_num_http_requests_total{{ray_io_cluster="c", application="a", '
        f'status_code="{code}"}}'
    )


def _latencies(series: str, labels: dict[str, str], within: dict[str, float]) -> Series:
    """A histogram of which so many of a hundred requests per sample are within each bound."""
    text = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    return {f'{series}{{{text}, le="{le}"}}': f"0+{n}x80" for le, n in within.items()}


def _stages(first_s: float, second_s: float) -> Series:
    """What two stages computed, in seconds per sample of 15."""
    series = "ray_headrace_stage_seconds_total"
    labels = 'ray_io_cluster="c", model="m", tp_rank="0", doing="compute"'
    return {
        f'{series}{{{labels}, stage="0", WorkerId="w0"}}': f"0+{first_s}x140",
        f'{series}{{{labels}, stage="1", WorkerId="w1"}}': f"0+{second_s}x140",
    }


def _route(outcome: str) -> str:
    return (
        f'ray_headrace_route_requests_total{{ray_io_cluster="c", route="r", outcome="{outcome}"}}'
    )


def _compared(agree: str) -> str:
    return f'ray_headrace_compared_items_total{{ray_io_cluster="c", route="r", agree="{agree}"}}'


def _shares(first: str, second: str, used: int) -> Series:
    return {
        f'{first}{{ray_io_cluster="c", pod="p"}}': f"{used}x80",
        f'{second}{{ray_io_cluster="c", pod="p"}}': "100x80"
        if "total" in second
        else f"{100 - used}x80",
    }


MEMORY = ("ray_node_mem_used", "ray_node_mem_total")
STORE = ("ray_object_store_used_memory", "ray_object_store_available_memory")
LATENCY = "ray_serve_http_request_latency_ms_bucket"
QUEUE = "ray_headrace_queue_wait_ms_bucket"

CASES = {
    "HeadraceNoReplica": Case(
        {WANTED: "2x80"},
        ({WANTED: "2x80", HEALTHY: "1x80"}, {WANTED: "0x80"}),
        DEPLOYMENT,
        severity="critical",
    ),
    "HeadraceReplicasMissing": Case(
        {WANTED: "2x80", HEALTHY: "1x80"},
        (
            {WANTED: "2x80", HEALTHY: "1x80", OTHER: "1x80"},
            # A replica that comes within five minutes, such as in a rolling upgrade.
            {WANTED: "2x80", HEALTHY: "1x80", OTHER: "_x56 1x24"},
        ),
        DEPLOYMENT,
    ),
    "HeadraceReplicaRestarting": Case(
        # One after the other, none of which ever gets ready.
        {WANTED: "1x80"} | {_replica(n): f"_x{20 + 10 * n} 0x5" for n in range(5)},
        (
            {WANTED: "1x80"} | {_replica(n): f"_x{20 + 10 * n} 0x5" for n in range(4)},
            # A rolling upgrade of ten.
            {WANTED: "10x80"}
            | {_replica(n): "1x40" for n in range(10)}
            | {_replica(n): "_x40 1x40" for n in range(10, 20)},
        ),
        DEPLOYMENT,
    ),
    "HeadraceModelLoadSlow": Case({LOADED: "61x80"}, ({LOADED: "59x80"},), MODEL),
    "HeadraceErrorRateHigh": Case(
        {_status(200): "0+97x80", _status(504): "0+3x80"},
        (
            {_status(200): "0+995x80", _status(500): "0+5x80"},
            {_status(200): "0+50x80", _status(400): "0+50x80"},
            # One request in a quarter of a minute, and it fails: too few to wake anybody.
            {_status(500): "0+1x80"},
        ),
        APPLICATION,
        severity="critical",
    ),
    "HeadraceLatencyHigh": Case(
        _latencies(LATENCY, APPLICATION, {"1000": 98, "2000": 100, "+Inf": 100}),
        (_latencies(LATENCY, APPLICATION, {"1000": 99.5, "2000": 100, "+Inf": 100}),),
        APPLICATION,
    ),
    "HeadraceQueueWaitHigh": Case(
        _latencies(QUEUE, MODEL, {"250": 98, "500": 100, "+Inf": 100}),
        (_latencies(QUEUE, MODEL, {"250": 99.5, "500": 100, "+Inf": 100}),),
        MODEL,
    ),
    "HeadraceQueueGrowing": Case(
        {WANTED: "1x200", HEALTHY: "1x200", ONGOING: "1x120 40x80"},
        (
            {WANTED: "1x200", HEALTHY: "1x200", ONGOING: "40x200"},
            {WANTED: "1x200", HEALTHY: "1x200", ONGOING: "1x120 8x80"},
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
            # Forty items are too few to tell.
            {_compared("yes"): "0x20 20x60", _compared("no"): "0x20 20x60"},
        ),
        ROUTE,
    ),
    "HeadraceCanaryReturned": Case({RETURNS: "1x80"}, ({}, {RETURNS: "0x80"}), ROUTE),
    "HeadraceHeadDown": Case(
        # That of a job's cluster answers.
        {UP: "1x80", GCS: "1x20", OF_A_JOB[0]: "1x80", OF_A_JOB[1]: "1x80"},
        ({UP: "1x80", GCS: "1x80"}, {UP: "1x80", GCS: "0x80"}),
        {"ray_io_cluster": "c"},
        severity="critical",
        more=(
            ({UP: "0x80"}, {"ray_io_cluster": "c"}),
            ({UP: "1x20", GCS: "1x20"}, {"endpoint": "metrics"}),
        ),
    ),
    "HeadraceMetricsAbsent": Case({LOADED: "1x20"}, ({LOADED: "1x80"},)),
    "HeadraceNodeSilent": Case(
        {UP: "0x80"},
        ({UP: "1x80"}, {UP.replace("metrics", "dash-metrics"): "0x80"}),
        {**POD, "endpoint": "metrics"},
    ),
    "HeadraceNodeMemory": Case(_shares(*MEMORY, 92), (_shares(*MEMORY, 88),), POD),
    "HeadraceObjectStoreFull": Case(_shares(*STORE, 92), (_shares(*STORE, 88),), POD),
    "HeadraceDiskFull": Case({DISK: "91x80"}, ({DISK: "89x80"},), POD),
}
