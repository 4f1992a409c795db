"""Annotations and relations as the emulator remembers them."""

from __future__ import annotations

from typing import Any

from attrs import frozen


@frozen(kw_only=True)
class EmulatedAnnotation:
    """One annotation: made through the API, or predicted by a job.

    Attributes:
        id: Its id; no two annotations of an emulator have the same.
        source_id: The source that it is in.
        type_id: The id of its type.
        type_name: The name of its type.
        layer_id: The id of its layer.
        layer_name: The name of its layer.
        value: What it says; None if it was made without.
        raw_value: The same as the model read it; None if no model did.
        offsets: The characters of the source's text that it covers: the first, and the one after the last.
        page_number: The first page that it is on, from 1 up.
        end_page_number: The last.
        text_bounds: Where the text stands on the page, as it was sent.
        image_bounds: Where it is in the page's image, as it was sent.
        is_reviewed: Whether a person has looked at it.
        inference_job_id: The job that predicted it; None if it was made through the API.
    """

    id: int
    source_id: int
    type_id: int
    type_name: str
    layer_id: int
    layer_name: str
    value: str | None = None
    raw_value: str | None = None
    offsets: tuple[int, int] | None = None
    page_number: int | None = None
    end_page_number: int | None = None
    text_bounds: Any = None
    image_bounds: Any = None
    is_reviewed: bool = False
    inference_job_id: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as an export has it: what may be missing is left out, and who made it is not told."""
        data: dict[str, Any] = {
            "id": self.id,
            "sourceId": self.source_id,
            "typeId": self.type_id,
            "typeName": self.type_name,
            "layerId": self.layer_id,
            "layerName": self.layer_name,
            "value": self.value,
            "isReviewed": self.is_reviewed,
        }
        if self.raw_value is not None:
            data["rawValue"] = self.raw_value
        if self.offsets is not None:
            data["offsets"] = list(self.offsets)
        if self.page_number is not None:
            data["pageNumber"] = self.page_number
        if self.end_page_number is not None:
            data["endPageNumber"] = self.end_page_number
        if self.text_bounds is not None:
            data["textBounds"] = self.text_bounds
        if self.image_bounds is not None:
            data["imageBounds"] = self.image_bounds
        return data


@frozen(kw_only=True)
class EmulatedRelation:
    """A relation between two annotations.

    Attributes:
        id: Its id.
        predecessor_id: The annotation that it begins at.
        successor_id: The one that it leads to.
        type_id: The id of its type.
        type_name: The name of its type.
        value: What it says; None if it was made without.
    """

    id: int
    predecessor_id: int
    successor_id: int
    type_id: int
    type_name: str
    value: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as an export has it."""
        return {
            "id": self.id,
            "predecessorId": self.predecessor_id,
            "successorId": self.successor_id,
            "typeId": self.type_id,
            "typeName": self.type_name,
            "value": self.value,
        }
