"""Batches that fail for the sake of a few sources: which those are is found out, at a known price."""

from __future__ import annotations

import math
from random import Random

import pytest

from annolab_async import BatchState
from tests.crash.accounts import check_accounts
from tests.crash.outside import records_in, seed_for
from tests.crash.runner import a_plan
from tests.crash.test_stopped import a_ledger
from tests.depth import often
from tests.service import an_emulator, in_process

pytestmark = pytest.mark.anyio

SIZE = 64
BAD = 3
MOST_JOBS = 1 + BAD * 2 * math.log2(SIZE)


@pytest.mark.chance
async def test_of_64_sources_exactly_the_three_bad_ones_are_named_within_the_bound() -> None:
    random = Random(seed_for(64))
    most = 0
    # At both ends, next to each other, as far apart as can be; and anywhere.
    choices = [{1, 2, 3}, {62, 63, 64}, {1, 33, 64}, {32, 33, 34}, {1, 22, 43}]
    choices += [set(random.sample(range(1, SIZE + 1), BAD)) for _ in range(often(20))]
    for bad in choices:
        emulator, ledger = an_emulator(bad_source_ids=bad, workers=4), a_ledger()
        async with (
            in_process(emulator) as client,
            client.fan_out(a_plan(SIZE, SIZE), ledger=ledger, on_error="split") as run,
        ):
            async for _ in run:
                pass
        assert sorted(run.failed_source_ids()) == sorted(bad)
        assert run.summary.sources == {
            BatchState.FINISHED: SIZE - BAD,
            BatchState.ERRORED: BAD,
        }
        check_accounts(
            await records_in(ledger, SIZE, SIZE),
            emulator.jobs,
            range(1, SIZE + 1),
            most_unknown=0,
        )
        most = max(most, len(emulator.jobs))
        assert len(emulator.jobs) <= MOST_JOBS, bad
    assert most > MOST_JOBS / 2
