"""Forged artifacts: no file is read before its bytes are verified."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from safetensors.torch import save_file

from cluster.artifact import artifact as artifact_module
from cluster.artifact import signature
from cluster.artifact.artifact import MANIFEST, WEIGHTS, Artifact
from cluster.artifact.entries import ProgramEntry
from cluster.artifact.local import LocalStore
from cluster.artifact.manifest import Manifest, content_id
from cluster.artifact.served import TRUSTED_KEYS, BoundModel, bind, open_bound
from cluster.config.recipe import Recipe
from cluster.config.serving import ModelArgs
from cluster.errors import ArtifactCorruptError, ArtifactUntrustedError, ProgramError
from cluster.program import node
from cluster.program import program as programs
from cluster.program.eager import PRECISION
from cluster.tensors import TensorSpec
from deployments.model.replica import ModelReplica
from deployments.shards.actor import ShardActor, ShardSpec

GRAPH = "programs/exported.pt2"
INPUT = TensorSpec(name="input", datatype="FP32", shape=(-1, 1, 16, 16))
OUTPUT = TensorSpec(name="logits", datatype="FP32", shape=(-1, 10))


class Touch:
    """Object whose unpickling writes a file, as code in a program could."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """File that forged code creates."""
    return tmp_path / "ran"


def entry_of(kind: str, file: str) -> ProgramEntry:
    return ProgramEntry(
        kind=kind,
        target="cpu-x86",
        file=file,
        cpu_features=(),
        torch_version=node.torch_version(),
        native_runner=None,
        python_abi=None,
        options={PRECISION: "f32"} if kind == "eager" else {},
    )


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10)).eval()


@pytest.fixture(scope="module")
def graph(network: torch.nn.Module) -> bytes:
    """Network as an ``exported`` program."""
    content = io.BytesIO()
    batch = torch.export.Dim("batch", min=1, max=64)
    sample = (torch.zeros(2, 1, 16, 16),)
    torch.export.save(torch.export.export(network, sample, dynamic_shapes=[{0: batch}]), content)
    return content.getvalue()


@pytest.fixture
def forged_graph(graph: bytes, marker: Path) -> bytes:
    """Program with code in its sample inputs, which are a pickle."""
    code, content = io.BytesIO(), io.BytesIO()
    torch.save(((Touch(marker),), {}), code)
    with zipfile.ZipFile(io.BytesIO(graph)) as old, zipfile.ZipFile(content, "w") as new:
        names = old.namelist()
        assert [name for name in names if name.endswith("sample_inputs/model.pt")]
        for name in names:
            sample = name.endswith("sample_inputs/model.pt")
            new.writestr(name, code.getvalue() if sample else old.read(name))
    return content.getvalue()


@pytest.fixture
def forged_weights(marker: Path) -> bytes:
    """Code in place of weights."""
    code = pickle.dumps(Touch(marker))
    pickle.loads(code)
    assert marker.exists()  # the code would run
    marker.unlink()
    return code


@pytest.fixture
def store(
    tmp_path: Path,
    network: torch.nn.Module,
    graph: bytes,
    tiny_recipe: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
) -> LocalStore:
    """Store with a signed artifact that runs, and a trusted signer."""
    store = LocalStore(tmp_path / "store")
    with store.building("a" * 64) as directory:
        (directory / "artifact" / "programs").mkdir(parents=True)
        (directory / "artifact" / GRAPH).write_bytes(graph)
        save_file(
            {k: v.clone() for k, v in network.state_dict().items()},
            directory / "artifact" / WEIGHTS,
        )
        manifest = Manifest(
            name="digits",
            recipe=tiny_recipe("digits", None, model="linear").model_dump(mode="json"),
            recipe_key="a" * 64,
            inputs=(INPUT,),
            outputs=(OUTPUT,),
            image=None,
            text=None,
            labels=tuple("0123456789"),
            files={
                f: artifact_module.describe(directory / "artifact" / f) for f in (GRAPH, WEIGHTS)
            },
            programs=(entry_of("exported", GRAPH), entry_of("eager", WEIGHTS)),
            quantized_operators=0,
        )
        (directory / "artifact" / MANIFEST).write_bytes(manifest.to_json())
        artifact_id = str(store.publish(directory / "artifact").id)
    key = Ed25519PrivateKey.generate()
    result = signature.sign(artifact_id, key)
    store.keep_signature(artifact_id, result.key_id, result.content)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "trusted").mkdir(mode=0o755)
    (tmp_path / "trusted" / "key.pem").write_bytes(public)
    (tmp_path / "trusted" / "key.pem").chmod(0o644)
    monkeypatch.setenv(TRUSTED_KEYS, str(tmp_path / "trusted"))
    return store


def args(store: LocalStore) -> ModelArgs:
    return ModelArgs(name="m", artifact="digits", store=str(store.root), require_signature=True)


def load(store: LocalStore, kind: str) -> programs.Program:
    """Return the signed artifact's program of a kind, loaded as in a replica."""
    artifact = open_served(args(store))
    entry = next(entry for entry in artifact.manifest.programs if entry.kind == kind)
    return programs.load_entry(artifact, entry, 1)


@pytest.mark.parametrize("kind", ["exported", "eager"])
def test_signed_program_computes(store: LocalStore, network: torch.nn.Module, kind: str) -> None:
    items = np.random.default_rng(0).normal(size=(3, 1, 16, 16)).astype(np.float32)
    (logits,) = load(store, kind).run([items])
    with torch.inference_mode():
        expected = network(torch.from_numpy(items)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_replaced_program_is_not_read(
    store: LocalStore, graph: bytes, forged_graph: bytes, marker: Path
) -> None:
    (open_served(args(store)).path / GRAPH).write_bytes(forged_graph)
    actual, expected = sha256(forged_graph).hexdigest(), sha256(graph).hexdigest()
    with pytest.raises(
        ArtifactCorruptError, match=f"sha256 is {actual}, the manifest names {expected}"
    ):
        load(store, "exported")
    assert not marker.exists()


def test_forged_program_would_run_without_hash_check(
    store: LocalStore, forged_graph: bytes, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (open_served(args(store)).path / GRAPH).write_bytes(forged_graph)
    monkeypatch.setattr(artifact_module, "check_file", lambda path, entry, location: None)
    with suppress(ProgramError):  # PyTorch's error comes too late
        load(store, "exported")
    assert marker.exists()


def test_weights_with_code_are_not_read(
    store: LocalStore, forged_weights: bytes, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (open_served(args(store)).path / WEIGHTS).write_bytes(forged_weights)
    with pytest.raises(
        ArtifactCorruptError, match=f"sha256 is {sha256(forged_weights).hexdigest()}"
    ):
        load(store, "eager")
    # Even without the hash check it would not run: only tensors are read from such a file.
    monkeypatch.setattr(artifact_module, "check_file", lambda path, entry, location: None)
    with pytest.raises(ProgramError, match="cannot be read as safetensors"):
        load(store, "eager")
    assert not marker.exists()


@pytest.mark.parametrize(("kind", "file"), [("exported", GRAPH), ("eager", WEIGHTS)])
def test_one_changed_byte_is_detected(store: LocalStore, kind: str, file: str) -> None:
    path = open_served(args(store)).path / file
    right = path.read_bytes()
    content = bytearray(right)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ArtifactCorruptError, match=f"the manifest names {sha256(right).hexdigest()}"
    ):
        load(store, kind)
    path.write_bytes(right)
    load(store, kind)


def open_served(model: ModelArgs) -> Artifact:
    return open_bound(bind(model))


def bound_unchecked(model: ModelArgs) -> BoundModel:
    """Bind a model as a builder would that checks no signature."""
    bound = bind(model.model_copy(update={"require_signature": False}))
    return BoundModel(model, bound.artifact_id, bound.manifest)


def load_in_replica(model: ModelArgs) -> None:
    ModelReplica(bound_unchecked(model))


def load_in_shard(model: ModelArgs) -> None:
    spec = ShardSpec(bound_unchecked(model), "cpu-x86/aoti/pp2.tp1", 0, 0, failure_timeout_s=1)
    ShardActor(spec).load(same_node=True, group=None)


def test_forged_artifact_under_signed_name_is_refused(
    store: LocalStore, forged_graph: bytes, marker: Path
) -> None:
    """A writer of the store can make everything consistent except the signature."""
    signed = store.open("digits")
    manifest = json.loads((signed.path / MANIFEST).read_text())
    manifest["files"][GRAPH] = {
        "sha256": sha256(forged_graph).hexdigest(),
        "size_bytes": len(forged_graph),
    }
    text = json.dumps(manifest).encode()
    forged_id = content_id(text)
    forged = signed.path.with_name(forged_id)
    (forged / "programs").mkdir(parents=True)
    (forged / GRAPH).write_bytes(forged_graph)
    (forged / WEIGHTS).write_bytes((signed.path / WEIGHTS).read_bytes())
    (forged / MANIFEST).write_bytes(text)
    (store.root / "names" / "digits").write_text(forged_id)
    ((signer, content),) = store.signatures(str(signed.id)).items()
    unsigned = ModelArgs(name="m", artifact="digits", store=str(store.root))
    open_served(unsigned).verify()  # without a required signature it is consistent
    for forged_signature, reason in ((None, "is not signed"), (content, "does not match")):
        if forged_signature is not None:
            store.keep_signature(forged_id, signer, forged_signature)
        for load_served in (open_served, load_in_replica, load_in_shard):
            with pytest.raises(ArtifactUntrustedError, match=reason):
                load_served(args(store))
    assert not marker.exists()
    # Without the signature check, the code would run.
    with suppress(ProgramError):
        programs.load_entry(open_served(unsigned), entry_of("exported", GRAPH), 1)
    assert marker.exists()
