"""The buckets that packages of other registries may name."""

from dataclasses import dataclass, replace
from typing import Self

from airflow_quilt.core.errors import LocationError, quoted
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation


@dataclass(frozen=True, slots=True)
class Reach:
    """The buckets that packages of other registries may name: objects are read with the rights of the task, not of the author.

    A package may always name the bucket of its own registry.

    Attributes:
        buckets: their names.
        trusted: registries whose packages may name any bucket.
    """

    buckets: frozenset[str]
    trusted: frozenset[RegistryLocation] = frozenset()

    def trusting(self, registry: RegistryLocation) -> Self:
        """Return the same with one more trusted registry."""
        return replace(self, trusted=self.trusted | {registry})

    def check(self, logical_key: str, origin: PhysicalKey, registry: RegistryLocation) -> None:
        """Check the location of an entry of a package of ``registry``; files are not restricted here.

        Raises:
            LocationError: the package may not name its bucket.
        """
        if origin.bucket in {None, registry.root.bucket} or origin.bucket in self.buckets or registry in self.trusted:
            return
        raise LocationError(
            f"entry {quoted(logical_key)}: its package, in {registry}, names an object in the bucket {quoted(origin.bucket)}, "
            "which is not among the allowed_buckets for packages of other registries; add it there if they may name it"
        )
