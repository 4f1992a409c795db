"""The emulated service over HTTP: an ASGI app that asks the state and waits out the latency."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, cast

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from annolab_async.emulator._bodies import Answer
from annolab_async.emulator._exports import STATUS_PATH
from annolab_async.emulator._faults import Fault
from annolab_async.emulator._projects import Asked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from annolab_async.emulator._bad_replies import Reply
    from annolab_async.emulator._faults import Draw
    from annolab_async.emulator._settings import Settings
    from annolab_async.emulator._state import RequestKind, ServiceState

# The vendor's page documents the first; scripts in use speak to the second.
BATCH_PATHS = ("/v1/infer/batch", "/v1/model/infer/batch")


# The ASGI extension by which a server lets the app break a connection.
CONNECTION = "annolab_async.connection"


class Connection(Protocol):
    """What a request came on."""

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""

    def end(self, *, is_reset: bool) -> None:
        """Close it, or reset it."""


def make_app(state: ServiceState, settings: Settings) -> Starlette:
    """Build the ASGI app.

    Args:
        state: Answers every request.
        settings: Gives the clock and the latency.
    """

    async def submit(request: Request) -> Response:
        body = await request.body()
        authorization = request.headers.get("authorization")
        return await _send(state.receive(authorization, body, now=settings.clock()))

    async def poll(request: Request) -> Response:
        # The vendor's sample sends a body along: read it, or it would stay in the connection.
        await request.body()
        authorization, job_id = request.headers.get("authorization"), request.path_params["job_id"]
        return await _send(state.asked(authorization, job_id, now=settings.clock()))

    app = Starlette(
        routes=[
            route
            for path in BATCH_PATHS
            for route in (
                Route(path, submit, methods=["POST"]),
                Route(path + "/{job_id}", poll, methods=["GET"]),
            )
        ]
        + _desk_routes(state, settings),
        middleware=[Middleware(_Traffic, state=state, latency=settings.latency)],
        exception_handlers={HTTPException: _on_http_error, ClientDisconnect: _on_disconnect},
    )
    app.router.redirect_slashes = False
    return app


def _desk_routes(state: ServiceState, settings: Settings) -> list[Route]:
    def route(method: str, path: str, desk: Callable[[Asked], Answer]) -> Route:
        async def answer(request: Request) -> Response:
            asked = Asked(
                body=await request.body(),
                path=request.path_params,
                base_url=str(request.base_url).rstrip("/"),
                now=settings.clock(),
            )
            return _respond(state.ask(request.headers.get("authorization"), desk, asked))

        return Route(path, answer, methods=[method])

    projects, bulk, exports = state.projects, state.bulk, state.exports
    return [
        route("GET", "/v1/api-key/info", projects.api_key_info),
        route("POST", "/v1/project/create", projects.create_project),
        route("GET", "/v1/project/{group}/{name}", projects.find_project),
        route("POST", "/v1/layer/create", projects.create_layer),
        route("POST", "/v1/annotation-type/create", projects.create_type),
        route("POST", "/v1/source/create-text", projects.create_text_source),
        route("GET", "/v1/source/{source_id}", projects.source_by_id),
        route("GET", "/v1/source/{group}/{name}/{directory}/{source}", projects.source_by_path),
        route("POST", "/v1/annotation/bulk-create", bulk.create_annotations),
        route("POST", "/v1/relation/bulk-create", bulk.create_relations),
        route("POST", "/v1/export/project", exports.export_project),
        route("POST", "/v1/export/instruments", exports.export_instruments),
        route("GET", STATUS_PATH + "/{export_id}", exports.status),
    ]


async def _send(reply: Reply) -> Response:
    if reply.delay:
        await anyio.sleep(reply.delay)
    seconds = reply.retry_after
    response = _respond(reply.answer, None if seconds is None else {"Retry-After": str(seconds)})
    draw = reply.draw
    return response if draw is None or draw.fault is Fault.UNAVAILABLE else _Broken(response, draw)


class _Broken(Response):
    """An answer of which only a part is sent, or nothing, before its connection ends."""

    def __init__(self, whole: Response, draw: Draw) -> None:
        super().__init__()
        self._whole = whole
        self._draw = draw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # as Starlette calls it
        connection: Connection | None = scope.get("extensions", {}).get(CONNECTION)
        fault = self._draw.fault
        if connection is None:
            # In the same process: there is nothing to cut, but this is what a client makes of it.
            raise ConnectionResetError(f"the emulator breaks off on purpose: {fault}")
        if fault is Fault.TRUNCATED:
            data = _on_the_wire(self._whole)
            cut_after = self._draw.cut_after
            if cut_after is None:
                cut_after = max(1, int(len(data) * self._draw.fraction))
            connection.send(data[:cut_after])
        connection.end(is_reset=fault is Fault.RESET)
        while (await receive())["type"] != "http.disconnect":
            pass


def _on_the_wire(response: Response) -> bytes:
    status = HTTPStatus(response.status_code)
    lines = [f"HTTP/1.1 {status} {status.phrase}".encode()]
    lines += [b"%b: %b" % header for header in response.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(response.body)])


class _Traffic:
    """Counts requests and makes each take its latency: half on the way in, half on the way out."""

    def __init__(self, app: ASGIApp, state: ServiceState, latency: float) -> None:
        self._app = app
        self._state = state
        self._one_way = latency / 2

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_later(message: Message) -> None:
            if message["type"] == "http.response.start":
                await anyio.sleep(self._one_way)
            await send(message)

        kind = _kind(scope)
        self._state.request_began(kind)
        try:
            # Without latency this still yields, so that requests sent together do overlap.
            await anyio.sleep(self._one_way)
            await self._app(scope, receive, send_later)
        finally:
            self._state.request_ended(kind)


def _kind(scope: Scope) -> RequestKind:
    method, path = scope["method"], scope["path"]
    folder, _, name = path.rpartition("/")
    if method == "POST" and path in BATCH_PATHS:
        return "submit"
    if method == "GET" and folder in BATCH_PATHS and name:
        return "poll"
    return "other"


def _respond(answer: Answer, headers: Mapping[str, str] | None = None) -> Response:
    # In ASCII: what was sent may hold half of a surrogate pair, which JSON allows and UTF-8 does not.
    is_raw = isinstance(answer.body, bytes)
    content = answer.body if is_raw else json.dumps(answer.body, separators=(",", ":"))
    return Response(content, answer.status_code, headers, media_type="application/json")


async def _on_http_error(request: Request, exc: Exception) -> Response:
    error = cast("HTTPException", exc)
    message = f"{error.detail}: {request.method} {request.url.path}"
    return _respond(Answer(error.status_code, {"message": message}), error.headers)


async def _on_disconnect(_request: Request, _exc: Exception) -> Response:
    # Nobody is left to read it; the point is that the state was not touched.
    return Response(status_code=400)
