"""Invalid Serve configs: errors with file, YAML path and value, before anything starts."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cluster.errors import ConfigError
from deployments import app
from deployments.config import serve_config


def application(**changes: Any) -> dict[str, Any]:
    good = {
        "name": "digits",
        "route_prefix": "/v2/models/digits",
        "import_path": "deployments.app:model",
        "args": {"name": "digits", "artifact": "digits-int8"},
    }
    return good | changes


def model(**changes: Any) -> dict[str, Any]:
    return application(args=application()["args"] | changes)


CATALOG = application(
    name="server", route_prefix="/v2", import_path="deployments.app:catalog", args={}
)


ROUTER = application(
    name="router",
    route_prefix="/",
    import_path="deployments.app:router",
    args={"routes": [{"name": "twice", "kind": "scatter", "target": "digits"}]},
)


def check(directory: Path, text: str) -> serve_config.ServeConfig:
    (directory / "serve.yaml").write_text(text)
    return serve_config.check(directory / "serve.yaml")


def test_check_returns_models_of_config(tmp_path: Path) -> None:
    others = application(name="mine", route_prefix="/mine", import_path="mine:app", args={"a": 1})
    applications = [CATALOG, model(batching={"max_batch_size": 4}), others]
    checked = check(tmp_path, yaml.safe_dump({"applications": applications}))
    (served,) = checked.models
    assert checked.port is None
    assert (served.name, served.artifact) == ("digits", "digits-int8")
    assert served.batching.max_batch_size == 4


def test_check_rejects_router_with_catalog(tmp_path: Path) -> None:
    checked = check(tmp_path, yaml.safe_dump({"applications": [ROUTER, model()]}))
    assert checked.router is not None
    assert [route.name for route in checked.router.routes] == ["twice"]
    with pytest.raises(ConfigError, match=r"applications\[0\]: the router answers the server's"):
        check(tmp_path, yaml.safe_dump({"applications": [CATALOG, ROUTER]}))


def test_configs_of_repository_are_valid() -> None:
    paths = list((Path(app.__file__).parent / "configs").glob("*.yaml"))
    assert paths
    for path in paths:
        assert serve_config.check(path).models


@pytest.mark.parametrize(
    ("application", "expected"),
    [
        (model(batching={"max_batch_size": 0}), r"args: batching.max_batch_size: .*given: 0"),
        (model(batchign={}), r"args: batchign: unknown field; known: name, artifact, store"),
        (model(limits={"pixels": 1}), r"args: limits.pixels: unknown field; known: body_bytes"),
        (model(max_ongoing_requests=2), r"args: .*max_ongoing_requests=2 is below max_batch_size"),
        (model(replicas=2, autoscaling={}), r"args: .*give replicas or autoscaling, not both"),
        (
            model(autoscaling={"max_replica": 2}),
            "args: autoscaling.max_replica: unknown field; known: min_replicas",
        ),
        (
            model(autoscaling={"max_replicas": 0}),
            r"args: autoscaling.max_replicas: .*greater than 0 \(given: 0\)",
        ),
        (
            model(autoscaling={"min_replicas": 3, "max_replicas": 2}),
            r"args: autoscaling: max_replicas \(2\) must be greater",
        ),
        (
            ROUTER | {"route_prefix": "/router"},
            r"route_prefix: must be / for deployments.app:router \(given: '/router'\)",
        ),
        (
            ROUTER | {"args": {"routes": [{"name": "r", "kind": "scater", "target": "digits"}]}},
            r"args: routes\[0\].kind: expected one of 'ensemble', .*'chain' \(given: 'scater'\)",
        ),
        (ROUTER | {"args": {}}, "args: routes: Field required"),
        (
            CATALOG | {"name": "b", "route_prefix": "/b", "args": {"a": 1}},
            r"args: a: unknown field",
        ),
        (
            CATALOG | {"name": "b", "route_prefix": "/"},
            r"route_prefix: must be /v2 for .*given: '/'",
        ),
        (model(cors_origins=["*"]), r"args: cors_origins\[0\]: '\*' would let any page"),
        (
            ROUTER | {"args": ROUTER["args"] | {"cors_origins": ["https://a.example/"]}},
            r"args: cors_origins\[0\]: an origin is a scheme, a host .*https://a.example/'",
        ),
        (
            CATALOG | {"name": "b", "route_prefix": "/b", "args": {"cors_origins": ["a.example"]}},
            r"args: cors_origins\[0\]: an origin is a scheme, a host .*'a.example'",
        ),
        (model(name="../digits"), r"args: name: .*given: '../digits'"),
        (application(args={}), r"args: name: Field required"),
        (application(args=[1]), r"args: .*dictionary \(given: \[1\]\)"),
        (application(route_prefix="/a"), r"route_prefix: must be /v2/models/digits .*given: '/a'"),
        (application(route_prefix=None), r"route_prefix: must be .*given: None"),
        (application(import_path="deployments.app:modell"), r"import_path: .*catalog .*modell"),
        (application(import_path=3), r"import_path: .*given: 3"),
        (application(nmae="a"), r"nmae: unknown field; known: name, route_prefix"),
    ],
)
def test_check_rejects_invalid_application(
    tmp_path: Path, application: dict[str, Any], expected: str
) -> None:
    where = re.escape(f"{tmp_path}/serve.yaml: applications[1].")
    with pytest.raises(ConfigError, match=f"^{where}{expected}"):
        check(tmp_path, yaml.safe_dump({"applications": [CATALOG, application]}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a mapping with `applications`, got None"),
        ("- 1", r"expected a mapping with `applications`, got \[1\]"),
        ("a: [1", "not valid YAML"),
        ("applications:", r"applications: .*given: None"),
        ("applications: [1]", r"applications\[0\]: .*given: 1"),
        ("applications: []\nhttp_option: {}", "http_option: unknown field; known: .*http_options"),
        ("applications: []\nhttp_options: {port: x}", "http_options.port: .*given: 'x'"),
        ("applications: []\nhttp_options: {port: 99999}", r"http_options.port: must be in .*99999"),
        ("applications: []\nhttp_options: {port: '1'}", r"http_options.port: must be in .*'1'"),
        ("applications: []\nhttp_options: {hots: a}", "http_options.hots: unknown field; known"),
    ],
)
def test_check_rejects_file_that_is_no_serve_config(
    tmp_path: Path, text: str, expected: str
) -> None:
    where = re.escape(f"{tmp_path}/serve.yaml: ")
    with pytest.raises(ConfigError, match=f"^{where}{expected}"):
        check(tmp_path, text)


def test_check_accepts_autoscaling_fields_of_serve(tmp_path: Path) -> None:
    scaled = model(autoscaling={"min_replicas": 1, "max_replicas": 3})
    text = yaml.safe_dump({"applications": [scaled], "http_options": {"port": 8001}})
    checked = check(tmp_path, text)
    assert checked.port == 8001
    assert checked.models[0].autoscaling == {"min_replicas": 1, "max_replicas": 3}


def test_builders_reject_same_args_as_check() -> None:
    scaled = {"name": "digits", "artifact": "a", "autoscaling": {"max_replica": 2}}
    with pytest.raises(ConfigError, match=r"^args: autoscaling\.max_replica: unknown field"):
        app.model(scaled)
    with pytest.raises(ConfigError, match=r"^args: a: unknown field"):
        app.catalog({"a": 1})


def test_check_rejects_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read: No such file"):
        serve_config.check(tmp_path / "absent.yaml")


def test_pinned_config_names_artifacts_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a rebuilt artifact is another deployment of both."""
    monkeypatch.setenv("HEADRACE_STORE", "/store")
    bound: Any = SimpleNamespace(reference="digits@1", args=SimpleNamespace(store="/store"))
    config = serve_config.pin_artifacts({"applications": [ROUTER, model()]}, {"digits": bound})
    router, digits = config["applications"]
    assert router["args"]["artifacts"] == {"digits": "digits@1"}
    assert router["args"]["store"] == "/store"
    assert (digits["args"]["artifact"], digits["args"]["store"]) == ("digits@1", "/store")
    assert serve_config.check_content(config, "pinned").router is not None
