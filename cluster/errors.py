"""Everything Headrace raises on purpose, with the HTTP status each one becomes.

    HeadraceError                      500
    ├── ConfigError                    400   a recipe or serve config is wrong (names the YAML path)
    ├── SourceError                    400   a model, checkpoint or data source cannot be used
    ├── CompressionError               500   a step or the builder refuses, and why
    │   └── LostProcessError           500   a process that worked for the job died
    ├── ArtifactError                  500
    │   ├── ArtifactNotFoundError      404   no artifact of that name or id in the store
    │   ├── ArtifactCorruptError       500   a file does not have the bytes its manifest names
    │   └── ArtifactUntrustedError     500   no trusted key has signed it, and one must have
    ├── ProgramError                   500   no program of the artifact runs on this node
    ├── PlanError                      400   a model cannot be cut as asked, with what would work
    ├── TransportError                 500   the process at the other end of a transport is gone
    ├── GroupLostError                 503   a shard of the replica is lost; another answers
    ├── ClusterError                   500   the local cluster did not start or stop
    └── RequestError                   400   what the client sent is wrong
        ├── UnknownModelError          404
        ├── LentBodyError              412   a body in memory that this process cannot read
        ├── PayloadTooLargeError       413
        └── UnsupportedMediaTypeError  415

A message says what was given, what was expected and what to change. Messages of errors
below 500 reach clients as they are; a 5xx reaches them without its message, because that
may name a path.
"""

from __future__ import annotations


class HeadraceError(Exception):
    """Base of every error Headrace raises on purpose."""

    http_status: int = 500


class ConfigError(HeadraceError):
    """A recipe or serve config is wrong; the message names the YAML path and the value."""

    http_status = 400


class SourceError(HeadraceError):
    """A model, checkpoint or data source cannot be read or does not fit."""

    http_status = 400


class CompressionError(HeadraceError):
    """A compression step or the program builder refuses, for the reason in the message."""


class LostProcessError(CompressionError):
    """A process that worked for the compression job died; what it did may be tried again."""


class ArtifactError(HeadraceError):
    """An artifact or its store cannot be used."""


class ArtifactNotFoundError(ArtifactError):
    """The store holds no artifact of that name or id."""

    http_status = 404


class ArtifactCorruptError(ArtifactError):
    """A file of an artifact does not have the sha256 its manifest names."""


class ArtifactUntrustedError(ArtifactError):
    """A signature is required, and the artifact has none by a trusted key."""


class ProgramError(HeadraceError):
    """No program of the artifact runs on this node, or the program failed."""


class PlanError(HeadraceError):
    """A model cannot be cut, or placed, as asked; the message says what would work."""

    http_status = 400


class TransportError(HeadraceError):
    """The process at the other end of a transport is gone, or never came."""


class GroupLostError(HeadraceError):
    """A shard of this replica was lost; the request may be sent again."""

    http_status = 503


class ClusterError(HeadraceError):
    """The local cluster could not be started or stopped."""


class RequestError(HeadraceError):
    """A client sent something that cannot be answered; the message says what was expected."""

    http_status = 400


class UnknownModelError(RequestError):
    """No model of that name is served here."""

    http_status = 404


class LentBodyError(RequestError):
    """The body is in another process's memory, out of this one's reach; send it as bytes."""

    http_status = 412


class PayloadTooLargeError(RequestError):
    """The body, its JSON part or its image is over a limit."""

    http_status = 413


class UnsupportedMediaTypeError(RequestError):
    """The Content-Type is none this endpoint reads."""

    http_status = 415
