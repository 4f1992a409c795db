"""The downloads over HTTP: an ASGI app on an origin of its own, which wants no key."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import anyio.lowlevel
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from annolab_async.emulator._app import CONNECTION
from annolab_async.emulator._downloads import DownloadAsked
from annolab_async.emulator._links import Denied

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from annolab_async.emulator._app import Connection
    from annolab_async.emulator._archive import Archive
    from annolab_async.emulator._downloads import DownloadDesk, Reply
    from annolab_async.emulator._settings import Settings

_CHUNK: Final = 2**16


def make_downloads_app(desk: DownloadDesk, settings: Settings) -> Starlette:
    """Build the ASGI app.

    Args:
        desk: Decides on every answer.
        settings: Gives the clock.
    """

    async def download(request: Request) -> Response:
        asked = DownloadAsked(
            method=request.method,
            path=request.scope["path"],
            query=request.scope["query_string"].decode("latin-1"),
            headers=request.headers,
            now=settings.clock(),
        )
        try:
            export_id = desk.admit(asked)
        except Denied as denied:
            return _Sent(desk.deny(asked, denied))
        size = len(await _written(desk.archive(export_id)))
        bad = desk.draw(asked, export_id, size)
        if bad is not None and bad.is_expired:
            return _Sent(desk.deny(asked, Denied("AccessDenied: Request has expired"), bad))
        # Perhaps another one by now.
        archive = desk.archive(export_id)
        await _written(archive)
        return _Sent(desk.reply(asked, export_id, archive, bad))

    app = Starlette(routes=[Route("/{path:path}", download, methods=["GET"])])
    app.router.redirect_slashes = False
    return app


async def _written(archive: Archive) -> memoryview:
    # In small steps, and by everyone who waits for it, so that a large one holds up no other request.
    while (content := archive.content) is None:
        archive.step()
        await anyio.lowlevel.checkpoint()
    return content


class _Sent(Response):
    """A reply on its way out, chunk by chunk, with what goes wrong."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(status_code=reply.status_code)
        self._reply = reply
        self.raw_headers = [
            (name.lower().encode(), value.encode()) for name, value in reply.headers.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: Connection | None = scope.get("extensions", {}).get(CONNECTION)
        reply, bad = self._reply, self._reply.bad
        if bad is not None and bad.is_answer_bad and connection is not None:
            await self._break(connection, receive)
            return
        if bad is not None and bad.cut_after is not None:
            # In the same process: there is nothing to cut, but this is what a client makes of it.
            raise ConnectionResetError("the emulator breaks off on purpose")
        await send({
            "type": "http.response.start",
            "status": reply.status_code,
            "headers": self.raw_headers,
        })
        for start in range(0, len(reply.body), _CHUNK):
            chunk = bytes(reply.body[start : start + _CHUNK])
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _break(self, connection: Connection, receive: Receive) -> None:
        reply, bad = self._reply, self._reply.bad
        assert bad is not None  # noqa: S101  # the caller has seen to it
        status = HTTPStatus(reply.status_code)
        lines = [f"HTTP/1.1 {status} {status.phrase}".encode()]
        lines += [b"%b: %b" % header for header in self.raw_headers]
        head = b"\r\n".join([*lines, b"connection: close", b"", b""])
        end = len(reply.body) if bad.cut_after is None else bad.cut_after
        connection.send(head + bytes(reply.body[:end]))
        connection.end(is_reset=bad.is_reset and bad.cut_after is not None)
        while (await receive())["type"] != "http.disconnect":
            pass
