"""Plans of a router over real artifacts: refusals, and calibrations by artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cluster.artifact.local import LocalStore
from cluster.artifact.remote import RemoteStore
from cluster.compression import job
from cluster.config.base import parse
from cluster.config.routing import RouterArgs
from cluster.config.serving import ModelArgs
from cluster.errors import ArtifactNotFoundError, ConfigError, SourceError
from cluster.routing.calibration import Calibration
from deployments.cli.main import main
from deployments.config.deployed import DeployedModel
from deployments.router.plan import RoutingPlan, plan_routes

CASCADE = {"name": "sure", "kind": "cascade", "targets": ["small", "both"]}
BOTH = {"name": "both", "kind": "ensemble", "targets": ["small", {"target": "large", "weight": 2}]}


@pytest.fixture(scope="module")
def linear_store(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Any) -> Path:
    """Return a store with ``tiny-linear``, which is less accurate than the others."""
    root = tmp_path_factory.mktemp("linear")
    recipe = tiny_recipe("tiny-linear", None, "linear", programs=[{"kinds": ["openvino"]}])
    with (root / "log").open("w") as log:
        outcome = job.run(recipe, LocalStore(root), lambda line: print(line, file=log))
    assert outcome.artifact is not None
    return root


@pytest.fixture
def models(linear_store: Path, cut_artifact_store: Path) -> list[dict[str, Any]]:
    return [
        {"name": "small", "artifact": "tiny-linear", "store": str(linear_store)},
        {
            "name": "large",
            "artifact": "tiny-cut",
            "store": str(cut_artifact_store),
            "batching": {"max_batch_size": 4},
            "max_queued_requests": 10,
        },
    ]


def plan(models: list[dict[str, Any]], *routes: dict[str, Any], **fields: Any) -> RoutingPlan:
    args = parse({"routes": list(routes), **fields}, RouterArgs, "args")
    return plan_routes(args, [DeployedModel(ModelArgs.model_validate(model)) for model in models])


def test_plan_takes_contracts_from_manifests(models: list[dict[str, Any]]) -> None:
    routing = plan(models, BOTH)
    contract = routing.contracts["both"]
    assert (contract.max_items, len(contract.labels)) == (4, 10)
    small, large = routing.models["small"], routing.models["large"]
    assert (small.capacity, large.capacity) == (None, 16 + 10)
    assert small.route_prefix == "/v2/models/small"


def test_plan_opens_only_artifacts_of_targets(models: list[dict[str, Any]]) -> None:
    broken = {"name": "broken", "artifact": "none", "store": models[0]["store"]}
    assert set(plan([*models, broken], BOTH).models) == {"small", "large"}
    with pytest.raises(ArtifactNotFoundError, match="no artifact 'none'"):
        plan([*models, broken], {"name": "r", "kind": "hedge", "target": "broken"})
    with pytest.raises(
        ConfigError, match=r"route r: no model or route is called 'x'.*broken, large"
    ):
        plan([*models, broken], {"name": "r", "kind": "hedge", "target": "x"})


def test_plan_rejects_function_that_cannot_be_imported(models: list[dict[str, Any]]) -> None:
    output = {"name": "o", "datatype": "FP32", "shape": [-1, 2]}
    route = {**BOTH, "combine": "python:no_such_module:f", "outputs": [output]}
    with pytest.raises(SourceError, match="no module 'no_such_module'"):
        plan(models, route)


def test_calibration_is_valid_for_its_artifacts_only(
    models: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "store")
    routes = [{**CASCADE, "thresholds": "calibrated"}, BOTH]
    with pytest.raises(ConfigError, match=r"route sure: .*no calibration for.*; run `headrace"):
        plan(models, *routes, store=store)

    config = tmp_path / "serve.yaml"
    applications = [
        {
            "name": model["name"],
            "route_prefix": f"/v2/models/{model['name']}",
            "import_path": "deployments.app:model",
            "args": model,
        }
        for model in models
    ]
    router = {
        "name": "router",
        "route_prefix": "/",
        "import_path": "deployments.app:router",
        "args": {"routes": routes, "store": store},
    }
    config.write_text(yaml.safe_dump({"applications": [*applications, router]}))
    assert main(["calibrate", str(config), "sure", "--agreement", "0.995"]) == 0
    printed = capsys.readouterr().out
    assert "sure  agreement ≥ 0.995: threshold 0." in printed
    assert "held out" in printed
    assert "escalated" in printed

    (threshold,) = plan(models, *routes, store=store).thresholds["sure"]
    assert 0 < threshold < 1
    (file,) = (tmp_path / "store" / "calibrations").iterdir()
    calibration = Calibration.model_validate_json(file.read_bytes())
    assert calibration.thresholds == (threshold,)
    assert calibration.chosen_on.agreement >= 0.995
    assert 0 < calibration.chosen_on.target_share[1] < 1
    assert calibration.held_out.samples > 300
    # Another weight makes another ensemble, which is not calibrated.
    other = {**BOTH, "targets": ["small", "large"]}
    with pytest.raises(ConfigError, match="the store has no calibration for"):
        plan(models, routes[0], other, store=store)

    assert main(["calibrate", str(config), "both", "--agreement", "0.9"]) == 2
    assert "no cascade named 'both'; cascades: sure" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["calibrate", str(config), "sure", "--agreement", "1.5"])
    assert "'1.5': expected a number in 0..1" in capsys.readouterr().err


def test_calibration_rejects_hedge_as_target(models: list[dict[str, Any]]) -> None:
    hedge = {"name": "late", "kind": "hedge", "target": "large"}
    route = {**CASCADE, "targets": ["small", "late"], "thresholds": "calibrated"}
    with pytest.raises(
        ConfigError, match="late is a hedge; a cascade can be calibrated over models"
    ):
        plan(models, route, hedge)


def test_stores_replace_calibrations(tmp_path: Path) -> None:
    remote = RemoteStore.at(
        f"memory://calibrations-{np.random.default_rng().integers(1e9)}", tmp_path
    )
    for store in (remote, LocalStore(tmp_path / "local")):
        assert store.calibration("k") is None
        store.keep_calibration("k", b"first")
        store.keep_calibration("k", b"second")
        assert store.calibration("k") == b"second"
