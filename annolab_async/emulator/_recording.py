"""Remembers the requests that came, to be asserted on, without the key."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from attrs import Factory, define, frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from annolab_async.emulator._settings import Settings

_MASK: Final = "***"


@frozen(kw_only=True)
class RecordedRequest:
    """A request that the emulator was sent. The key is masked wherever it stood.

    Attributes:
        at: When it came, in seconds on the emulator's clock.
        method: Its method.
        path: Its path.
        headers: Its headers, names in lower case.
        json: Its body, read as JSON; None if it had none, or no JSON, or if its path is not served.
        is_authorized: Whether its ``Authorization`` brought the emulator's key, as it should be.
        status_code: The status of its answer; None while there is none, or if it got none.
    """

    at: float
    method: str
    path: str
    headers: Mapping[str, str]
    json: Any
    is_authorized: bool
    status_code: int | None


@define(eq=False)
class _Recording:
    at: float
    scope: Scope
    body: bytearray = Factory(bytearray)
    status_code: int | None = None

    def told(self, key: str) -> RecordedRequest:
        def masked(data: bytes) -> str:
            return data.decode("latin-1").replace(key, _MASK)

        headers = {masked(name): masked(value) for name, value in self.scope["headers"]}
        authorization = dict(self.scope["headers"]).get(b"authorization", b"")
        try:
            body = json.loads(bytes(self.body).replace(key.encode(), _MASK.encode()))
        except (ValueError, RecursionError):
            body = None
        return RecordedRequest(
            at=self.at,
            method=self.scope["method"],
            path=self.scope["path"].replace(key, _MASK),
            headers=headers,
            json=body,
            is_authorized=authorization == f"Api-Key {key}".encode(),
            status_code=self.status_code,
        )


class Recorder:
    """Remembers the latest requests.

    Args:
        settings: Says how many, and what must not be shown.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._recordings: deque[_Recording] = deque(maxlen=settings.keep_requests)

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """What is remembered, oldest first."""
        # A copy, which is made at once: a server's thread may be adding to it.
        return tuple(each.told(self._settings.api_key) for each in self._recordings.copy())

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return an app that remembers what another is asked."""

        async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            recording = _Recording(self._settings.clock(), scope)
            self._recordings.append(recording)

            async def receive_and_keep() -> Message:
                message = await receive()
                recording.body += message.get("body", b"")
                return message

            async def send_and_note(message: Message) -> None:
                recording.status_code = message.get("status", recording.status_code)
                await send(message)

            try:
                await app(scope, receive_and_keep, send_and_note)
            except BaseException:
                # What an app sends when it breaks off is not what its client sees.
                recording.status_code = None
                raise

        return recorded
