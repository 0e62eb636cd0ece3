"""``headrace k8s render`` with artifacts in a bucket, in the claim, or out of reach of pods."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import DIGEST, GROUP, patched

from cluster.artifact.local import LocalStore
from deployments.kubernetes import overlay

pytestmark = pytest.mark.usefixtures("kustomize")
Plan = Callable[..., Path]
Headrace = Callable[..., Any]


def test_bucket_replaces_the_claim(headrace: Headrace, store: Path) -> None:
    uri = "s3://models/store"
    # The manifest is read from the directory, not from the bucket.
    directory = LocalStore(store).open("plain").path
    result = headrace("k8s", "render", "--model", directory, "--store", uri, "--image", DIGEST)
    assert result.status == 0, result.err
    objects = list(yaml.safe_load_all(result.out))
    assert not [obj for obj in objects if obj["kind"] == "PersistentVolumeClaim"]
    (settings,) = [o for o in objects if o["metadata"]["name"] == "headrace-store"]
    assert settings["data"]["HEADRACE_STORE"] == uri
    assert "persistentVolumeClaim" not in result.out
    assert [o for o in objects if o["metadata"]["name"] == "object-store"]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("file:///var/store", "pods cannot read file:// of this machine; give a bucket (s3://"),
        ("memory://store", "pods cannot read memory:// of this machine"),
        ("local://store", "pods cannot read local:// of this machine"),
        ("://", "not a valid store URI; give s3://BUCKET/PATH"),
        ("s3://", "not a valid store URI"),
        ("gopher://x/y", "not a valid store URI"),
    ],
)
def test_store_out_of_reach_of_pods_is_refused(
    headrace: Headrace, store: Path, uri: str, message: str
) -> None:
    directory = LocalStore(store).open("plain").path
    result = headrace("k8s", "render", "--model", directory, "--store", uri, "--image", DIGEST)
    assert result.status == 2
    assert uri in result.err
    assert message in result.err
    assert result.out == ""


def test_loader_has_the_image_and_needs_the_claim(
    headrace: Headrace, store: Path, tmp_path: Path
) -> None:
    mine = patched(tmp_path, {"op": "replace", "path": f"{GROUP}/replicas", "value": 2})
    kustomization = mine / "kustomization.yaml"
    shutil.copytree(overlay.k8s_dir() / "components" / "loader", tmp_path / "loader")
    kustomization_yaml = yaml.safe_load(kustomization.read_text())
    kustomization.write_text(yaml.safe_dump({**kustomization_yaml, "components": ["../loader"]}))
    arguments = ("k8s", "render", "--image", DIGEST, "--overlay", mine, "--model")
    result = headrace(*arguments, "plain", "--store", store)
    assert result.status == 0, result.err
    (job,) = [o for o in yaml.safe_load_all(result.out) if o["kind"] == "Job"]
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == DIGEST
    assert "image: headrace-" not in result.out
    # A bucket replaces the claim that the loader fills.
    directory = LocalStore(store).open("plain").path
    result = headrace(*arguments, directory, "--store", "s3://models/store")
    assert result.status == 2
    assert (
        "Job/headrace-loader: spec.template.spec.volumes[0]: claim headrace-artifacts does not"
        in result.err
    )
