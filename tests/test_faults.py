"""What a trace proves, event by event."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest

from annolab_async._http._faults import Progress, scrubbed
from annolab_async._secret import ApiKey

pytestmark = pytest.mark.anyio

POST, CONNECT = (SimpleNamespace(method=method) for method in (b"POST", b"CONNECT"))
STARTED, WRITTEN = "send_request_headers.started", "send_request_headers.complete"
FAILED = "send_request_headers.failed"


@pytest.mark.parametrize(
    ("events", "fault", "is_unsent"),
    [
        ([], httpx.ConnectError(""), True),
        ([], httpx.PoolTimeout(""), True),
        ([], httpx.ReadError(""), False),
        ([], TimeoutError(), False),
        (["connection.connect_tcp.started"], TimeoutError(), True),
        (["connection.connect_tcp.complete"], OSError(), True),
        ([("http11", STARTED, POST)], TimeoutError(), False),
        ([("http11", STARTED, POST)], httpx.ConnectError(""), False),
        ([("http11", STARTED, POST), ("http11", FAILED, None)], httpx.LocalProtocolError(""), True),
        ([("http11", STARTED, POST), ("http11", FAILED, None)], httpx.WriteError(""), False),
        ([("http2", STARTED, POST), ("http2", WRITTEN, None)], httpx.LocalProtocolError(""), False),
        ([("http11", STARTED, CONNECT), ("http11", WRITTEN, None)], httpx.ProxyError(""), True),
        ([("http11", STARTED, CONNECT), ("http11", WRITTEN, None)], TimeoutError(), True),
        (
            [("http11", STARTED, CONNECT), ("http11", WRITTEN, None), ("http11", STARTED, POST)],
            TimeoutError(),
            False,
        ),
    ],
)
async def test_only_what_was_never_written_is_called_unsent(
    events: list[str | tuple[str, str, object]],
    fault: Exception,
    is_unsent: bool,  # noqa: FBT001
) -> None:
    progress = Progress()
    for event in events:
        if isinstance(event, str):
            await progress.trace(event, {})
        else:
            await progress.trace(f"{event[0]}.{event[1]}", {"request": event[2]})
    assert progress.proves_unsent(fault) is is_unsent


def test_of_a_failure_its_numbers_stay_and_what_might_hold_the_key_goes() -> None:
    key = "a-key-of-24-characters-x"
    held = SimpleNamespace(headers={"Authorization": key})
    fault = scrubbed(OSError(111, f"refused {key}", None, held), ApiKey(key))
    assert fault.args[0] == 111
    assert key not in repr(fault.args)
    cause = TimeoutError(110, "late")
    assert scrubbed(Exception(cause, held), ApiKey(key)).args == (cause, "SimpleNamespace")
