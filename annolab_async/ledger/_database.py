"""Transactions on an SQL database, done again when a connection is lost. Runs in the writer's thread."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from copy import copy
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from annolab_async._batch_records import BatchState
from annolab_async.errors import LedgerError
from annolab_async.ledger._dialects import Fault
from annolab_async.ledger._operations import Change, Claim, change_all, claim_all
from annolab_async.ledger._schema import is_current, migrate
from annolab_async.ledger._session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection, Engine

    from annolab_async.ledger._dialects import Dialect
    from annolab_async.ledger._writer import Work

__all__ = ["Database"]

T = TypeVar("T")

_logger: Final = logging.getLogger(__name__)

_FIRST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 2.0


class Database:
    """One connection to a database, made anew when it is lost.

    Args:
        dialect: which kind of database, and where.
        open_seconds: for how long to try when it cannot be reached at the beginning.
        reconnect_seconds: for how long to try when the connection is lost later.
        read_only: whether nothing is to be written but what brings older tables to today's version.
    """

    _is_committing: bool  # at this attempt

    def __init__(
        self,
        dialect: Dialect,
        *,
        open_seconds: float,
        reconnect_seconds: float,
        read_only: bool = False,
    ) -> None:
        self._dialect = dialect
        self._read_only = read_only
        self._patience = open_seconds
        self._reconnect_seconds = reconnect_seconds
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._is_hurried = Event()

    def open(self) -> None:
        """Connect, and bring the tables to today's version.

        Raises:
            LedgerError: that is not possible.
        """
        if not self._read_only:
            self._bring_up_to_date()
        elif not self._is_up_to_date():
            try:
                self._bring_up_to_date()
            except LedgerError as error:
                raise LedgerError(
                    where=error.where,
                    what=f"it was written by an older annolab-async, and cannot be brought up to date: {error.what}",
                    hint=error.hint,
                ) from None
            self._is_up_to_date()  # and from now on it is only read
        self._patience = self._reconnect_seconds

    def _bring_up_to_date(self) -> None:
        self._begin_anew(read_only=False)
        self._persist(self._migrate)

    def _is_up_to_date(self) -> bool:
        self._begin_anew(read_only=True)
        return self._persist(self._look)

    def _begin_anew(self, *, read_only: bool) -> None:
        self.close()
        self._engine = self._dialect.make_engine(read_only=read_only)

    def _look(self, is_repeat: bool) -> bool:  # noqa: ARG002, FBT001  # as _persist calls it
        connection = self._connected()
        self._dialect.begin(connection, is_write=False)
        is_up_to_date = is_current(connection, self._dialect.where)
        self._commit(connection)
        return is_up_to_date

    def _migrate(self, is_repeat: bool) -> None:  # noqa: ARG002, FBT001  # twice is as good as once
        connection = self._connected()
        self._dialect.begin(connection, is_write=True)
        self._dialect.lock(connection)
        migrate(connection, self._dialect.where)
        self._commit(connection)

    def execute(self, group: Sequence[Work[Any]]) -> None:
        """Do a group in one transaction; one by one, if one of them cannot be done."""
        try:
            results = self._persist(partial(self._transaction, group))
        except Exception as error:  # noqa: BLE001  # it is raised where it is awaited
            if len(group) == 1 or _is_everyones(error):
                for work in group:
                    # One each: a raised exception gathers where it came by.
                    work.error = copy(error) if isinstance(error, LedgerError) else error
                return
            for work in group:
                self.execute([work])
        else:
            for work, result in zip(group, results, strict=True):
                work.result = result

    def _transaction(self, group: Sequence[Work[Any]], is_repeat: bool) -> list[Any]:  # noqa: FBT001  # as _persist calls it
        connection = self._connected()
        is_write = any(work.is_write for work in group)
        now = self._dialect.begin(connection, is_write=is_write)
        session = Session(connection, self._dialect, now=now, is_repeat=is_repeat)
        results: dict[Work[Any], Any] = {}
        # Of all that a group may hold, these are the many.
        changes = [
            (work, work.function)
            for work in group
            # What is planned may be claimed here, too.
            if isinstance(work.function, Change)
            and work.function.before.state is not BatchState.PLANNED
        ]
        if changes:
            done = change_all(session, [(work.change_id, change) for work, change in changes])
            results.update(zip((work for work, _ in changes), done, strict=True))
        claims = [(work, work.function) for work in group if isinstance(work.function, Claim)]
        if claims:
            taken = claim_all(session, [(work.change_id, claim) for work, claim in claims])
            results.update(zip((work for work, _ in claims), taken, strict=True))
        session.flush()
        for work in group:
            if work not in results:
                session.change_id = work.change_id
                results[work] = work.function(session)
                session.flush()
        self._commit(connection)
        return [results[work] for work in group]

    def close(self) -> None:
        """Let go of the connection."""
        self._drop()  # the engine itself keeps none

    def hurry(self) -> None:
        """Stop waiting for a lost connection to come back. May be called from any thread."""
        self._is_hurried.set()

    def _persist(self, attempt: Callable[[bool], T]) -> T:
        give_up_at = time.monotonic() + self._patience
        failures: tuple[type[Exception], ...] = (DBAPIError, *self._dialect.errors)
        wait = _FIRST_WAIT
        is_doubtful = False
        while True:
            self._is_committing = False
            try:
                return attempt(is_doubtful)
            except failures as error:
                cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
                is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
                fault = self._dialect.fault(cause, is_lost=is_lost)
                is_doubtful |= self._is_committing and not fault.is_certain
                self._roll_back(is_lost=is_lost or not fault.is_certain)
            except SQLAlchemyError as error:
                fault = Fault(str(error), "Start again: it goes on where it was.", is_certain=False)
                is_doubtful |= self._is_committing
                self._roll_back(is_lost=True)
            except BaseException:
                self._roll_back(is_lost=False)
                raise
            is_over = time.monotonic() + wait > give_up_at
            if not fault.is_passing or is_over or self._is_hurried.wait(wait):
                # Not chained: below are SQL and addresses, at worst with a password.
                raise LedgerError(
                    where=self._dialect.where,
                    what=fault.what,
                    hint=fault.hint,
                    is_outcome_known=not is_doubtful,
                )
            _logger.warning(
                "Ledger %s: %s. Trying again.",
                self._dialect.where,
                fault.what,
                extra={"ledger": self._dialect.where},
            )
            wait = min(2 * wait, _LONGEST_WAIT)

    def _connected(self) -> Connection:
        if self._connection is None:
            assert self._engine is not None  # noqa: S101  # open() has made it
            self._connection = self._engine.connect()
            self._dialect.prepare(self._connection)
        return self._connection

    def _commit(self, connection: Connection) -> None:
        self._is_committing = True
        connection.commit()

    def _roll_back(self, *, is_lost: bool) -> None:
        if self._connection is not None and not is_lost:
            with suppress(SQLAlchemyError):
                self._connection.rollback()
                return
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # What is wrong with it is known already, or does not matter any more.
            with suppress(SQLAlchemyError):
                connection.invalidate()  # no close(), which would ask the server for a rollback


def _is_everyones(error: Exception) -> bool:
    # Doing it one by one would fail one by one.
    return isinstance(error, LedgerError) and not error.is_outcome_known
