"""Parser of HTML forms with files: multipart/form-data (RFC 7578), a whole body at once.

    body, Content-Type ──► split at the boundary ──► FormField(name, is_file, content), in order

The body is searched once from its beginning to its end, and only contents are copied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.errors import RequestError

MEDIA_TYPE = "multipart/form-data"

MAX_FIELDS = 16
"""Fields of a form, at most."""

_MAX_BOUNDARY = 70  # RFC 2046
_MAX_HEADER_BYTES = 4096
_NEW_LINE = b"\r\n"
_BLANK_LINE = b"\r\n\r\n"
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))')


@dataclass(frozen=True, slots=True)
class FormField:
    """Field of a form; ``is_file``: whether it has a file's name."""

    name: str
    is_file: bool
    content: bytes


def parse_form(body: bytes, content_type: str) -> list[FormField]:
    """Return the fields of a form; ``content_type``: the whole header, with its boundary.

    Raises RequestError if it has no boundary, is cut off or malformed, or has more than
    :data:`MAX_FIELDS` fields.
    """
    delimiter = _NEW_LINE + b"--" + _boundary(content_type)
    fields: list[FormField] = []
    # The first delimiter may begin the body; text before it means nothing.
    at = -len(_NEW_LINE) if body.startswith(delimiter[2:]) else body.find(delimiter)
    while at != -1:
        start = at + len(delimiter)
        if body.startswith(b"--", start):
            return fields
        if len(fields) == MAX_FIELDS:
            raise RequestError(f"the form has more than {MAX_FIELDS} fields; send fewer")
        at = body.find(delimiter, start)
        if at != -1:
            fields.append(_field(body, start, at))
    raise RequestError(
        f"the form of {len(body)} bytes lacks its last boundary; send the whole form, with the "
        "boundary of its Content-Type"
    )


def _boundary(content_type: str) -> bytes:
    boundary = _parameters(content_type).get("boundary", "")
    if not 0 < len(boundary) <= _MAX_BOUNDARY or not boundary.isascii():
        raise RequestError(
            f"Content-Type is {content_type!r:.100}, a form needs a boundary of 1 to "
            f"{_MAX_BOUNDARY} ASCII characters; let the browser or HTTP client set this header"
        )
    return boundary.encode()


def _parameters(header: str) -> dict[str, str]:
    """Return the parameters of a header's value, by their names in lower case.

    Python's own parser (``email``) also decodes the forms ``name*=`` and ``name*0=``, which RFC
    7578 forbids, and fails on some charsets and numbers in them.
    """
    return {
        name.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain
        for name, quoted, plain in _PARAMETER.findall(header)
    }


def _field(body: bytes, start: int, end: int) -> FormField:
    """Return the field whose headers and content are ``body[start:end]``."""
    # The blank line may follow at once: a field without headers, and so without a name.
    blank = body.find(_BLANK_LINE, start, min(end, start + _MAX_HEADER_BYTES))
    if blank == -1:
        raise RequestError(
            f"a field of the form has no blank line within {_MAX_HEADER_BYTES} bytes; expected its "
            "headers, a blank line, then its content"
        )
    disposition: dict[str, str] = {}
    for line in body[start:blank].decode("utf-8", "replace").split("\r\n"):
        header, _, value = line.partition(":")
        if header.strip().lower() == "content-disposition":
            disposition = _parameters(value)
    name = disposition.get("name")
    if name is None:
        raise RequestError('a field of the form has no name; expected form-data; name="..."')
    is_file = not disposition.keys().isdisjoint(("filename", "filename*"))
    return FormField(name, is_file, body[blank + len(_BLANK_LINE) : end])
