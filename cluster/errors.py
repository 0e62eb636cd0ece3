"""Errors raised on purpose, with their HTTP status.

    HeadraceError                      500
    ├── ConfigError                    400   a recipe or serve config is wrong (names the YAML path)
    ├── SourceError                    400   a model, checkpoint or data source cannot be used
    │   └── ForwardError               400   the model's own forward raised
    ├── CompressionError               500   a step or the builder refuses, with the reason
    │   ├── LostProcessError           500   a process of the job died
    │   └── GateError                  500   a build breaks a limit of its gate
    ├── ArtifactError                  500
    │   ├── ArtifactNotFoundError      404   the store has no artifact of that name or id
    │   ├── ArtifactCorruptError       500   a file does not match its manifest
    │   └── ArtifactUntrustedError     500   a required trusted signature is missing
    ├── ProgramError                   500   no program of the artifact runs on this node
    ├── PlanError                      400   a model cannot be cut as requested, with alternatives
    ├── TransportError                 500   the peer of a transport is unavailable
    ├── GroupLostError                 503   a shard of the replica is unavailable
    ├── ClusterError                   500   the local cluster did not start or stop
    └── RequestError                   400   the client's request is wrong
        ├── UnknownModelError          404
        ├── UnsupportedPathError       404
        ├── FatalRequestError      400   the same request has ended a process of the server
        ├── LentBodyError              412   a lent body that this process cannot read
        ├── PayloadTooLargeError       413
        └── UnsupportedMediaTypeError  415

A message says what was given, what was expected and what to change. Clients receive messages of
errors below 500 unchanged, and no message of a 5xx, because it may name a path.
"""

from __future__ import annotations


class HeadraceError(Exception):
    """Base of all errors raised on purpose."""

    http_status: int = 500


class ConfigError(HeadraceError):
    """A recipe or serve config is wrong; the message names the YAML path and the value."""

    http_status = 400


class SourceError(HeadraceError):
    """A model, checkpoint or data source cannot be read or does not match."""

    http_status = 400


class ForwardError(SourceError):
    """A model's own forward raised; the message is the error's first line, with the layer."""


class CompressionError(HeadraceError):
    """A compression step or the program builder refuses, for the reason in the message."""


class LostProcessError(CompressionError):
    """A process of the compression job died; its work may be retried."""


class GateError(CompressionError):
    """A build breaks a limit of its gate. ``report``: location of the report, in its store."""

    def __init__(self, message: str, report: str) -> None:
        super().__init__(message)
        self.report = report


class ArtifactError(HeadraceError):
    """An artifact or its store cannot be used."""


class ArtifactNotFoundError(ArtifactError):
    """The store has no artifact of that name or id."""

    http_status = 404


class ArtifactCorruptError(ArtifactError):
    """A file of an artifact does not match the sha256 in its manifest."""


class ArtifactUntrustedError(ArtifactError):
    """A signature is required, and no trusted key has signed the artifact."""


class ProgramError(HeadraceError):
    """No program of the artifact runs on this node, or the program failed."""


class PlanError(HeadraceError):
    """A model cannot be cut or placed as requested; the message names alternatives."""

    http_status = 400


class TransportError(HeadraceError):
    """The peer of a transport is unavailable, or never joined."""


class GroupLostError(HeadraceError):
    """A shard of this replica is unavailable; the request may be retried."""

    http_status = 503


class ClusterError(HeadraceError):
    """The local cluster could not be started or stopped."""


class RequestError(HeadraceError):
    """A client's request cannot be answered; the message says what was expected."""

    http_status = 400


class UnknownModelError(RequestError):
    """No model of that name is served here."""

    http_status = 404


class UnsupportedPathError(RequestError):
    """The path belongs to an extension of the protocol that this server does not have."""

    http_status = 404


class FatalRequestError(RequestError):
    """The same request has ended a process of the server, and is not computed again."""


class LentBodyError(RequestError):
    """The lent body is in memory that this process cannot read; send it as bytes."""

    http_status = 412


class PayloadTooLargeError(RequestError):
    """The body, its JSON part or its image is over a limit."""

    http_status = 413


class UnsupportedMediaTypeError(RequestError):
    """The Content-Type is not supported by this endpoint."""

    http_status = 415
