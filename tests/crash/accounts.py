"""Holds what a ledger says of a run against what the service knows, which is the truth."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from annolab_async import BatchState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from annolab_async import BatchRecord
    from annolab_async.emulator import EmulatedJob

WITH_A_JOB = {
    BatchState.SUBMITTED,
    BatchState.FINISHED,
    BatchState.TIMED_OUT,
    BatchState.LOST,
}


def check_accounts(
    records: Iterable[BatchRecord],
    jobs: Mapping[int, EmulatedJob],
    source_ids: Collection[int],
    *,
    most_unknown: int,
) -> Counter[BatchState]:
    """Check that no batch was sent twice, no job forgotten and no source lost; return how many batches stand where."""
    records = list(records)
    by_sources = {record.source_ids: record for record in records}
    assert len(by_sources) == len(records), "two batches hold the same sources"

    sent = Counter(job.source_ids for job in jobs.values())
    assert not {batch: times for batch, times in sent.items() if times > 1}, "sent twice"
    assert sent.keys() <= by_sources.keys(), "a job for no batch"

    for job_id, job in jobs.items():
        record = by_sources[job.source_ids]
        if record.state is not BatchState.UNKNOWN:
            assert record.inference_job_id == job_id, f"job {job_id} is forgotten: {record}"
    for record in records:
        if record.inference_job_id is not None:
            assert jobs[record.inference_job_id].source_ids == record.source_ids, record
        if record.state in WITH_A_JOB:
            assert record.inference_job_id is not None, record
        if record.state is BatchState.FINISHED:
            assert jobs[record.inference_job_id or 0].final_status == "Finished", record

    live = Counter(
        source_id
        for record in records
        if record.state is not BatchState.SPLIT
        for source_id in record.source_ids
    )
    assert live == Counter(source_ids), "a source is lost, or is there twice"

    states = Counter(record.state for record in records)
    assert states[BatchState.UNKNOWN] <= most_unknown, (states, most_unknown)
    return states
