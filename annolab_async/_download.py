"""Downloads of exports: resumed where that is safe, checked, and put in place only when they are whole."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import anyio.to_thread
from anyio import CancelScope, CapacityLimiter, current_time, get_cancelled_exc_class, sleep
from attrs import evolve, frozen

from annolab_async._http import Fetcher, apart, signed_link
from annolab_async._part_file import PartFile
from annolab_async._ranges import NOTHING, Remedy, Setback, judge, range_headers, too_long
from annolab_async._records import is_positive
from annolab_async._retry import RetryPolicy, worth_asking_again
from annolab_async.errors import ExportError, NoResponse, RequestNotSent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping
    from pathlib import Path

    import httpx

    from annolab_async._http import SignedLink

__all__ = ["DownloadProgress", "Link", "download"]

T = TypeVar("T")

# Written at once: a call of a worker thread costs as much as writing 100 KB.
_AT_ONCE: Final = 2**20
_SECONDS_BETWEEN_REPORTS: Final = 0.1
_MOST_REFUSALS: Final = 3
# Each of them brought something new, or there were few in a row: still, there is an end.
_MOST_REQUESTS: Final = 1000


@frozen
class DownloadProgress:
    """How far a download has come.

    Attributes:
        received: bytes that are there, those of an earlier attempt included. It falls where all is sent anew.
        total: bytes that there are to be, None if the server does not say.
    """

    received: int
    total: int | None


class Link(Protocol):
    """Where the signed link comes from."""

    async def __call__(self, *, is_refused: bool) -> str:
        """Return a link.

        Args:
            is_refused: whether the last one that was returned has been refused, since it has expired, say.
        """
        ...


async def download(
    link: Link,
    path: Path,
    *,
    check: Callable[[Path], None],
    max_bytes: int,
    progress: Callable[[DownloadProgress], None] | None = None,
    timeout: float = 60.0,
    retry: RetryPolicy | None = None,
    plain_http_hosts: Collection[str] = (),
    export_id: int | None = None,
    http_client_factory: Callable[[], httpx.AsyncClient] | None = None,
) -> int:
    """Download a file by a signed link, checked and whole or not at all.

    What has come lies in ``path.part`` until all of it has; this or another process goes on from there. A file that was
    at ``path`` before stays as it is until then. No API key is sent, nor a cookie or header of anybody's.

    Args:
        link: where the link comes from; what it raises is raised here.
        path: where the file is to be.
        check: raises ``ExportError`` if a file is not sound; it is called in a worker thread, where
            ``anyio.from_thread.check_cancelled()`` tells when to stop. A file that was put together from parts, or that
            came without its length, is then downloaded once more from the start, before that error is raised.
        max_bytes: how long the file may be.
        progress: is told how far it has come, at most ten times a second and at the end.
        timeout: seconds without a byte after which a connection is given up.
        retry: how often in a row requests may fail that bring nothing new, and how long to wait in between; its
            ``total_time`` counts from the last one that did.
        plain_http_hosts: hosts that may be asked unencrypted, over ``http``; this machine always may.
        export_id: the export, for errors.
        http_client_factory: makes the client to send with, in a worker thread; of what it is set up with, only what
            concerns connections is used, such as proxies and certificates. None makes one as the environment says.

    Returns:
        How many bytes the file has.

    Raises:
        ExportError: the file could not be had, checked or written. Nothing is left at ``path`` that was not there.
        ConfigurationError: the environment names a proxy that cannot be used.
        ValueError: an argument makes no sense.
    """
    if not is_positive(timeout):
        raise ValueError(f"timeout is {timeout}, not a positive number of seconds")
    if type(max_bytes) is not int or max_bytes < 1:
        raise ValueError(f"max_bytes is {max_bytes}, not an integer from 1 up")
    work = _Download(
        link=link,
        part=PartFile(path, export_id=export_id),
        check=check,
        max_bytes=max_bytes,
        progress=progress,
        retry=RetryPolicy() if retry is None else retry,
        plain_http_hosts=plain_http_hosts,
        export_id=export_id,
    )
    fetcher = Fetcher(timeout=timeout, make_client=http_client_factory)
    # A plain task.cancel() would leave a thread to write to a file that is closed meanwhile.
    return await apart(lambda: work.run(fetcher))


class _Download:
    def __init__(
        self,
        *,
        link: Link,
        part: PartFile,
        check: Callable[[Path], None],
        max_bytes: int,
        progress: Callable[[DownloadProgress], None] | None,
        retry: RetryPolicy,
        plain_http_hosts: Collection[str],
        export_id: int | None,
    ) -> None:
        self._ask_for_link = link
        self._part = part
        self._check = check
        self._max_bytes = max_bytes
        self._progress = progress
        self._retry = retry
        self._plain_http_hosts = plain_http_hosts
        self._export_id = export_id
        self._random = Random()
        # One of its own: others of this process may keep all the usual threads busy.
        self._limiter = CapacityLimiter(1)
        self._link: SignedLink | None = None
        self._held = NOTHING
        self._end: int | None = None  # of the body under way
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._furthest = 0
        self._refusals = 0
        # As of the last answer: the bytes might be another file's, or not all.
        self._is_doubtful: bool
        self._is_too_long = False
        self._told_at = float("-inf")

    async def run(self, fetcher: Fetcher) -> int:
        try:
            self._held = await self._in_thread(self._part.open)
            async with fetcher:
                await self._fetch(fetcher)
                if not await self._is_sound():
                    self._furthest = 0
                    await self._fetch(fetcher)
                    await self._is_sound(is_last=True)
            await self._in_thread(self._part.publish)
            self._tell(self._held.received, is_end=True)
            return self._held.received
        finally:
            with CancelScope(shield=True):
                await self._in_thread(self._part.close)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(function, limiter=self._limiter)

    async def _fetch(self, fetcher: Fetcher) -> None:
        """Fetch what is missing."""
        self._furthest = max(self._furthest, self._held.received)
        failures, since = 0, current_time()
        for _ in range(_MOST_REQUESTS):
            before = self._furthest
            # Not among what is repeated here: that is its own business.
            link = await self._next_link()
            setback = await self._ask(fetcher, link)
            if self._furthest > before:
                failures, since, self._refusals = 0, current_time(), 0
            if setback is None:
                if self._held.is_whole:
                    return
                if self._furthest > before:
                    continue  # a server may send a range in pieces
                setback = Setback("the server sends nothing of what is missing", Remedy.AGAIN)
            if setback.remedy is Remedy.ANOTHER_LINK:
                self._link = None
                self._refusals += 1
                if self._refusals == 1:
                    continue
            if setback.remedy is Remedy.FROM_THE_START:
                self._held = NOTHING
            failures += 1
            delay = self._retry.next_delay(
                failures, setback, elapsed=current_time() - since, random=self._random
            )
            is_hopeless = setback.remedy is Remedy.NONE or self._refusals > _MOST_REFUSALS
            if self._is_too_long:
                await self._in_thread(self._part.discard)
            if is_hopeless or delay is None:
                raise self._error(setback) from setback.__cause__
            await sleep(delay)
        raise self._error(
            Setback(f"{_MOST_REQUESTS} requests did not bring all of it", Remedy.AGAIN)
        )

    async def _next_link(self) -> SignedLink:
        if self._link is None:
            error = None
            try:
                # In no local variable, which some tools show with a traceback.
                self._link = signed_link(
                    await self._ask_for_link(is_refused=self._refusals > 0), self._plain_http_hosts
                )
            except Setback as setback:
                error = self._error(setback)
            if self._link is None:
                raise error or AssertionError
        return self._link

    async def _ask(self, fetcher: Fetcher, link: SignedLink) -> Setback | None:
        """Ask for what is missing, once; return what went wrong, if that may pass."""
        self._pending, self._pending_size, self._end = [], 0, None
        setback: Setback | None = None
        try:
            await fetcher.get(link, range_headers(self._held), self._begin)
        except Setback as error:
            setback = error
        except (RequestNotSent, NoResponse) as error:
            setback = Setback(
                f"{link.shown}: {str(error.cause) or type(error.cause).__name__}",
                Remedy.AGAIN if worth_asking_again(error) else Remedy.NONE,
            )
            setback.__cause__ = error
        except get_cancelled_exc_class():
            with suppress(ExportError):
                await self._flush()
            raise
        await self._flush()
        if setback is not None:
            return setback
        if self._end not in {None, self._held.received}:
            return Setback("it ended before its length", Remedy.AGAIN)
        if self._held.length is None:
            # The server has ended it in an orderly way: that is all that tells that it is whole.
            self._is_doubtful = True
            self._held = evolve(self._held, length=self._held.received)
        return None

    async def _begin(
        self, status: int, headers: Mapping[str, str]
    ) -> Callable[[bytes], Awaitable[None] | None]:
        before = self._held
        take = judge(status, headers, before, max_bytes=self._max_bytes, utc_now=_utc_now)
        if take.is_anew:
            await self._in_thread(partial(self._part.begin, take.held))
        elif take.held.length != before.length:
            await self._in_thread(partial(self._part.note, take.held))
        self._is_doubtful = not take.is_anew
        self._held, self._end = take.held, take.end
        return self._feed

    def _feed(self, data: bytes) -> Awaitable[None] | None:
        position = self._held.received + self._pending_size + len(data)
        if position > self._max_bytes:
            self._is_too_long = True
            raise too_long("more of it comes", self._max_bytes)
        if self._end is not None and position > self._end:
            self._pending = []
            raise Setback("more came than was announced", Remedy.FROM_THE_START)
        self._pending.append(data)
        self._pending_size += len(data)
        self._tell(position)
        return self._flush() if self._pending_size >= _AT_ONCE else None

    async def _flush(self) -> None:
        data, size = self._pending, self._pending_size
        if not data:
            return
        self._pending, self._pending_size = [], 0
        with CancelScope(shield=True):
            await self._in_thread(partial(self._part.write, data, self._held.received))
        self._held = evolve(self._held, received=self._held.received + size)
        self._furthest = max(self._furthest, self._held.received)

    async def _is_sound(self, *, is_last: bool = False) -> bool:
        await self._in_thread(self._part.sync)
        try:
            await self._in_thread(partial(self._check, self._part.part))
        except ExportError:
            await self._in_thread(self._part.discard)
            if is_last or not self._is_doubtful:
                raise
            self._held = NOTHING
            return False
        except OSError as fault:
            raise ExportError(
                what=f"it cannot be read ({fault.strerror or fault})",
                hint="Download it again.",
                export_id=self._export_id,
                file=str(self._part.part),
            ) from fault
        return True

    def _tell(self, received: int, *, is_end: bool = False) -> None:
        if self._progress is None:
            return
        now = current_time()
        if is_end or now - self._told_at >= _SECONDS_BETWEEN_REPORTS:
            self._told_at = now
            self._progress(DownloadProgress(received, self._held.length))

    def _error(self, setback: Setback) -> ExportError:
        hint = setback.hint
        if not hint and setback.remedy is Remedy.ANOTHER_LINK:
            hint = "Ask for a new export: links to this one may be good for no longer."
        elif not hint and setback.remedy is Remedy.NONE:
            hint = "Asking again will not help before that is mended."
        elif not hint:
            hint = "Download it to the same path again: it goes on where it stopped if it can."
        return ExportError(
            what=f"its file cannot be downloaded: {setback.what}",
            hint=hint,
            export_id=self._export_id,
        )


def _utc_now() -> datetime:
    return datetime.now(UTC)
