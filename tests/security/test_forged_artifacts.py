"""Files that want to run code: nothing of them is read before their bytes are vouched for."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cluster.artifact import signature
from cluster.artifact.artifact import MANIFEST
from cluster.artifact.local import LocalStore
from cluster.artifact.manifest import content_id
from cluster.artifact.served import TRUSTED_KEYS, open_served
from cluster.config.serving import ModelArgs
from cluster.errors import ArtifactCorruptError, ArtifactUntrustedError
from deployments.model import ModelReplica
from deployments.shard_actor import ShardActor, ShardSpec

Finished = Callable[..., bytes]
PROGRAM = "programs/cpu-x86.pt2"


class Touch:
    """Unpickled, it writes a file: what code in a program would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def forged_pt2(ran: Path) -> bytes:
    """A package as PyTorch writes them, with code where a pickle is expected."""
    code = pickle.dumps(Touch(ran))
    pickle.loads(code)
    assert ran.exists()  # it would run
    ran.unlink()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as package:
        for name in ("archive/data.pkl", "archive/data/sample_inputs/model.pt"):
            package.writestr(name, code)
        package.writestr("archive/version", "3\n")
    return content.getvalue()


@pytest.fixture
def store(tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A store with a signed artifact, and the signer trusted."""
    store = LocalStore(tmp_path / "store")
    with store.building("a" * 64) as room:
        finished(room / "artifact", name="digits")
        artifact_id = str(store.publish(room / "artifact").id)
    key = Ed25519PrivateKey.generate()
    made = signature.sign(artifact_id, key)
    store.keep_signature(artifact_id, made.key_id, made.content)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "key.pem").write_bytes(public)
    monkeypatch.setenv(TRUSTED_KEYS, str(tmp_path / "trusted"))
    return store


def args(store: LocalStore) -> ModelArgs:
    return ModelArgs(name="m", artifact="digits", store=str(store.root), require_signature=True)


def load_in_replica(model: ModelArgs) -> None:
    ModelReplica(model)


def load_in_shard(model: ModelArgs) -> None:
    artifact_id = str(open_served(model.model_copy(update={"require_signature": False})).id)
    spec = ShardSpec(model, artifact_id, "cpu-x86/aoti/pp2.tp1", 0, 0, 1, 1)
    ShardActor(spec).load(same_node=True, group=None)


def test_a_program_put_in_place_of_the_signed_one_is_not_read(
    store: LocalStore, forged_pt2: bytes, ran: Path
) -> None:
    artifact = open_served(args(store))
    (artifact.path / PROGRAM).write_bytes(forged_pt2)
    found, named = sha256(forged_pt2).hexdigest(), sha256(b"program").hexdigest()
    with pytest.raises(
        ArtifactCorruptError, match=f"sha256 is {found}, the manifest names {named}"
    ):
        open_served(args(store)).file(PROGRAM)
    assert not ran.exists()


def test_one_byte_of_a_program_is_enough(store: LocalStore) -> None:
    artifact = open_served(args(store))
    content = bytearray(b"program")
    content[3] ^= 1
    (artifact.path / PROGRAM).write_bytes(content)
    with pytest.raises(ArtifactCorruptError):
        artifact.file(PROGRAM)


def test_a_whole_forged_artifact_under_the_name_of_the_signed_one_is_refused(
    store: LocalStore, forged_pt2: bytes, ran: Path
) -> None:
    """Who may write to the store can make everything agree but the signature."""
    signed = store.open("digits")
    manifest = json.loads((signed.path / MANIFEST).read_text())
    manifest["files"][PROGRAM] = {
        "sha256": sha256(forged_pt2).hexdigest(), "size_bytes": len(forged_pt2)
    }  # fmt: skip
    text = json.dumps(manifest).encode()
    forged_id = content_id(text)
    forged = signed.path.with_name(forged_id)
    (forged / "programs").mkdir(parents=True)
    (forged / PROGRAM).write_bytes(forged_pt2)
    (forged / "weights.safetensors").write_bytes(b"weights")
    (forged / MANIFEST).write_bytes(text)
    (store.root / "names" / "digits").write_text(forged_id)
    ((signer, content),) = store.signatures(str(signed.id)).items()
    unsigned = ModelArgs(name="m", artifact="digits", store=str(store.root))
    open_served(unsigned).verify()  # without a signature nothing is wrong with it
    for given, reason in ((None, "is not signed"), (content, "does not fit")):
        if given is not None:
            store.keep_signature(forged_id, signer, given)
        for load in (open_served, load_in_replica, load_in_shard):
            with pytest.raises(ArtifactUntrustedError, match=reason):
                load(args(store))
    assert not ran.exists()
