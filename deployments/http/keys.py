"""API keys of clients, from a file or from the environment.

    HEADRACE_API_KEYS_FILE=/absolute/keys.yaml  ┐
    HEADRACE_API_KEYS='clients: [...]'          ┴→ Keys: key → Client, or None; neither: no keys

A changed file is read again within a second. No error quotes its text, because errors reach logs
and Serve's status.
"""

from __future__ import annotations

import logging
import os
import threading
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

CHECK_INTERVAL_S = 1.0
"""Interval between two checks of the file's modification time, in seconds."""


class Keys:
    """Clients of the current file, or of the environment."""

    def __init__(self, read: Callable[[], Clients], modified: Callable[[], float]) -> None:
        self._read = read
        self._modified = modified
        self._checked = time.monotonic()
        self._version = modified()
        self._logged = ""
        self._set(read())

    def _set(self, clients: Clients) -> None:
        self._clients = {client.digest: client for client in clients.clients}

    def refresh_soon(self) -> None:
        """Check the file in a thread, if that is due: reading it must hold up no request."""
        if not self._is_due():
            return
        self._checked = time.monotonic()
        threading.Thread(target=self._check, daemon=True).start()

    def refresh(self) -> None:
        """Read a changed file again; an unreadable file leaves the keys unchanged."""
        if self._is_due():
            self._checked = time.monotonic()
            self._check()

    def _is_due(self) -> bool:
        return time.monotonic() - self._checked >= CHECK_INTERVAL_S

    def _check(self) -> None:
        try:
            version = self._modified()
            if version != self._version:
                self._set(self._read())
                self._version = version
            self._logged = ""
        except ConfigError as error:
            if self._logged != str(error):  # once, not every second until the file is repaired
                self._logged = str(error)
                logger.error("the API keys are unchanged: %s", error)

    def find(self, key: str) -> Client | None:
        """Return the client of a key, looked up by the key's sha256: no client chooses it."""
        return self._clients.get(sha256(key.encode()).digest())


def configured() -> Keys | None:
    """Return the keys that the environment names; None if it names none.

    Raises ConfigError if they cannot be read, so that no server opens without its keys.
    """
    path, text = os.environ.get(FILE_VARIABLE), os.environ.get(VARIABLE)
    if path and text:
        raise ConfigError(f"{FILE_VARIABLE} and {VARIABLE} are both set; unset one of them")
    if path:
        file, source = Path(path), f"{FILE_VARIABLE}={path}"
        require_absolute(file, FILE_VARIABLE)
        return Keys(lambda: load(file, Clients, secret=True), lambda: _modified(file, source))
    if text:
        return Keys(lambda: _parsed(text), lambda: 0.0)
    return None


def _modified(file: Path, source: str) -> float:
    require_file(file, source)
    try:
        return file.stat().st_mtime
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}") from None


def _parsed(text: str) -> Clients:
    return parse(parse_yaml(text, VARIABLE, secret=True), Clients, VARIABLE)
