"""What the demonstration kills: ``python -m annolab_async.cli._demo_run '{"base_url": …}'`` runs a plan in a ledger."""

from __future__ import annotations

import json
import sys
from typing import Final

import anyio
from attrs import asdict, frozen

from annolab_async import AsyncInferenceClient, BatchPlan, RetryPolicy

__all__ = ["API_KEY", "Task", "main"]

API_KEY: Final = "XXXXXXX-XXXXXXX-XXXXXXX-XXXXXXX"


@frozen(kw_only=True)
class Task:
    """What a process of the demonstration is to do.

    Attributes:
        base_url: where the local AnnoLab serves.
        ledger: the path of the ledger.
        batches, batch_size: how many batches of how many sources.
    """

    base_url: str
    ledger: str
    batches: int
    batch_size: int

    @property
    def command(self) -> list[str]:
        """The command that does it in another process."""
        return [sys.executable, "-m", "annolab_async.cli._demo_run", json.dumps(asdict(self))]

    @property
    def plan(self) -> BatchPlan:
        """What is run over which sources."""
        return BatchPlan(
            group_name="Company Name",
            project_identifier="My Project",
            model_identifier="Staple + Classify Documents",
            output_layer_identifier="Gold Set",
            source_ids=range(1, self.batches * self.batch_size + 1),
            batch_size=self.batch_size,
        )

    def client(self) -> AsyncInferenceClient:
        """Return a client of the local AnnoLab, which does not pause for long after a failure: this is a show."""
        return AsyncInferenceClient(
            API_KEY, base_url=self.base_url, retry=RetryPolicy(first=0.05, cap=0.2)
        )

    async def run(self) -> None:
        """Run the plan to its end; started again, go on."""
        async with self.client() as client, client.fan_out(self.plan, ledger=self.ledger) as run:
            async for _ in run:
                pass


def main(arguments: list[str]) -> None:
    """Do what the command line says."""
    anyio.run(Task(**json.loads(arguments[1])).run)


if __name__ == "__main__":
    main(sys.argv)
