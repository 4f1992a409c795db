"""What is asked of the server for an export, checked before anything is sent. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from annolab_async._export_records import ExportJob, status_path_of
from annolab_async._records import name_faults

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["export_body", "export_job_of", "instruments_body"]

_LARGEST_ID = 2**63 - 1


def export_body(
    *,
    group_name: str,
    project: str | int,
    source_ids: Iterable[int] | None,
    layers: Iterable[str] | None,
    include_annotation_types: bool,
    include_sources: bool,
    include_text_bounds: bool,
) -> dict[str, Any]:
    """Return the body of ``POST /v1/export/project``.

    Raises:
        ValueError: an argument makes no sense; the text names every fault.
    """
    body: dict[str, Any] = {
        "projectIdentifier": project,
        "groupName": group_name,
        "includeAnnotationTypes": include_annotation_types,
        "includeSources": include_sources,
        "includeTextBounds": include_text_bounds,
    }
    faults = [
        *name_faults("group_name", group_name, ids_too=False),
        *name_faults("project", project),
        *_flag_faults("include_annotation_types", include_annotation_types),
        *_flag_faults("include_sources", include_sources),
        *_flag_faults("include_text_bounds", include_text_bounds),
    ]
    if source_ids is not None:
        body["sourceIds"] = _items("source_ids", source_ids, int, faults)
    if layers is not None:
        body["annotationLayerNames"] = _items("layers", layers, str, faults)
    _check(faults)
    return body


def instruments_body(
    *,
    project_owner: str,
    project_name: str,
    tag_filter: Iterable[str] | None,
    source_filter: Iterable[int] | None,
    include_files: bool,
) -> dict[str, Any]:
    """Return the body of ``POST /v1/export/instruments``.

    Raises:
        ValueError: an argument makes no sense; the text names every fault.
    """
    body: dict[str, Any] = {
        "projectOwner": project_owner,
        "projectName": project_name,
        "includeFiles": include_files,
    }
    faults = [
        *name_faults("project_owner", project_owner, ids_too=False),
        *name_faults("project_name", project_name, ids_too=False),
        *_flag_faults("include_files", include_files),
    ]
    if tag_filter is not None:
        body["tagFilter"] = _items("tag_filter", tag_filter, str, faults)
    if source_filter is not None:
        body["sourceFilter"] = _items("source_filter", source_filter, int, faults)
    _check(faults)
    return body


def export_job_of(export: ExportJob | int) -> ExportJob:
    """Return an export, given as itself or as its id.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(export, ExportJob):
        return export
    # The id becomes part of a URL: "../../admin" must not.
    if type(export) is not int or not 1 <= export <= _LARGEST_ID:
        raise ValueError(f"{export!r} is neither an ExportJob nor an export's id")
    return ExportJob(export, "initialized", status_path_of(export, None))


def _check(faults: list[str]) -> None:
    if faults:
        raise ValueError("This is no valid export: " + "; ".join(faults))


def _flag_faults(name: str, value: object) -> Iterator[str]:
    if type(value) is not bool:
        yield f"{name} is {value!r}, neither True nor False"


def _items(name: str, given: object, kind: type, faults: list[str]) -> list[Any] | None:
    """Return a list's items, each once; add what is wrong to the faults, and return None if that is all there is."""
    if isinstance(given, str | bytes) or not hasattr(given, "__iter__"):
        faults.append(f"{name} is {given!r}, not a collection")
        return None
    items = list(cast("Iterable[Any]", given))
    if not items:
        # For the server, none may be all.
        faults.append(f"{name} is empty; None asks for all")
    if kind is int:
        wrong = [item for item in items if type(item) is not int or not 1 <= item <= _LARGEST_ID]
        what = "ids are integers from 1 up"
    else:
        wrong = [item for item in items if type(item) is not str or not item.strip()]
        what = "each is a name"
    if wrong:
        more = f" and {len(wrong) - 10} more" if wrong[10:] else ""
        faults.append(f"{name} holds {', '.join(map(repr, wrong[:10]))}{more}: {what}")
        return None
    return list(dict.fromkeys(items))
