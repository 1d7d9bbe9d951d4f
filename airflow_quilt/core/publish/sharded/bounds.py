"""The bounds of the transfers in a plan, by which each worker checks its orders before it reads or writes a byte (ADR 0023)."""

import bisect
from collections.abc import Iterable, Sequence
from typing import Final, Self

import msgspec

from airflow_quilt.core.format import layout
from airflow_quilt.core.format.manifest import Entry
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.plan.actions import Action, Copy, HashInPlace, Upload, origin_of
from airflow_quilt.core.plan.placement import Landing
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.planned import Planner
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.sources.parse import LocationSource, parse_entries

_ANY_FILE: Final = "/"
_ANY_OBJECT: Final = ""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The places that the transfers of one plan read and write.

    Attributes:
        files: the paths of the draft's files and directories, each with a ``/`` at its end, in order, and none below another.
        objects: the objects and prefixes likewise, as ``<bucket>/<key>/``.
        landing: the place of the files that are moved.
    """

    files: Sequence[str]
    objects: Sequence[str]
    landing: Landing

    @classmethod
    def of(cls, registry: Registry, draft: Draft, planner: Planner) -> Self:
        """Return the bounds of a draft.

        A package names objects in any bucket, and in a local registry any file; so does the revision that an update starts from.
        """
        files, objects = set[str](), set[str]()
        packages = [registry.location] if draft.mode == "update" else []
        for source in parse_entries(draft.entries) if draft.entries is not None else ():
            match source:
                case LocationSource(location=QuiltUri() as uri):
                    packages.append(uri.registry)
                case LocationSource(location=PhysicalKey() as location):
                    (files if location.is_local else objects).add(_place(location))
        objects.update([_ANY_OBJECT] if packages else [])
        files.update([_ANY_FILE] if draft.follow_symlinks or any(each.is_local for each in packages) else [])
        return cls(files=_outermost(files), objects=_outermost(objects), landing=planner.landing)

    def fault(self, action: Action) -> str | None:
        """Return the reason why an action is none of this plan; None for one that may be."""
        if isinstance(action, Entry):  # It stays where it is, and no byte of it is read.
            return None
        origin = action.source.origin
        if isinstance(action, HashInPlace | Copy) and action.origin != origin:
            return f"it reads {action.origin} for {origin_of(action.source)}"
        if isinstance(origin, PhysicalKey):
            if isinstance(action, Upload | Copy) and origin.is_local is isinstance(action, Copy):
                return f"it does not fit {origin}"
            if not self._reads(origin):
                return f"it reads {origin}, which is no source of the package"
        elif not isinstance(action, Upload) or not isinstance(origin, bytes) or len(origin) != action.source.size:
            return "its content is missing"
        return None if isinstance(action, HashInPlace) else self._misplaced(action)

    def _reads(self, origin: PhysicalKey) -> bool:
        if origin.is_local:
            return _holds(self.files, _place(origin)) and "/../" not in _place(origin)
        return _holds(self.objects, _place(origin))

    def _misplaced(self, action: Upload | Copy) -> str | None:
        destination = action.destination
        if destination.is_local or destination.version_id is not None or destination.is_prefix:
            return f"it writes {destination}, which is no object"
        if destination.key.startswith(layout.OWN):
            return f"it writes {destination}, in the registry's own area"
        if self.landing != "anywhere" and (self.landing == "nowhere" or destination != self.landing.join(action.logical_key)):
            return f"it writes {destination}, which is not where the package lands"
        previous = action.previous if isinstance(action, Upload) else None
        if previous and PhysicalKey.parse(previous.physical_keys[0]).at_version(None) != destination:
            return f"it takes {previous.physical_keys[0]} for {destination}"
        return None


def _place(key: PhysicalKey) -> str:
    name = key.key if key.bucket is None else f"{key.bucket}/{key.key}"
    return name if name.endswith("/") else f"{name}/"


def _outermost(places: Iterable[str]) -> list[str]:
    """Return the places in order, without those that are below others."""
    kept: list[str] = []
    for place in sorted(places):
        if not (kept and place.startswith(kept[-1])):
            kept.append(place)
    return kept


def _holds(places: Sequence[str], place: str) -> bool:
    """Return whether one of the places is this one, or above it."""
    # Between the one above and this one, in order, are only places below the one above, and none of those was kept.
    at = bisect.bisect_right(places, place)
    return at > 0 and place.startswith(places[at - 1])
