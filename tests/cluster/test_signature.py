"""Signatures of artifacts: signing, trust, and refusals."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from cluster.artifact import signature
from cluster.artifact.local import LocalStore
from cluster.artifact.remote import RemoteStore
from cluster.artifact.served import TRUSTED_KEYS, BoundModel, bind, open_bound
from cluster.artifact.signature import Verdict
from cluster.artifact.store import ArtifactStore
from cluster.config.serving import ModelArgs
from cluster.errors import ArtifactNotFoundError, ArtifactUntrustedError, ConfigError
from deployments.cli import sign as sign_cli

Finished = Callable[..., bytes]
KEY = "a" * 64


def openssl(*arguments: object) -> None:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def private_key(path: Path) -> Path:
    """Path of a key created as in the documentation."""
    openssl("genpkey", "-algorithm", "ed25519", "-out", path)
    path.chmod(0o600)
    return path


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return private_key(tmp_path / "mine.pem")


@pytest.fixture
def trusted(tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directory of trusted keys with the test's key, set in the environment."""
    directory = tmp_path / "trusted"
    directory.mkdir(mode=0o755)
    openssl("pkey", "-in", mine, "-pubout", "-out", directory / "mine.pem")
    (directory / "mine.pem").chmod(0o644)
    monkeypatch.setenv(TRUSTED_KEYS, str(directory))
    return directory


@pytest.fixture(params=["local", "remote"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Location of a store of each kind."""
    if request.param == "local":
        yield str(tmp_path / "store")
        return
    filesystem = fsspec.filesystem("memory")
    yield "memory://headrace-signed/store"
    if filesystem.exists("/headrace-signed"):
        filesystem.rm("/headrace-signed", recursive=True)


@pytest.fixture
def store(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return LocalStore(Path(place)) if "://" not in place else RemoteStore.at(place)


@pytest.fixture
def artifact_id(store: ArtifactStore, finished: Finished) -> str:
    return published(store, finished, "digits")


def published(store: ArtifactStore, finished: Finished, name: str) -> str:
    with store.building(KEY) as room:
        finished(room / "artifact", name=name, key=KEY)
        return str(store.publish(room / "artifact").id)


def sign(store: ArtifactStore, artifact_id: str, key: Path) -> str:
    result = signature.sign(artifact_id, signature.read_private_key(key))
    store.keep_signature(artifact_id, result.key_id, result.content)
    return result.key_id


def args(place: str, **fields: object) -> ModelArgs:
    return ModelArgs.model_validate(
        {"name": "m", "artifact": "digits", "store": place, "require_signature": True} | fields
    )


def test_signed_artifact_is_served(
    store: ArtifactStore, place: str, artifact_id: str, mine: Path, trusted: Path
) -> None:
    sign(store, artifact_id, mine)
    assert open_bound(bind(args(place))).id == artifact_id
    bound = bind(args(place))
    renamed = BoundModel(args(place, artifact="other"), bound.artifact_id, bound.manifest)
    assert open_bound(renamed).id == artifact_id  # no process of a deployment looks a name up


def test_unsigned_artifact_is_refused_if_signature_required(
    store: ArtifactStore, place: str, artifact_id: str, trusted: Path
) -> None:
    # With the whole id: another artifact could be crafted with the same prefix.
    with pytest.raises(
        ArtifactUntrustedError,
        match=f"model m: artifact {artifact_id} is not signed.*headrace sign {artifact_id} --key",
    ):
        open_bound(bind(args(place)))
    assert open_bound(bind(args(place, require_signature=False))).id == artifact_id


def test_unsigned_artifact_is_not_downloaded(
    trusted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    filesystem, unsigned = fsspec.filesystem("memory"), "c" * 64
    filesystem.pipe_file(f"/headrace-unsigned/artifacts/{unsigned}/weights.safetensors", b"x")
    filesystem.pipe_file("/headrace-unsigned/names/digits", unsigned.encode())
    try:
        # There is no manifest: a lookup of it would be the error instead.
        with pytest.raises(ArtifactUntrustedError, match=f"artifact {unsigned} is not signed"):
            open_bound(bind(args("memory://headrace-unsigned")))
        with pytest.raises(ArtifactNotFoundError):
            open_bound(bind(args("memory://headrace-unsigned", require_signature=False)))
    finally:
        filesystem.rm("/headrace-unsigned", recursive=True)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_id_prefix_cannot_name_another_artifact(
    store: ArtifactStore,
    place: str,
    artifact_id: str,
    mine: Path,
    trusted: Path,
    finished: Finished,
) -> None:
    """A writer of the store must not redirect a signer or a replica to another artifact."""
    evil = published(store, finished, "evil")
    for length in (8, 12, 63, 64):
        if isinstance(store, LocalStore):
            (store.root / "names" / artifact_id[:length]).write_text(evil)
        else:
            names = "/headrace-signed/store/names/"
            fsspec.filesystem("memory").pipe_file(f"{names}{artifact_id[:length]}", evil.encode())
        assert store.find(artifact_id[:length]) == artifact_id
        assert store.open(artifact_id[:length]).id == artifact_id
    assert sign_cli.sign(artifact_id[:12], mine, place) == 0
    assert list(store.signatures(artifact_id)) != []
    assert store.signatures(evil) == {}
    assert open_bound(bind(args(place, artifact=artifact_id[:12]))).id == artifact_id


def test_untrusted_signature_neither_suffices_nor_harms(
    store: ArtifactStore, place: str, artifact_id: str, mine: Path, trusted: Path, tmp_path: Path
) -> None:
    stranger = sign(store, artifact_id, private_key(tmp_path / "stranger.pem"))
    with pytest.raises(ArtifactUntrustedError, match=f"is signed by {stranger}, not by one of"):
        open_bound(bind(args(place)))
    signer = sign(store, artifact_id, mine)
    assert set(store.signatures(artifact_id)) == {stranger, signer}
    assert open_bound(bind(args(place))).id == artifact_id


@pytest.mark.parametrize("content", [b"", b"x", bytes(64), bytes(1000)])
def test_mismatched_signature_is_refused(
    store: ArtifactStore, place: str, artifact_id: str, mine: Path, trusted: Path, content: bytes
) -> None:
    signer = sign(store, artifact_id, mine)
    store.keep_signature(artifact_id, signer, content)
    with pytest.raises(ArtifactUntrustedError, match=f"trusted key {signer} does not match"):
        open_bound(bind(args(place)))


def test_signature_of_another_artifact_is_refused(
    store: ArtifactStore,
    place: str,
    artifact_id: str,
    mine: Path,
    trusted: Path,
    finished: Finished,
) -> None:
    second = published(store, finished, "other")
    signer = sign(store, second, mine)
    store.keep_signature(artifact_id, signer, store.signatures(second)[signer])
    with pytest.raises(ArtifactUntrustedError, match="does not match"):
        open_bound(bind(args(place)))


def test_signature_of_bare_id_is_wrong(artifact_id: str, mine: Path) -> None:
    # A key may sign other messages, which must not pass for an artifact's signature.
    key = signature.read_private_key(mine)
    signer = signature.key_id(key.public_key())
    trusted = {signer: key.public_key()}
    signatures = {signer: key.sign(artifact_id.encode())}
    assert signature.judge(artifact_id, signatures, trusted) == {signer: Verdict.WRONG}
    signatures = {signer: key.sign(signature.message(artifact_id))}
    assert signature.judge(artifact_id, signatures, trusted) == {signer: Verdict.TRUSTED}
    assert signature.judge(artifact_id, signatures, {}) == {signer: Verdict.UNKNOWN}


def test_revoked_signature_does_not_count(
    store: ArtifactStore, place: str, artifact_id: str, mine: Path, trusted: Path
) -> None:
    signer = sign(store, artifact_id, mine)
    content = store.signatures(artifact_id)[signer]
    open_bound(bind(args(place)))  # a remote store has it in the cache now
    if isinstance(store, LocalStore):
        (store.root / "signatures" / artifact_id / signer).unlink()
    else:
        fsspec.filesystem("memory").rm(f"/headrace-signed/store/signatures/{artifact_id}/{signer}")
    with pytest.raises(ArtifactUntrustedError, match="is not signed"):
        open_bound(bind(args(place)))
    # A copy of the public signature can be restored; lasting revocation removes the trusted key.
    store.keep_signature(artifact_id, signer, content)
    open_bound(bind(args(place)))
    (trusted / "mine.pem").rename(trusted / "mine.pem.withdrawn")
    with pytest.raises(ConfigError, match="holds no trusted key"):
        open_bound(bind(args(place)))


def test_signing_leaves_artifact_unchanged(tmp_path: Path, finished: Finished) -> None:
    store = LocalStore(tmp_path / "store")
    artifact_id = published(store, finished, "digits")
    artifact = store.open("digits")
    before = {path: path.read_bytes() for path in artifact.path.rglob("*") if path.is_file()}
    signer = sign(store, artifact_id, private_key(tmp_path / "key.pem"))
    assert before == {p: p.read_bytes() for p in artifact.path.rglob("*") if p.is_file()}
    file = store.root / "signatures" / artifact_id / signer
    assert file.stat().st_size == 64
    (file.parent / "notes.txt").write_text("no signature")
    assert list(store.signatures(artifact_id)) == [signer]


def test_openssl_verifies_signature(tmp_path: Path, mine: Path, artifact_id: str) -> None:
    result = signature.sign(artifact_id, signature.read_private_key(mine))
    (tmp_path / "message").write_bytes(signature.message(artifact_id))
    (tmp_path / "signature").write_bytes(result.content)
    openssl(
        "pkeyutl",
        "-verify",
        "-rawin",
        "-inkey",
        mine,
        "-in",
        tmp_path / "message",
        "-sigfile",
        tmp_path / "signature",
    )


# ------------------------------------------------------------------ keys


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_private_key_readable_by_others_is_refused(mine: Path, mode: int) -> None:
    mine.chmod(mode)
    with pytest.raises(
        ConfigError, match=rf"others can read .*mode {mode:o}\): `chmod 600 {mine}`"
    ):
        signature.read_private_key(mine)


def test_private_key_rejects_non_files_without_chmod_advice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (tmp_path, "a directory"),
        (Path(""), "a directory"),
        (Path("/dev/null"), "a device, pipe or socket"),
        (tmp_path / "pipe", "a device, pipe or socket"),
    ):
        with pytest.raises(ConfigError, match=f"expected a file, got {kind}") as error:
            signature.read_private_key(path)
        assert "chmod" not in str(error.value)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_openssh_key_is_refused_with_conversion_command(tmp_path: Path) -> None:
    key = tmp_path / "it's a key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with pytest.raises(ConfigError, match="expected a key in openssl's format, got OpenSSH's") as e:
        signature.read_private_key(key)
    (command,) = re.findall(r"convert it: `(.*)`", str(e.value))
    assert command.startswith("(umask 077; python -c ")
    command = command.replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    converted = signature.read_private_key(tmp_path / "KEY.pem").public_key().public_bytes_raw()
    public_key = load_ssh_public_key((tmp_path / "it's a key.pub").read_bytes())
    assert isinstance(public_key, Ed25519PublicKey)
    assert converted == public_key.public_bytes_raw()


def test_wrong_private_key_is_refused(tmp_path: Path, mine: Path) -> None:
    files = {name: tmp_path / f"{name}.pem" for name in ("none", "ec", "public", "locked")}
    with pytest.raises(ConfigError, match=r"none\.pem: cannot be read: No such file"):
        signature.read_private_key(files["none"])
    openssl(
        "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", files["ec"]
    )
    openssl("pkey", "-in", mine, "-pubout", "-out", files["public"])
    openssl("pkey", "-in", mine, "-aes256", "-passout", "pass:secret", "-out", files["locked"])
    files["none"].write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    for name, expected in (
        ("ec", "expected an ed25519 key, got E"),
        ("public", "holds no private key in PEM"),
        ("locked", "the key is encrypted"),
        ("none", "holds no private key in PEM"),
    ):
        files[name].chmod(0o600)
        with pytest.raises(ConfigError, match=expected):
            signature.read_private_key(files[name])


@pytest.mark.parametrize("value", [None, ""])
def test_missing_trusted_keys_error_names_variable(
    store: ArtifactStore,
    place: str,
    artifact_id: str,
    mine: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
) -> None:
    sign(store, artifact_id, mine)
    monkeypatch.delenv(TRUSTED_KEYS, raising=False)
    if value is not None:
        monkeypatch.setenv(TRUSTED_KEYS, value)
    with pytest.raises(ConfigError, match="model m: require_signature is true, but HEADRACE_TRUST"):
        open_bound(bind(args(place)))


def test_wrong_directory_of_trusted_keys_is_refused(
    trusted: Path, mine: Path, tmp_path: Path
) -> None:
    assert len(signature.read_trusted_keys(trusted)) == 1
    (trusted / "README").write_text("not a key, and not named like one")
    assert len(signature.read_trusted_keys(trusted)) == 1
    os.symlink(mine, trusted / "private.pem")
    with pytest.raises(ConfigError, match=r"private\.pem: holds no public key in PEM"):
        signature.read_trusted_keys(trusted)
    (trusted / "private.pem").unlink()
    (trusted / "folder.pem").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.pem: expected a file, got a directory"):
        signature.read_trusted_keys(trusted)
    (tmp_path / "empty").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="holds no trusted key; store public keys there"):
        signature.read_trusted_keys(tmp_path / "empty")
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        signature.read_trusted_keys(tmp_path / "absent")
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        signature.read_trusted_keys(mine)


def test_second_key_in_file_is_refused(trusted: Path, mine: Path, tmp_path: Path) -> None:
    openssl("pkey", "-in", private_key(tmp_path / "b.pem"), "-pubout", "-out", tmp_path / "b.pub")
    key = trusted / "mine.pem"
    for second in (key.read_text(), (tmp_path / "b.pub").read_text(), mine.read_text()):
        both = trusted / "both.pem"
        both.write_text(key.read_text() + second)
        both.chmod(0o644)
        with pytest.raises(ConfigError, match=r"both\.pem: holds 2 keys .*each in a separate file"):
            signature.read_trusted_keys(trusted)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
def test_trusted_directory_writable_by_others_is_refused(trusted: Path, mode: int) -> None:
    trusted.chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:o}\), .*`chmod go-w {trusted}`"):
        signature.read_trusted_keys(trusted)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_trusted_key_writable_by_others_is_refused(trusted: Path, mode: int) -> None:
    key = trusted / "mine.pem"
    key.chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:o}\), .*`chmod go-w {key}`"):
        signature.read_trusted_keys(trusted)


def test_link_to_key_in_shared_directory_is_refused(trusted: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (trusted / "mine.pem").rename(shared / "key.pem")
    os.symlink(shared / "key.pem", trusted / "mine.pem")
    shared.chmod(0o755)
    assert len(signature.read_trusted_keys(trusted)) == 1
    shared.chmod(0o777)
    with pytest.raises(ConfigError, match=rf"mine\.pem: {shared}: others can change it"):
        signature.read_trusted_keys(trusted)


def as_secret(directory: Path, key: Path, folder_mode: int, mode: int) -> None:
    """Create links and directories as Kubernetes does for a mounted Secret."""
    version = directory / "..2026_11_24_10_00_00.123"
    version.mkdir()
    (version / "team.pem").write_bytes(key.read_bytes())
    (version / "team.pem").chmod(mode)
    version.chmod(folder_mode)
    os.symlink(version.name, directory / "..data")
    os.symlink("..data/team.pem", directory / "team.pem")


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o444, 0o644])
def test_kubernetes_secret_serves_as_trusted_directory(
    trusted: Path, tmp_path: Path, mode: int
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o755)
    as_secret(secret, trusted / "mine.pem", 0o2755, mode)
    assert signature.read_trusted_keys(secret).keys() == signature.read_trusted_keys(trusted).keys()


def test_mode_of_read_only_mounted_secret_is_ignored(trusted: Path, tmp_path: Path) -> None:
    # Kubernetes mounts the directory in the pod read-only, with mode 1777.
    secret = tmp_path / "secret"
    secret.mkdir()

    def mount(*options: str) -> subprocess.CompletedProcess[str]:
        command = ["mount", *options, "tmpfs", secret]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    mounted = mount("-t", "tmpfs", "-o", "mode=1777")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        as_secret(secret, trusted / "mine.pem", 0o755, 0o644)
        with pytest.raises(ConfigError, match="mode 1777"):
            signature.read_trusted_keys(secret)
        assert mount("-o", "remount,ro").returncode == 0
        assert len(signature.read_trusted_keys(secret)) == 1
    finally:
        subprocess.run(["umount", secret], check=True)


def test_relative_trusted_directory_is_refused(
    store: ArtifactStore,
    place: str,
    artifact_id: str,
    mine: Path,
    trusted: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sign(store, artifact_id, mine)
    monkeypatch.chdir(trusted.parent)
    for value in ("trusted", "./trusted", "~nobody-of-that-name/trusted"):
        monkeypatch.setenv(TRUSTED_KEYS, value)
        with pytest.raises(ConfigError, match=f"{TRUSTED_KEYS}=.*expected an absolute path"):
            open_bound(bind(args(place)))
    monkeypatch.setenv("HOME", str(trusted.parent))
    monkeypatch.setenv(TRUSTED_KEYS, "~/trusted")
    assert open_bound(bind(args(place))).id == artifact_id
