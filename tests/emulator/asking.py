"""Asks an emulator in the same process, at times that the test chooses."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any, Self

import httpx

from annolab_async.emulator import Emulator, Exports
from tests.service import KEY

if TYPE_CHECKING:
    from types import TracebackType

GROUP = "Company Name"
PROJECT = "My Project"
EXPORT: dict[str, Any] = {"groupName": GROUP, "projectIdentifier": PROJECT}
AT_ONCE = Exports(wait_seconds=0, seconds=0)


class Service:
    """An emulator and its clock, an API client and one for downloads.

    Args:
        settings: As for the emulator; unless told otherwise jobs and exports end at once.
    """

    def __init__(self, **settings: Any) -> None:
        self.now = 0.0
        defaults: dict[str, Any] = {
            "base_seconds": 0.0,
            "seconds_per_source": 0.0,
            "exports": AT_ONCE,
            "clock": lambda: self.now,
        }
        self.emulator = Emulator(api_key=KEY, **(defaults | settings))
        self.api = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.emulator.app),
            base_url="http://emulator",
            headers={"Authorization": f"Api-Key {KEY}"},
        )
        self.foreign = httpx.AsyncClient(transport=httpx.ASGITransport(app=self.emulator.downloads))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.api.aclose()
        await self.foreign.aclose()

    async def post(self, path: str, body: Any, status_code: int = 201) -> Any:
        """Send a body, and return the answer's."""
        answer = await self.api.post(path, json=body)
        assert answer.status_code == status_code, answer.text
        return answer.json()

    async def get(self, path: str, status_code: int = 200) -> Any:
        """Return the body of the answer."""
        answer = await self.api.get(path)
        assert answer.status_code == status_code, answer.text
        return answer.json()

    async def predict(self, *source_ids: int, **changes: Any) -> int:
        """Run a job on sources, and return its id."""
        body = {
            "groupName": GROUP,
            "projectIdentifier": PROJECT,
            "modelIdentifier": "Staple + Classify Documents",
            "outputLayerIdentifier": "Gold Set",
            "sourceIds": source_ids,
        }
        return int((await self.post("/v1/infer/batch", body | changes, 200))["inferenceJobId"])

    async def export(self, path: str = "/v1/export/project", **options: Any) -> int:
        """Ask for an export, and return its id."""
        return int((await self.post(path, EXPORT | options))["exportJob"]["id"])

    async def link(self, export_id: int = 1) -> str:
        """Return the signed link to a finished export."""
        return str((await self.get(f"/v1/export/status/{export_id}"))["downloadUrl"])

    async def exported(self, **options: Any) -> dict[str, list[Any]]:
        """Export, download, and return the lines of each file by its kind."""
        answer = await self.foreign.get(await self.link(await self.export(**options)))
        assert answer.status_code == 200, answer.text
        return unzipped(answer.content)


def unzipped(content: bytes) -> dict[str, list[Any]]:
    """Return the lines of each file in a zip, by the part of its name that says what it holds."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {
            name.split(".")[-2]: [json.loads(line) for line in archive.read(name).splitlines()]
            for name in archive.namelist()
        }
