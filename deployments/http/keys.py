"""API keys of clients, from a file or from the environment.

    HEADRACE_API_KEYS_FILE=/absolute/keys.yaml  ┐
    HEADRACE_API_KEYS='clients: [...]'          ┴→ Keys: key → Client, or None; neither: no keys

A changed file is read again within a second. No error shows any of its text: errors reach logs and
Serve's status.
"""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from cluster.config.base import load, parse
from cluster.config.clients import Client, Clients
from cluster.config.guarded_files import require_absolute, require_file
from cluster.config.plain_yaml import parse_yaml
from cluster.errors import ConfigError

logger = logging.getLogger("ray.serve")

FILE_VARIABLE = "HEADRACE_API_KEYS_FILE"
VARIABLE = "HEADRACE_API_KEYS"

LOOK_AGAIN_S = 1.0
"""How often the file is looked at for another modification time."""


class Keys:
    """The clients as they stand in the file, or the environment, now."""

    def __init__(self, read: Callable[[], Clients], modified: Callable[[], float]) -> None:
        self._read = read
        self._modified = modified
        self._looked = time.monotonic()
        self._version = modified()
        self._said = ""
        self._set(read())

    def _set(self, clients: Clients) -> None:
        self._clients = clients.clients

    def refresh(self) -> None:
        """Read a changed file again; one that cannot be read leaves the keys as they are."""
        now = time.monotonic()
        if now - self._looked < LOOK_AGAIN_S:
            return
        self._looked = now
        try:
            version = self._modified()
            if version != self._version:
                self._set(self._read())
                self._version = version
            self._said = ""
        except ConfigError as error:
            if self._said != str(error):  # once, and not every second until it is mended
                self._said = str(error)
                logger.error("the API keys stay as they were: %s", error)

    def find(self, key: str) -> Client | None:
        """Whose key that is. Takes as long for every key of a length, known or not."""
        digest = sha256(key.encode()).digest()
        found = None
        for client in self._clients:
            if hmac.compare_digest(client.digest, digest):
                found = client
        return found


def configured() -> Keys | None:
    """The keys that the environment asks for; None if it asks for none.

    ConfigError if they cannot be read: a server that should be closed does not open.
    """
    path, text = os.environ.get(FILE_VARIABLE), os.environ.get(VARIABLE)
    if path and text:
        raise ConfigError(f"{FILE_VARIABLE} and {VARIABLE} are both set; unset one of them")
    if path:
        file, what = Path(path), f"{FILE_VARIABLE}={path}"
        require_absolute(file, FILE_VARIABLE)
        return Keys(lambda: load(file, Clients, secret=True), lambda: _modified(file, what))
    if text:
        return Keys(lambda: _parsed(text), lambda: 0.0)
    return None


def _modified(file: Path, what: str) -> float:
    require_file(file, what)
    try:
        return file.stat().st_mtime
    except OSError as error:
        raise ConfigError(f"{what}: cannot be read: {error.strerror}") from None


def _parsed(text: str) -> Clients:
    return parse(parse_yaml(text, VARIABLE, secret=True), Clients, VARIABLE)
