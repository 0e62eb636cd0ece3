"""Application of this process, from Serve's replica context."""

from __future__ import annotations


def application_name() -> str | None:
    """Return the name of the application that this process is a replica of.

    None in a process that is no replica, such as the proxy of Serve.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        return str(serve.get_replica_context().app_name)
    except RayServeException:
        return None
