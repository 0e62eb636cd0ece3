"""An ASGI application on a port of this machine, behind uvicorn as in a replica."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from support.wait import until


@contextmanager
def serving(app: ASGIApp) -> Iterator[int]:
    """Serve ``app`` in a thread; yield its port."""
    config = uvicorn.Config(app, "127.0.0.1", 0, lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "uvicorn did not start")
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def mounted(apps: dict[str, ASGIApp]) -> ASGIApp:
    """Return an application with each of ``apps`` below its prefix, as Serve mounts them."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        prefix = max(p for p in apps if scope["path"].startswith(p))
        await apps[prefix]({**scope, "root_path": prefix}, receive, send)

    return app
