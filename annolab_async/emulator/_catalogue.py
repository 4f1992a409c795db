"""What exists at the emulated service: groups, and projects with their layers, types and sources. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from attrs import field, frozen

from annolab_async.emulator._bodies import Identifier, Refused, parse_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from annolab_async.emulator._annotations import EmulatedAnnotation, EmulatedRelation
    from annolab_async.emulator._settings import Settings

DEFAULT_DIRECTORY = "Uploads"
# Far from the ids that people make up for batches: such a source is in every project.
FIRST_SOURCE_ID = 1_000_001


class HasName(Protocol):
    """What can be found by its name or its id."""

    @property
    def id(self) -> int:
        """Its id."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...


T = TypeVar("T", bound=HasName)


@frozen
class Named:
    """A thing of which no more is known than its name."""

    name: str
    id: int


@frozen(kw_only=True)
class Layer:
    """A layer of a project."""

    id: int
    name: str
    is_gold_set: bool = False
    description: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as the service tells it."""
        return {
            "id": self.id,
            "name": self.name,
            "isGoldSet": self.is_gold_set,
            "description": self.description,
        }


@frozen(kw_only=True)
class TypeOfAnnotations:
    """A type that annotations or relations of a project are of."""

    id: int
    name: str
    color: str | None = None
    is_relation: bool = False
    is_document_classification: bool = False
    category: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as the service tells it."""
        return {
            "id": self.id,
            "name": self.name,
            "color": self.color,
            "isRelation": self.is_relation,
            "isDocumentClassification": self.is_document_classification,
            "category": self.category,
        }


@frozen(kw_only=True)
class Source:
    """A text in a directory of a project."""

    id: int
    name: str
    directory_name: str
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return it as the service tells it."""
        return {
            "id": self.id,
            "sourceId": self.id,
            "sourceName": self.name,
            "directoryName": self.directory_name,
            "type": "text",
            "text": self.text,
        }


@frozen(kw_only=True, eq=False)
class Project:
    """A project and all that was made in it.

    Things are added and never changed, so what an export holds is told by how many there were.

    Args:
        id: Its id.
        name: Its name.
        group_name: The group that owns it; None if each group has it.
    """

    id: int
    name: str
    group_name: str | None
    layers: dict[str, Layer] = field(factory=dict[str, Layer])
    types: dict[str, TypeOfAnnotations] = field(factory=dict[str, TypeOfAnnotations])
    sources: dict[int, Source] = field(factory=dict[int, Source])
    source_ids: dict[tuple[str, str], int] = field(factory=dict[tuple[str, str], int])
    annotations: dict[int, EmulatedAnnotation] = field(factory=dict[int, "EmulatedAnnotation"])
    relations: dict[int, EmulatedRelation] = field(factory=dict[int, "EmulatedRelation"])


class Counter:
    """Hands out ids."""

    def __init__(self, first: int = 1) -> None:
        self._next = first

    def take(self, count: int = 1) -> int:
        """Return the first of so many ids in a row that nothing has had."""
        first = self._next
        self._next += count
        return first


class Catalogue:
    """All groups and projects.

    Args:
        settings: What exists from the start.
    """

    def __init__(self, settings: Settings) -> None:
        self.groups = settings.groups
        self.common_layers = {
            name: Layer(id=number, name=name, is_gold_set=name == "Gold Set")
            for name, number in settings.layers.items()
        }
        self.projects: dict[int, Project] = {
            number: Project(id=number, name=name, group_name=None, layers=dict(self.common_layers))
            for name, number in settings.projects.items()
        }
        self.annotation_ids = Counter()
        self.relation_ids = Counter()
        self._project_ids = Counter(max(settings.projects.values()) + 1)
        self._layer_ids = Counter(max(settings.layers.values()) + 1)
        self._type_ids = Counter()
        self._source_ids = Counter(FIRST_SOURCE_ID)

    def project(self, identifier: Identifier, group_name: str | None = None) -> Project:
        """Return a project.

        Args:
            identifier: Its name or its id.
            group_name: The group that has it; None to look into all of them.

        Raises:
            Refused: 404; it does not exist.
        """
        if group_name is not None and group_name not in self.groups:
            raise Refused(404, f"not found: group {group_name!r}")
        if project := self.find_project(identifier, group_name):
            return project
        raise Refused(404, f"not found: project {identifier!r}")

    def find_project(self, identifier: Identifier, group_name: str | None) -> Project | None:
        """Find a project, as :meth:`project` does; None if there is none."""
        within = {
            project.name: project
            for project in reversed(self.projects.values())
            if group_name is None or project.group_name in {None, group_name}
        }
        return find_by_identifier(within, identifier) or self._project_by_id(identifier, group_name)

    def _project_by_id(self, identifier: Identifier, group_name: str | None) -> Project | None:
        # Of two projects of one name, in two groups, the dictionary of names holds only one.
        number = parse_id(identifier) if isinstance(identifier, str) else identifier
        project = self.projects.get(number) if number is not None else None
        is_there = project and (group_name is None or project.group_name in {None, group_name})
        return project if is_there else None

    def source(self, source_id: int) -> tuple[Project, Source]:
        """Return a source and the project that it is in.

        Raises:
            Refused: 404; it does not exist.
        """
        for project in self.projects.values():
            if source := project.sources.get(source_id):
                return project, source
        raise Refused(404, f"not found: source {source_id}")

    def create_project(self, name: str, group_name: str) -> Project:
        """Make a project.

        Raises:
            Refused: 404; there is no such group. 409; it has a project of that name.
        """
        if group_name not in self.groups:
            raise Refused(404, f"not found: group {group_name!r}")
        for project in self.projects.values():
            if project.name == name and project.group_name in {None, group_name}:
                raise Refused(409, f"project {name!r} already exists in {group_name!r}")
        project = Project(id=self._project_ids.take(), name=name, group_name=group_name)
        self.projects[project.id] = project
        return project

    def create_layer(
        self, project: Project, name: str, *, is_gold_set: bool, description: str | None
    ) -> Layer:
        """Make a layer.

        Raises:
            Refused: 409; the project has one of that name.
        """
        if name in project.layers:
            raise Refused(409, f"layer {name!r} already exists in project {project.name!r}")
        layer = Layer(
            id=self._layer_ids.take(), name=name, is_gold_set=is_gold_set, description=description
        )
        project.layers[name] = layer
        return layer

    def create_type(self, project: Project, name: str, **about: Any) -> TypeOfAnnotations:
        """Make a type.

        Args:
            project: Where.
            name: Its name.
            about: The other fields of :class:`TypeOfAnnotations`.

        Raises:
            Refused: 409; the project has one of that name.
        """
        if name in project.types:
            raise Refused(409, f"annotation type {name!r} already exists in {project.name!r}")
        made = TypeOfAnnotations(id=self._type_ids.take(), name=name, **about)
        project.types[name] = made
        return made

    def create_source(self, project: Project, directory_name: str, name: str, text: str) -> Source:
        """Make a text source.

        Raises:
            Refused: 409; the directory has one of that name.
        """
        if (directory_name, name) in project.source_ids:
            raise Refused(409, f"source {name!r} already exists in {directory_name!r}")
        source = Source(
            id=self._source_ids.take(), name=name, directory_name=directory_name, text=text
        )
        project.sources[source.id] = source
        project.source_ids[directory_name, name] = source.id
        return source


def find_by_identifier(things: Mapping[str, T], identifier: Identifier) -> T | None:
    """Find a thing by its name, or else by its id, which may be written as a string."""
    if isinstance(identifier, str) and identifier in things:
        return things[identifier]
    number = parse_id(identifier) if isinstance(identifier, str) else identifier
    return next((thing for thing in things.values() if thing.id == number), None)
