"""The values that the steps of a push by many workers return, and by which the next steps find their records."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from airflow_quilt.core.errors import InputError, quoted
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.publish.sharded.staging import Seal
from airflow_quilt.core.runtime.progress import count, human_size

_COUNTS: Final = ("number", "entries", "bytes", "bytes_copied", "bytes_reused", "kept")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """The plan that was staged.

    Attributes:
        location: names the plan to the next steps. It holds the size and the hash of the plan, and so no other one is taken.
        shards: the number of shards, one at least; they are counted from 0.
        entries: the number of files.
        bytes: the sum of their sizes.
        bytes_to_copy: bytes that are to be moved to the registry's bucket.
    """

    location: PhysicalKey
    shards: int
    entries: int
    bytes: int
    bytes_to_copy: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardResult:
    """The result of the transfer of a shard, for the commit.

    Attributes:
        plan: the location of the plan.
        number: the number of the shard, counted from 0.
        seal: the size and the hash of its staged entries.
        entries: the number of its files.
        bytes: the sum of their sizes.
        bytes_copied: bytes that were moved to the registry's bucket.
        bytes_reused: bytes that were to be moved, and were there already.
        kept: the number of its files that were kept as a package names them, whose objects were not requested.
    """

    plan: PhysicalKey
    number: int
    seal: Seal
    entries: int
    bytes: int
    bytes_copied: int
    bytes_reused: int
    kept: int = 0

    def __str__(self) -> str:
        files, size = count(self.entries, "file", "files"), human_size(self.bytes)
        return f"{files}, {size}: {human_size(self.bytes_copied)} copied, {human_size(self.bytes_reused)} reused"

    def to_xcom(self) -> dict[str, Any]:
        """Return the result as plain values."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        return {"plan": str(self.plan), "seal": str(self.seal), **counts}

    @classmethod
    def from_xcom(cls, value: Mapping[str, Any]) -> Self:
        """Return the result of :meth:`to_xcom`.

        Raises:
            InputError: it is none.
        """
        try:
            counts = {name: int(value[name]) for name in _COUNTS}
            return cls(plan=PhysicalKey.parse(value["plan"]), seal=Seal.parse(value["seal"]), **counts)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{quoted(value)}: expected the result of a transfer, as it was returned") from error
