"""Authentication and admission: keys, models, quotas, and a key file that changes."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import pickle
import subprocess
import sys
import traceback
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send
from support.wait import until

from cluster.config.clients import Client
from cluster.errors import ConfigError
from cluster.routing.quota import level, new_floor, wait_s
from deployments.http import keys as keys_module
from deployments.http.auth import (
    ApiKeys,
    Authenticator,
    Rule,
    any_client,
    door,
    foreign,
    in_proxy,
    middleware,
    only,
)
from deployments.http.keys import FILE_VARIABLE, VARIABLE, Keys, configured
from deployments.http.quotas import Quotas

WEB, NIGHT, SLOW = "web-key-0123456789", "night-key-0123456789", "slow-key-0123456789"
CLIENTS = [
    {"name": "web", "key": WEB},
    {
        "name": "night",
        "key_sha256": sha256(NIGHT.encode()).hexdigest(),
        "models": ["digits", "cifar-*"],
    },
    {"name": "slow", "key": SLOW, "requests_per_s": 0.5, "burst": 2},
]
ROUTER = "secret-of-the-router"
INFER = "/v2/models/digits/infer"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump({"clients": CLIENTS}))
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    return path


@pytest.fixture
def keys(file: Path) -> Keys:
    configured_keys = configured()
    assert configured_keys is not None
    return configured_keys


Door = Any


@pytest.fixture
def ask(keys: Keys, tmp_path: Path) -> Door:
    """Return ``ask(path, method, model="digits", rule=None, **headers)`` at a model's door."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        names = [name.decode() for name, _ in scope["headers"]]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(names).encode()})

    authenticator = Authenticator(keys, Quotas(tmp_path / "quotas"), ROUTER)

    def one(
        path: str,
        method: str = "POST",
        model: str = "digits",
        rule: Rule | None = None,
        **headers: str,
    ) -> tuple[int, dict[str, str], Any]:
        sent: list[Message] = []
        inner = ApiKeys(app, authenticator, rule or only(model))
        # As in a replica: the middleware first, then the application's door.
        door = ApiKeys(inner, authenticator, any_client)

        async def send(message: Message) -> None:
            sent.append(message)

        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": method, "path": path, "headers": raw}
        asyncio.run(door(scope, None, send))  # type: ignore[arg-type]
        fields = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], fields, json.loads(sent[1]["body"])

    return one


def test_key_is_accepted_in_either_header(ask: Door) -> None:
    assert ask(INFER, authorization=f"Bearer {WEB}")[0] == 200
    assert ask(INFER, authorization=f"bearer  {WEB} ")[0] == 200
    assert ask(INFER, x_api_key=NIGHT)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": f"Basic {WEB}"},
        {"authorization": "Bearer wrong-key-0123456789"},
        {"authorization": f"Bearer {sha256(NIGHT.encode()).hexdigest()}"},
        {"x_api_key": WEB[:-1]},
        {"x_headrace_router": "guessed"},
    ],
)
def test_anything_else_is_401(ask: Door, headers: dict[str, str]) -> None:
    for path, method in (
        (INFER, "POST"),
        ("/v2/models", "GET"),
        ("/v2/health/livex", "GET"),
        ("/-/routes", "GET"),
        ("/-/healthz/..", "GET"),
    ):
        status, sent, body = ask(path, method, **headers)
        assert (status, sent["www-authenticate"]) == (401, "Bearer")
        assert list(body) == ["error"]
        assert WEB not in body["error"]


def test_key_gives_access_to_its_models_only(ask: Door) -> None:
    # The model's name decides, whatever path leads to it.
    for path in ("/v2/models/digits/infer", "/v2/models/secret", "/digits/infer", "/", "//x"):
        for model, status in (("digits", 200), ("cifar-10", 200), ("secret", 403)):
            assert ask(path, model=model, x_api_key=NIGHT)[0] == status
            assert ask(path, "GET", model=model, x_api_key=NIGHT)[0] == status
    assert (
        "night gives no access to secret" in ask(INFER, model="secret", x_api_key=NIGHT)[2]["error"]
    )


def test_server_paths_are_for_every_client(ask: Door) -> None:
    assert ask("/v2/models", "GET", rule=any_client, x_api_key=NIGHT)[0] == 200
    assert ask("/v2/models", "GET", rule=any_client)[0] == 401


def test_proxy_refuses_other_paths_without_key_for_all(ask: Door) -> None:
    """A foreign application has no door behind Serve's own proxy."""
    for key, status in ((NIGHT, 403), (WEB, 200)):
        for path in ("/theirs", "/v2-secret/run", "/v2beta", "/v2/theirs", "/v2/models/theirs/run"):
            assert ask(path, rule=in_proxy, x_api_key=key)[0] == status, path
        for path in ("/v2/models/digits", "/v2/models/digits/infer", "/v2", "/v2/models"):
            assert ask(path, rule=in_proxy, x_api_key=key)[0] == 200, path
    assert [ask("/theirs", rule=in_proxy, x_api_key=SLOW)[0] for _ in range(3)] == [200, 200, 429]


def test_proxy_passes_a_scope_that_it_can_pickle(keys: Keys, tmp_path: Path) -> None:
    """Serve's proxy sends the scope to a replica in another process."""
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    door = middleware(Authenticator(keys, Quotas(tmp_path / "quotas"), ROUTER), None)
    headers = [(b"x-api-key", WEB.encode())]
    scope = {"type": "http", "method": "POST", "path": INFER, "headers": headers}
    asyncio.run(door.cls(app, **door.kwargs)(scope, None, None))  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(scopes[0]))["headers"] == headers


def test_foreign_application_needs_key_for_its_name(ask: Door) -> None:
    for name, status in (("digits", 200), ("theirs", 403)):
        assert ask("/any", rule=foreign(name), x_api_key=NIGHT)[0] == status
    statuses = [ask("/any", "GET", rule=foreign("theirs"), x_api_key=SLOW)[0] for _ in range(3)]
    assert statuses == [200, 200, 429]  # a GET of theirs may compute


def test_application_refuses_node_without_its_keys(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

    monkeypatch.delenv(FILE_VARIABLE)
    with pytest.raises(ConfigError, match="this node has none, the node that built the"):
        door(app, "digits", has_keys=True)
    assert door(app, "digits", has_keys=False) is app


def test_probes_need_no_key(ask: Door) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/-/healthz"):
        assert ask(path, "GET")[0] == 200
        assert ask(path, "POST")[0] == 401  # a probe computes nothing


def test_quota_counts_every_request_that_computes(ask: Door) -> None:
    for _ in range(5):
        assert ask("/v2/models/digits", "GET", x_api_key=SLOW)[0] == 200
    paths = (INFER, "/digits/infer", "/v2/models/digits/versions/1/predict")
    assert [ask(path, x_api_key=SLOW)[0] for path in paths] == [200, 200, 429]
    status, headers, body = ask("/anything", x_api_key=SLOW)
    assert status == 429
    assert 1 <= int(headers["retry-after"]) <= 2
    assert "slow may send 0.5 requests per second" in body["error"]
    assert ask(INFER, x_api_key=WEB)[0] == 200


def test_router_requests_are_not_counted(ask: Door, keys: Keys) -> None:
    for _ in range(4):
        assert ask(INFER, x_headrace_router=ROUTER)[0] == 200


def test_lent_body_header_is_removed_from_client_requests(ask: Door) -> None:
    assert "x-headrace-body" in ask(INFER, x_headrace_router=ROUTER, x_headrace_body="1:2")[2]
    assert ask(INFER, x_api_key=WEB, x_headrace_body="1:2")[2] == ["x-api-key"]


def test_client_cannot_derive_router_key(ask: Door, keys: Keys) -> None:
    digests = b"".join(sorted(client.digest for client in keys._clients.values()))
    for key in (b"headrace router", sha256(ROUTER.encode()).digest(), WEB.encode()):
        guess = hmac.new(digests, key, sha256).hexdigest()
        assert ask(INFER, x_headrace_router=guess)[0] == 401


def test_changed_key_file_is_read_again_unless_broken(
    ask: Door, keys: Keys, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "CHECK_INTERVAL_S", 0.0)
    new = "another-key-0123456789"
    file.write_text(yaml.safe_dump({"clients": [{"name": "web", "key": new}]}))
    os.utime(file, (1, 1))
    until(lambda: ask(INFER, x_api_key=WEB)[0] == 401)
    assert ask(INFER, x_api_key=new)[0] == 200
    file.write_text("clients: [")
    os.utime(file, (2, 2))
    assert ask(INFER, x_api_key=new)[0] == 200
    file.unlink()
    assert ask(INFER, x_api_key=new)[0] == 200


def test_keys_are_read_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured() is None
    monkeypatch.setenv(VARIABLE, "clients: [{name: web, key: 0123456789abcdef}]")
    keys = configured()
    assert keys is not None
    client = keys.find("0123456789abcdef")
    assert client is not None
    assert client.name == "web"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clients: []", "clients: .*at least 1"),
        ("clients: [{name: a}]", r"clients\[0\]: give key or key_sha256; got neither"),
        ("clients: [{name: a, key: short}]", "at least 16 characters"),
        ("clients: [{name: a, key: 0123456789abcdef, burst: 3}]", "burst needs requests_per_s"),
        (
            "clients: [{name: a, key: 0123456789abcdef}, {name: a, key: 0123456789abcdeX}]",
            r"clients\[0\] and clients\[1\] have the same name",
        ),
        (
            "clients: [{name: a, key: 0123456789abcdef}, {name: b, key: 0123456789abcdef}]",
            r"clients\[0\] and clients\[1\] have the same key",
        ),
        # No header could carry them, so they would never open anything.
        ("clients: [{name: a, key: 'schlüssel-schlüssel'}]", "a header cannot carry this one"),
        ("clients: [{name: a, key: '0123456789abcdef '}]", "a header cannot carry this one"),
        ("clients: [{name: a, key: '                '}]", "a header cannot carry this one"),
        ('clients: [{name: a, key: "0123456789abcdef\\n"}]', "a header cannot carry this one"),
        ('clients: [{name: a, key: "0123456789\\0abcdef"}]', "a header cannot carry this one"),
        ("clients: [", "not valid YAML"),
        ("clients: []\nclients: []", "not valid YAML: line 2, column 1: duplicate key"),
        ("clients: " + "[" * 20_000, "not valid YAML: line 1, column 110"),
        ("clients: [{name: 2024-13-45}]", "not valid YAML: line 1, column 18"),
        ("web", "expected a mapping"),
    ],
)
def test_invalid_keys_are_config_error(
    monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ConfigError, match=message):
        configured()


SHOWING = [
    "clients: [{name: a, key: hunter2}]",
    "clients: [{name: a, kye: hunter2}]",
    "clients: [{name: a, key:hunter2}]",
    "clients: [{hunter2: a}]",
    "hunter2: []",
    "clients: [{name: hunter2}]",
    "clients: [{name: hunter2, key: short}]",
    "clients: [{name: hunter2, kye: short}]",
    "clients: [{name: 'a hunter2', key: 0123456789abcdef}]",
    "clients: [{name: a, key: 'hunter2 hunter2 hunter2'}]",
    "clients: [{name: a, key: 'hunter2-\u00fc-hunter2'}]",
    "clients: [{name: a, key_sha256: hunter2}]",
    "clients: [{name: a, key: hunter2-hunter2-hunter2, requests_per_s: hunter2}]",
    "clients: hunter2",
    "clients: [hunter2]",
    "clients: [hunter2",
    "clients: [{name: a, key: hunter2-hunter2-hunter2",
    "clients: [{name: a, key: hunter2-hunter2-hunter2}, {name: a, key: hunter2-hunter2-hunter2}]",
    "clients: [{name: a, hunter2: 1, hunter2: 2}]",
    'clients:\n- name: a\n  key: "hunter2-hunter2-hunter2\n- name: b\n',
    "clients:\n- name: a\n\tkey: hunter2\n",
    "clients:\n- name: a\n  key:hunter2\n",
    "clients: [{name: a, key: *hunter2}]",
    "clients: [{name: a, key: !hunter2 b}]",
    "clients: [{name: a, key: @hunter2}]",
    "clients: [{name: a, key: %hunter2}]",
    "clients: [{name: a, key: !!int hunter2}]",
    "clients: [{name: a, key: !!bool hunter2}]",
    "clients: [{name: a, key: hunter2\x01}]",
    "? [hunter2]\n: 1",
]


@pytest.mark.parametrize("text", SHOWING)
@pytest.mark.parametrize("by_file", [True, False])
def test_no_error_shows_a_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, by_file: bool
) -> None:
    if by_file:
        (tmp_path / "keys.yaml").write_text(text)
        monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "keys.yaml"))
    else:
        monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ConfigError) as error:
        configured()
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("text", SHOWING)
def test_no_log_shows_a_key(
    keys: Keys,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    text: str,
) -> None:
    monkeypatch.setattr(keys_module, "CHECK_INTERVAL_S", 0.0)
    file.write_text(text)
    os.utime(file, (1, 1))
    with caplog.at_level(logging.ERROR, "ray.serve"):
        for _ in range(3):
            keys.refresh()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the API keys are unchanged"  # once, not at every request
    ]
    assert "hunter2" not in caplog.text
    assert keys.find(WEB) is not None


def test_two_key_sources_or_missing_file_are_rejected(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "clients: []")
    with pytest.raises(ConfigError, match="are both set"):
        configured()
    monkeypatch.delenv(VARIABLE)
    file.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        configured()
    file.mkdir()
    with pytest.raises(ConfigError, match=f"{FILE_VARIABLE}={file}: expected a file, got a dir"):
        configured()
    monkeypatch.setenv(FILE_VARIABLE, "/dev/null")
    with pytest.raises(ConfigError, match="/dev/null: expected a file, got a device"):
        configured()


def test_relative_key_file_is_rejected(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv(FILE_VARIABLE, file.name)
    with pytest.raises(ConfigError, match=f"keys.yaml: expected an absolute path.*give {file}"):
        configured()


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o644])
def test_keys_are_read_from_mounted_kubernetes_secret(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """The file is a link into a directory that a change of the Secret replaces."""
    secret = tmp_path / "secret"
    secret.mkdir()

    def mounted(version: str, text: str) -> None:
        (secret / version).mkdir()
        (secret / version / "keys.yaml").write_text(text)
        (secret / version / "keys.yaml").chmod(mode)
        os.utime(secret / version / "keys.yaml", (len(version), len(version)))
        (secret / "..new").symlink_to(version)
        (secret / "..new").replace(secret / "..data")

    mounted("..1", file.read_text())
    (secret / "keys.yaml").symlink_to("..data/keys.yaml")
    monkeypatch.setenv(FILE_VARIABLE, str(secret / "keys.yaml"))
    monkeypatch.setattr(keys_module, "CHECK_INTERVAL_S", 0.0)
    keys = configured()
    assert keys is not None
    assert keys.find(WEB) is not None
    mounted("..22", "clients: [{name: new, key: a-key-that-came-later}]")
    keys.refresh()
    assert keys.find(WEB) is None
    assert keys.find("a-key-that-came-later") is not None


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 20),
    pauses=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 2)), max_size=60),
)
def test_quota_admits_same_requests_as_token_bucket(
    rate: float, burst: int, pauses: list[tuple[float, int]]
) -> None:
    """Compare with a token bucket, with requests spread over three processes."""
    consumed, floors = [0, 0, 0], [0.0, 0.0, 0.0]
    tokens, now = float(burst), 0.0
    for pause, process in pauses:
        now += pause
        tokens = min(burst, tokens + rate * pause)
        floors[process] = new_floor(min(floors), sum(consumed), rate, now)
        level_now = level(min(floors), sum(consumed), rate, burst, now)
        assert level_now == pytest.approx(tokens, abs=1e-6)
        delay_s = wait_s(level_now, rate)
        if delay_s == 0:
            consumed[process] += 1
            tokens -= 1
        else:
            after = level(min(floors), sum(consumed), rate, burst, now + delay_s)
            assert after == pytest.approx(1, abs=1e-6)


PROCESS = """
import sys
from pathlib import Path
from cluster.config.clients import Client
from deployments.http.quotas import Quotas
quotas = Quotas(Path(sys.argv[1]))
client = Client(name="a", key="0123456789abcdef", requests_per_s=0.001, burst=300)
print(sum(quotas.take(client) == 0 for _ in range(200)))
"""


def test_processes_of_node_share_quota(tmp_path: Path) -> None:
    run = [sys.executable, "-c", PROCESS, str(tmp_path / "quotas")]
    processes = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    admitted = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(admitted) == 300
    assert (tmp_path / "quotas").stat().st_mode & 0o077 == 0


def test_client_without_quota_is_not_counted(tmp_path: Path) -> None:
    quotas = Quotas(tmp_path / "quotas")
    assert quotas.take(Client(name="a", key="0123456789abcdef")) == 0
    assert not (tmp_path / "quotas").exists()


HOLDER = """
import os, signal, sys
from pathlib import Path
from cluster.config.clients import Client
from deployments.http.quotas import Quotas
quotas = Quotas(Path(sys.argv[1]))
client = Client(name="a", key="0123456789abcdef", requests_per_s=0.001, burst=2)
class Stop:
    def __enter__(self): os.kill(os.getpid(), signal.SIGSTOP)
    def __exit__(self, *_): pass
quotas.take(client)
quotas._fence = Stop()
quotas.take(client)
"""


def test_stopped_process_blocks_no_other(tmp_path: Path) -> None:
    """The process stops in the middle of a count, after writing its claim."""
    run = [sys.executable, "-c", HOLDER, str(tmp_path / "quotas")]
    client = Client(name="a", key="0123456789abcdef", requests_per_s=0.001, burst=2)
    holder = subprocess.Popen(run)
    try:
        os.waitpid(holder.pid, os.WUNTRACED)  # until it is stopped
        assert Quotas(tmp_path / "quotas").take(client) > 0  # its claims count, without waiting
    finally:
        holder.kill()
        holder.wait(timeout=60)
