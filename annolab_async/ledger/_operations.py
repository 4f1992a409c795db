"""What is written to an SQL ledger, each function within one transaction; the same for SQLite and PostgreSQL.

Each may be run again after a lost connection (``session.is_repeat``), when nobody knows whether the first time was
committed: it then looks for its own ``change_id`` first.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve, frozen
from sqlalchemy import bindparam, delete, func, insert, literal_column, select, update

from annolab_async._batch_records import (
    FIRST_SPLIT_NUMBER,
    BatchRecord,
    BatchState,
    changed,
    split_parts,
)
from annolab_async.ledger._plan import SENDER_IS_GONE, other_plan, other_sources, too_few
from annolab_async.ledger._reads import batches_of, info_of, records
from annolab_async.ledger._schema import batches, leases, runs, transitions
from annolab_async.ledger._session import from_microseconds, ids_as_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Row, Select

    from annolab_async.ledger._protocol import RunInfo
    from annolab_async.ledger._session import Session

__all__ = [
    "Change",
    "Claim",
    "begin_run",
    "change_all",
    "claim_all",
    "end_plan",
    "plan_chunk",
    "release",
    "renew",
    "split",
    "take_over",
]

# Written out and not as a parameter: so only does it match the index that is made for claims.
_IS_PLANNED: Final = batches.c.state == literal_column(f"'{BatchState.PLANNED}'")
_HELD: Final = tuple(state for state in BatchState if state.is_held)

# Built once: every batch comes by here, and to build a statement takes longer than to run it.
_CLAIMABLE: Final = (
    select(batches)
    .where(batches.c.run_id == bindparam("of_run"), _IS_PLANNED)
    .order_by(batches.c.number)
    .limit(bindparam("at_most"))
    # Rows that another process is at are passed over, not waited for; SQLite, where a writer is alone, ignores this.
    .with_for_update(skip_locked=True)
)
_IS_LEASE: Final = (leases.c.run_id == bindparam("of_run")) & (
    leases.c.owner == bindparam("of_owner")
)
_LEASE: Final = select(leases.c.expires_at).where(_IS_LEASE)
_RENEW: Final = update(leases).where(_IS_LEASE).values(expires_at=bindparam("until"))


def begin_run(
    session: Session, *, where: str, name: str, fingerprint: str, details: str
) -> tuple[int, RunInfo]:
    """Begin a run or find it; return its id, too."""
    session.lock()
    row = session.connection.execute(select(runs).where(runs.c.name == name)).first()
    if row is None:
        last = session.connection.scalar(select(func.max(runs.c.id))) or 0
        values = {
            "id": last + 1,
            "name": name,
            "fingerprint": fingerprint,
            "details": details,
            "created_at": session.now,
            "planned_batches": None,
            "next_split_number": FIRST_SPLIT_NUMBER,
        }
        row = session.connection.execute(insert(runs).values(values).returning(*runs.c)).one()
    if row.fingerprint != fingerprint:
        raise other_plan(where, name)
    return row.id, info_of(row)


def _locked_run(session: Session, run_id: int) -> Row[Any]:
    return session.connection.execute(
        select(runs).where(runs.c.id == run_id).with_for_update()
    ).one()


def plan_chunk(
    session: Session,
    *,
    where: str,
    run_id: int,
    first: int,
    chunk: Sequence[tuple[int, ...]],
    may_grow: bool,
) -> None:
    """Write down the batches of a plan from a number on, those that are not here yet."""
    run = _locked_run(session, run_id)
    here = session.connection.execute(
        select(batches.c.number, batches.c.source_ids)
        .where(
            batches.c.run_id == run_id,
            batches.c.number >= first,
            batches.c.number < first + len(chunk),
        )
        .order_by(batches.c.number)
    ).all()
    for (number, source_ids), given in zip(here, chunk, strict=False):
        if source_ids != ids_as_text(given):
            raise other_sources(where, run.name, number)
    if len(here) < len(chunk) and run.planned_batches is not None:
        if not may_grow:
            raise other_plan(where, run.name)
        session.connection.execute(
            update(runs).where(runs.c.id == run_id).values(planned_batches=None)
        )
    session.add(
        run_id,
        (
            BatchRecord(
                number=number,
                source_ids=source_ids,
                state=BatchState.PLANNED,
                created_at=session.time,
                updated_at=session.time,
            )
            for number, source_ids in enumerate(chunk[len(here) :], first + len(here))
        ),
    )


def end_plan(session: Session, *, where: str, run_id: int, count: int) -> RunInfo:
    """Write down how many batches the plan has."""
    run = _locked_run(session, run_id)
    last = select(func.max(batches.c.number)).where(
        batches.c.run_id == run_id, batches.c.number < FIRST_SPLIT_NUMBER
    )
    here = session.connection.scalar(last) or 0
    if count < here:
        raise too_few(where, run.name, here=here, given=count)
    session.connection.execute(
        update(runs).where(runs.c.id == run_id).values(planned_batches=count)
    )
    session.analyze()
    return evolve(info_of(run), planned_batches=count)


@frozen(kw_only=True, eq=False)
class Claim:
    """PLANNED batches to be taken by an owner, up to a limit."""

    run_id: int
    owner: str
    limit: int
    lease_microseconds: int

    def __call__(self, session: Session) -> list[BatchRecord]:
        """Make this claim alone; return the batches as they are then."""
        return claim_all(session, [(session.change_id, self)])[0]


def claim_all(session: Session, claims: Sequence[tuple[str, Claim]]) -> list[list[BatchRecord]]:
    """Take PLANNED batches for several claims: those of one run together with as many statements as for one.

    Args:
        session: the transaction.
        claims: the claims, each with the id of the call that makes it.
    """
    wanted: defaultdict[int, int] = defaultdict(int)
    for _, claim in claims:
        _lease(session, claim.run_id, claim.owner, claim.lease_microseconds)
        wanted[claim.run_id] += claim.limit
    planned = {
        run_id: iter(records(session, _CLAIMABLE, {"of_run": run_id, "at_most": wanted[run_id]}))
        for run_id in sorted(wanted)
    }
    return [_claim(session, change_id, claim, planned[claim.run_id]) for change_id, claim in claims]


def _claim(
    session: Session, change_id: str, claim: Claim, planned: Iterator[BatchRecord]
) -> list[BatchRecord]:
    session.change_id = change_id
    if session.is_repeat and (done := _done(session, claim.run_id)):
        return done
    claimed: list[BatchRecord] = []
    for before in islice(planned, claim.limit):
        after = changed(before, BatchState.SENDING, at=session.time, owner=claim.owner)
        session.replace(claim.run_id, before, after, claim.owner)
        claimed.append(after)
    return claimed


def take_over(
    session: Session,
    *,
    run_id: int,
    owner: str,
    limit: int,
    lease_microseconds: int,
    of: Collection[str],
) -> list[BatchRecord]:
    """Take batches from owners who are gone."""
    _lease(session, run_id, owner, lease_microseconds)
    if session.is_repeat and (done := _done(session, run_id)):
        return done
    session.leased.clear()
    session.connection.execute(
        delete(leases).where(
            leases.c.run_id == run_id,
            (leases.c.expires_at <= session.now) | leases.c.owner.in_(of),
            leases.c.owner != owner,
        )
    )
    alive = select(leases.c.owner).where(
        leases.c.run_id == run_id, leases.c.owner == batches.c.owner
    )
    found = _locked(
        session,
        batches_of(run_id).where(
            batches.c.state.in_([state.value for state in _HELD]),
            batches.c.owner != owner,
            ~alive.exists(),
        ),
        limit,
    )
    taken = [
        changed(record, BatchState.UNKNOWN, at=session.time, owner=owner, error=SENDER_IS_GONE)
        if record.state is BatchState.SENDING
        else changed(record, BatchState.SUBMITTED, at=session.time, owner=owner)
        for record in found
    ]
    for before, after in zip(found, taken, strict=True):
        session.replace(run_id, before, after, owner)
    return taken


@frozen(kw_only=True, eq=False)
class Change:
    """A batch to be brought from the state that a record of it shows to another."""

    run_id: int
    before: BatchRecord
    to: BatchState
    owner: str
    values: Mapping[str, Any]
    uncertainty: float | None = None

    def __call__(self, session: Session) -> BatchRecord | None:
        """Make this change alone; return the batch as it is then, None if it had moved on."""
        return change_all(session, [(session.change_id, self)])[0]

    def after(self, at: datetime) -> BatchRecord:
        """Return the batch as it is after the change."""
        return changed(self.before, self.to, at=at, owner=self.owner, **self.values)


def change_all(session: Session, changes: Sequence[tuple[str, Change]]) -> list[BatchRecord | None]:
    """Bring batches to other states, each if it is still as it was: all of them with three statements.

    Args:
        session: the transaction.
        changes: the changes, each with the id of the call that asks for it.
    """
    numbers: defaultdict[int, list[int]] = defaultdict(list)
    for _, change in changes:
        numbers[change.run_id].append(change.before.number)
    versions = {
        run_id: session.lock_versions(run_id, numbers[run_id]) for run_id in sorted(numbers)
    }
    results: list[BatchRecord | None] = []
    for session.change_id, change in changes:
        results.append(_change(session, change, versions[change.run_id]))  # it sets the id
    return results


def _change(session: Session, change: Change, versions: dict[int, int]) -> BatchRecord | None:
    before = change.before
    after = change.after(session.time)
    if before.owner is not None and before.owner != change.owner:
        return None
    if session.is_repeat and (at := _done_at(session, change.run_id, before.number)):
        return change.after(from_microseconds(at))
    if versions.get(before.number) != before.version:
        return None
    versions[before.number] = after.version
    session.replace(change.run_id, before, after, change.owner, change.uncertainty)
    return after


def split(
    session: Session,
    *,
    run_id: int,
    before: BatchRecord,
    parts: Sequence[Sequence[int]],
    owner: str,
) -> list[BatchRecord] | None:
    """Put smaller batches in the place of one."""
    after = changed(before, BatchState.SPLIT, at=session.time, owner=owner)
    first_number = _locked_run(session, run_id).next_split_number
    new = split_parts(before, parts, first_number=first_number, at=session.time)
    if session.is_repeat and _done_at(session, run_id, before.number):
        written = batches_of(run_id).where(
            batches.c.number >= FIRST_SPLIT_NUMBER, batches.c.parent == before.number
        )
        return records(session, written.order_by(batches.c.number))
    if session.lock_versions(run_id, [before.number]).get(before.number) != before.version:
        return None
    session.replace(run_id, before, after, owner)
    session.add(run_id, new)
    session.connection.execute(
        update(runs).where(runs.c.id == run_id).values(next_split_number=first_number + len(new))
    )
    return new


def renew(session: Session, *, run_id: int, owner: str, lease_microseconds: int) -> bool:
    """Renew a lease; return whether the one before had not run out."""
    until = session.connection.scalar(_LEASE, {"of_run": run_id, "of_owner": owner})
    _lease(session, run_id, owner, lease_microseconds)
    return until is not None and until > session.now


def release(session: Session, *, run_id: int, owner: str) -> None:
    """End a lease."""
    session.leased.clear()
    session.connection.execute(
        delete(leases).where(leases.c.run_id == run_id, leases.c.owner == owner)
    )


def _lease(session: Session, run_id: int, owner: str, lease_microseconds: int) -> None:
    until = session.now + lease_microseconds
    if (run_id, owner, until) in session.leased:
        return
    session.leased.add((run_id, owner, until))
    values = {"of_run": run_id, "of_owner": owner, "until": until}
    if session.connection.execute(_RENEW, values).rowcount == 0:
        row = {"run_id": run_id, "owner": owner, "expires_at": until}
        session.connection.execute(insert(leases).values(row))


def _locked(session: Session, query: Select[Any], limit: int) -> list[BatchRecord]:
    # Rows that another process is at are passed over, not waited for; SQLite, where a writer is alone, ignores this.
    return records(
        session,
        query.order_by(batches.c.number).limit(limit).with_for_update(skip_locked=True),
    )


def _done_at(session: Session, run_id: int, number: int) -> int | None:
    return session.connection.scalar(
        select(transitions.c.at).where(
            transitions.c.run_id == run_id,
            transitions.c.number == number,
            transitions.c.change_id == session.change_id,
        )
    )


def _done(session: Session, run_id: int) -> list[BatchRecord]:
    query = batches_of(run_id).join(
        transitions,
        (transitions.c.run_id == batches.c.run_id)
        & (transitions.c.number == batches.c.number)
        & (transitions.c.version == batches.c.version),
    )
    return records(
        session,
        query.where(transitions.c.change_id == session.change_id).order_by(batches.c.number),
    )
