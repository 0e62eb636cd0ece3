"""API keys of a server: permitted models and request rates."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Annotated, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from cluster.config.base import MODEL_NAME, Config
from cluster.config.problems import SECRET

Pattern = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Client(Config):
    """Client with one key, and its permissions."""

    name: str = Field(pattern=MODEL_NAME, description="Name in logs, and key of its quota.")
    key: Annotated[str, SECRET] | None = Field(
        default=None,
        min_length=16,
        repr=False,
        description="The key itself: 16 or more of ASCII's letters, digits and signs.",
    )
    key_sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="Instead of key: its sha256 in hex, which does not reveal the key.",
    )
    models: tuple[Pattern, ...] = Field(
        default=("*",), description="Models and routes it may call; * and ? match as in a shell."
    )
    requests_per_s: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Inferences per second; null: unlimited.",
    )
    burst: int | None = Field(
        default=None,
        ge=1,
        description="Size of a burst, in inferences; null: those of one second.",
    )

    @field_validator("key")
    @classmethod
    def _fits_into_a_header(cls, value: str | None) -> str | None:
        if value is not None and re.fullmatch(r"[!-~]+", value) is None:
            raise ValueError(
                "a key consists of ASCII's letters, digits and signs, without spaces or line "
                "breaks: a header cannot carry this one; make one with `openssl rand -hex 32`"
            )
        return value

    # No message names the client: the name's field may contain a key by mistake.
    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.key is None) == (self.key_sha256 is None):
            fields = "neither" if self.key is None else "both"
            raise ValueError(f"give key or key_sha256; got {fields}")
        if self.burst is not None and self.requests_per_s is None:
            raise ValueError("burst needs requests_per_s; give both")
        return self

    @property
    def digest(self) -> bytes:
        """Sha256 of the key."""
        if self.key is not None:
            return sha256(self.key.encode()).digest()
        return bytes.fromhex(self.key_sha256 or "")

    @property
    def at_once(self) -> float:
        """Size of a burst, in inferences."""
        return float(self.burst or max(1.0, self.requests_per_s or 1.0))


class Clients(Config):
    """All clients of a server."""

    clients: tuple[Client, ...] = Field(min_length=1, description="One entry per key.")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for what, values in (
            ("name", [client.name for client in self.clients]),
            ("key", [client.digest for client in self.clients]),
        ):
            seen: dict[object, int] = {}
            for second, value in enumerate(values):
                if (first := seen.setdefault(value, second)) != second:
                    raise ValueError(
                        f"clients[{first}] and clients[{second}] have the same {what}; give each "
                        "its own"
                    )
        return self
