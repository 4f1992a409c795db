"""The vendor's own sample, run as a program against the emulator."""

from __future__ import annotations

import itertools
import math
import sys

import anyio
import pytest

from annolab_async.emulator import Emulator, EmulatorServer

pytestmark = [pytest.mark.anyio, pytest.mark.sockets, pytest.mark.any_backend]

SAMPLE = """\
import requests
import time

ANNO_LAB_API_KEY = 'XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX'

inferenceBody = {
  'groupName': 'Company Name',
  'projectIdentifier': 'My Project',
  'sourceIds': [4024, 5853],
  'modelIdentifier': 'Staple + Classify Documents',
  'outputLayerIdentifier': 'Gold Set'
}

headers = {
  'Authorization': 'Api-Key '+ANNO_LAB_API_KEY,
}

url = 'https://api.annolab.ai/v1/infer/batch'

response = requests.post(url, headers=headers, json=inferenceBody)

print(response.json())

get_url = 'https://api.annolab.ai/v1/infer/batch/'+response.json()['inferenceJobId']
maximum_timeout_seconds = 1800
time_taken = 0 
inference_is_finished = False

start_time = time.time()
while not inference_is_finished and time_taken < maximum_timeout_seconds:
  status_response = requests.get(get_url, headers=headers, json=inferenceBody).json()
  if status_response['status'] in ['Finished', 'Errored']:
    print("Inference Finished")
    print(status_response)
    inference_is_finished = True
  time_taken = time.time() - start_time
"""  # noqa: W291 - the vendor's text to the letter


def replaced(text: str, old: str, new: str, times: int) -> str:
    assert text.count(old) == times
    return text.replace(old, new)


def runnable(base_url: str) -> str:
    code = replaced(SAMPLE, "https://api.annolab.ai", base_url, 2)
    # A string plus an int is a TypeError.
    code = replaced(
        code, "+response.json()['inferenceJobId']", "+str(response.json()['inferenceJobId'])", 1
    )
    pause = "  time.sleep(0.02)\n  time_taken = time.time()"
    return replaced(code, "  time_taken = time.time()", pause, 1)


@pytest.mark.parametrize(("error_share", "final_status"), [(0.0, "Finished"), (1.0, "Errored")])
async def test_the_vendors_sample_runs_to_its_end(error_share: float, final_status: str) -> None:
    # A clock that ticks at each reading: how fast the sample runs does not matter.
    clock = itertools.count().__next__
    emulator = Emulator(clock=clock, base_seconds=5.0, error_share=error_share)
    async with EmulatorServer(emulator) as server:
        with anyio.fail_after(60):
            run = await anyio.run_process([sys.executable, "-c", runnable(server.base_url)])
    created, finished, last = run.stdout.decode().splitlines()
    assert "'status': 'Queued'" in created
    assert "'projectName': 'My Project'" in created
    assert finished == "Inference Finished"
    assert f"'status': '{final_status}'" in last
    job = emulator.job(1)
    assert job.statuses_shown == ("Running", final_status)
    assert job.terminal_answers == 1
    assert emulator.stats.submits == 1
    assert emulator.stats.polls == job.polls == math.ceil(job.ended_at)
