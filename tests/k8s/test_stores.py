"""``headrace k8s render`` with artifacts in a bucket, in the claim, or where no pod finds them."""

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


def test_a_bucket_takes_the_place_of_the_claim(headrace: Headrace, store: Path) -> None:
    uri = "s3://models/store"
    # The manifest is read from the directory; nobody asks the bucket.
    directory = LocalStore(store).open("plain").path
    ran = headrace("k8s", "render", "--model", directory, "--store", uri, "--image", DIGEST)
    assert ran.status == 0, ran.err
    objects = list(yaml.safe_load_all(ran.out))
    assert not [each for each in objects if each["kind"] == "PersistentVolumeClaim"]
    (settings,) = [o for o in objects if o["metadata"]["name"] == "headrace-store"]
    assert settings["data"]["HEADRACE_STORE"] == uri
    assert "persistentVolumeClaim" not in ran.out
    assert [o for o in objects if o["metadata"]["name"] == "object-store"]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("file:///var/store", "pods have no file:// of this machine's; give a bucket (s3://"),
        ("memory://store", "pods have no memory:// of this machine's"),
        ("local://store", "pods have no local:// of this machine's"),
        ("://", "no bucket is named so; give s3://BUCKET/PATH"),
        ("s3://", "no bucket is named so"),
        ("gopher://x/y", "no bucket is named so"),
    ],
)
def test_a_store_that_no_pod_would_find(
    headrace: Headrace, store: Path, uri: str, said: str
) -> None:
    directory = LocalStore(store).open("plain").path
    ran = headrace("k8s", "render", "--model", directory, "--store", uri, "--image", DIGEST)
    assert ran.status == 2
    assert uri in ran.err
    assert said in ran.err
    assert ran.out == ""


def test_the_loader_is_given_the_image(headrace: Headrace, store: Path, tmp_path: Path) -> None:
    mine = patched(tmp_path, {"op": "replace", "path": f"{GROUP}/replicas", "value": 2})
    kustomization = mine / "kustomization.yaml"
    shutil.copytree(overlay.k8s_dir() / "components" / "loader", tmp_path / "loader")
    whole = yaml.safe_load(kustomization.read_text())
    kustomization.write_text(yaml.safe_dump({**whole, "components": ["../loader"]}))
    arguments = ("k8s", "render", "--image", DIGEST, "--overlay", mine, "--model")
    ran = headrace(*arguments, "plain", "--store", store)
    assert ran.status == 0, ran.err
    (job,) = [o for o in yaml.safe_load_all(ran.out) if o["kind"] == "Job"]
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == DIGEST
    assert "image: headrace-" not in ran.out
    # With a bucket there is no claim to bring an artifact to.
    directory = LocalStore(store).open("plain").path
    ran = headrace(*arguments, directory, "--store", "s3://models/store")
    assert ran.status == 2
    assert "Job/headrace-loader: spec.template.spec.volumes[0]: there is no claim" in ran.err
