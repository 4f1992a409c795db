"""What an export holds: annotations and what they are about. All are immutable."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

__all__ = [
    "Annotation",
    "AnnotationLayer",
    "AnnotationRelation",
    "AnnotationType",
    "ExportedSource",
    "TextBounds",
]


@frozen(kw_only=True, weakref_slot=False)
class Annotation:
    """One annotation of a source: by a person, or by a model as its prediction.

    Attributes:
        source_id: the source that it is in.
        id: its own id, None if the service gave none.
        type_id, type_name: of which type it is.
        layer_id, layer_name: in which layer it is.
        value: what it says; for most types the text that it covers.
        raw_value: the same as the model read it.
        offsets: the characters of the source's text that it covers: the first, and the one after the last.
        page_number, end_page_number: the pages that it is on, from 1 up.
        text_bounds, image_bounds: where it is on the page, as the service sent it.
        extra: what else the service said, by its names.
    """

    source_id: int
    id: int | None = field(default=None, metadata={"also": "annotationId"})
    type_id: int | None = None
    type_name: str | None = None
    layer_id: int | None = None
    layer_name: str | None = None
    value: str | None = None
    raw_value: str | None = None
    offsets: tuple[int, int] | None = None
    page_number: int | None = None
    end_page_number: int | None = None
    text_bounds: Any = None
    image_bounds: Any = None
    extra: dict[str, Any] = field(factory=dict[str, Any])


@frozen(kw_only=True, weakref_slot=False)
class ExportedSource:
    """A source as an export with ``include_sources`` has it.

    Attributes:
        source_id: its id.
        source_name, directory_name: its name and where it lies in the project.
        type: such as ``"text"`` or ``"pdf"``.
        text: its text.
        extra: what else the service said, by its names.
    """

    source_id: int
    source_name: str | None = None
    directory_name: str | None = None
    type: str | None = None
    text: str | None = None
    extra: dict[str, Any] = field(factory=dict[str, Any])


@frozen(kw_only=True, weakref_slot=False)
class TextBounds:
    """Where the text of a source stands on its pages, as an export with ``include_text_bounds`` has it.

    Attributes:
        source_id: the source.
        text_bounds: as the service sent it.
        extra: what else the service said, by its names.
    """

    source_id: int
    text_bounds: Any = None
    extra: dict[str, Any] = field(factory=dict[str, Any])


@frozen(kw_only=True, weakref_slot=False)
class AnnotationLayer:
    """A layer that annotations are in.

    Attributes:
        name: its name.
        id: its id, None if the service gave none.
        is_gold_set: whether it holds what is known to be right.
        description: what it is for.
        extra: what else the service said, by its names.
    """

    name: str
    id: int | None = None
    is_gold_set: bool | None = None
    description: str | None = None
    extra: dict[str, Any] = field(factory=dict[str, Any])


@frozen(kw_only=True, weakref_slot=False)
class AnnotationType:
    """A type that annotations are of, as an export with ``include_annotation_types`` has it.

    Attributes:
        name: its name.
        id: its id, None if the service gave none.
        color: how it is shown.
        is_relation: whether it is a type of relations.
        is_document_classification: whether it is about whole sources.
        category: the group of types that it belongs to.
        extra: what else the service said, by its names.
    """

    name: str
    id: int | None = None
    color: str | None = None
    is_relation: bool | None = None
    is_document_classification: bool | None = None
    category: str | None = None
    extra: dict[str, Any] = field(factory=dict[str, Any])


@frozen(kw_only=True, weakref_slot=False)
class AnnotationRelation:
    """A relation between two annotations.

    Attributes:
        predecessor_id, successor_id: the annotations.
        id: its own id, None if the service gave none.
        type_id, type_name: of which type it is.
        value: what it says.
        extra: what else the service said, by its names.
    """

    predecessor_id: int
    successor_id: int
    id: int | None = None
    type_id: int | None = None
    type_name: str | None = None
    value: str | None = None
    extra: dict[str, Any] = field(factory=dict[str, Any])
