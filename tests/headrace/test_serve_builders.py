"""``headrace.serve``: ``serve.run`` and ``import_path`` deploy the applications of the config."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import cluster, serve_config
from support.http_client import ask
from support.wait import until

import headrace
from deployments.config import serve_config as served_config

SCRIPT = """
import sys
from ray import serve
import headrace

store = sys.argv[1]
digits = headrace.ModelArgs(name="digits", artifact="tiny-int8", store=store)
serve.run(headrace.serve.model(digits), name="digits", route_prefix="/v2/models/digits")
routes = [{"name": "twice", "kind": "ensemble", "targets": ["digits", "configured"]}]
serve.run(headrace.serve.router({"routes": routes}), name="router", route_prefix="/")
"""


def applications(module: str) -> list[dict[str, Any]]:
    model = serve_config.model("digits", "digits-int8")
    router = serve_config.router([{"name": "twice", "kind": "scatter", "target": "digits"}])
    return [
        {**entry, "import_path": entry["import_path"].replace("deployments.app", module)}
        for entry in (model, router)
    ]


@pytest.mark.parametrize("module", served_config.BUILDER_MODULES)
def test_config_names_either_module(tmp_path: Path, module: str) -> None:
    checked = served_config.check(serve_config.write(tmp_path, *applications(module)))
    assert [model.name for model in checked.models] == ["digits"]
    assert checked.router is not None


def test_unknown_builder_of_the_face_is_refused() -> None:
    (application, _) = applications("headrace.serve")
    application["import_path"] = "headrace.serve:modell"
    with pytest.raises(headrace.ConfigError, match=r"must be .* of headrace\.serve .*modell"):
        served_config.check_content({"applications": [application]}, "serve.yaml")


def test_prefix_of_the_face_s_model_is_checked() -> None:
    (application, _) = applications("headrace.serve")
    application["route_prefix"] = "/digits"
    with pytest.raises(headrace.ConfigError, match="route_prefix: must be /v2/models/digits"):
        served_config.check_content({"applications": [application]}, "serve.yaml")


def test_builders_refuse_wrong_args() -> None:
    with pytest.raises(headrace.ConfigError, match="args: artifact: Field required"):
        headrace.serve.model({"name": "digits"})
    with pytest.raises(headrace.ConfigError, match="a: unknown field"):
        headrace.serve.catalog({"a": 1})


@pytest.mark.cluster
def test_router_reaches_models_of_either_way(int8_artifact_store: Path, tmp_path: Path) -> None:
    configured = serve_config.model("configured", "tiny-int8", int8_artifact_store)
    configured["import_path"] = "headrace.serve:model"
    with cluster.running(tmp_path / "state", cpus=4) as started:
        started.deploy(serve_config.write(tmp_path, configured), timeout_s=300)
        script = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(int8_artifact_store)],
            env=os.environ | started.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert script.returncode == 0, script.stdout + script.stderr
        image = np.random.default_rng(0).standard_normal((1, 1, 16, 16)).astype(np.float32)
        model = headrace.load("tiny-int8", int8_artifact_store)
        spec = model.manifest.inputs[0]
        tensor = {
            "name": spec.name,
            "shape": list(image.shape),
            "datatype": spec.datatype,
            "data": image.ravel().tolist(),
        }
        body = json.dumps({"inputs": [tensor]}).encode()
        expected = model.run(image)["logits"].argmax()
        for name in ("digits", "configured", "twice"):
            url = f"{started.http}/v2/models/{name}/infer"
            until(lambda url=url: ask(url, body).status == 200, lambda url=url: ask(url, body))
            assert np.argmax(ask(url, body).json["outputs"][0]["data"]) == expected
        inspected = subprocess.run(
            [sys.executable, "-m", "headrace.command", "inspect", "--replicas", "--json"],
            env=os.environ | started.environment() | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        models = json.loads(inspected.stdout)["models"]
        facts = ("id", "store", "newest_id")
        expected_facts = [model.artifact.id, str(int8_artifact_store), model.artifact.id]
        assert {entry["model"]: [entry[fact] for fact in facts] for entry in models} == {
            "configured": expected_facts,
            "digits": expected_facts,
        }
