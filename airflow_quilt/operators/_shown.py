"""The output of mapped tasks as Airflow's pages show it: its items, and not that it is lazy."""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Final, overload

_MOST: Final = 20
"""The most items that are shown, and requested for that."""


class ShownSequence(Sequence[Any]):
    """A lazy sequence of Airflow's (``LazyXComSequence``, or that of ``map()``, ``zip()`` and ``concat()``) that can be shown.

    Airflow stores ``str()`` of such a sequence, or the result of its ``serialize()``, as the rendered argument of a task. In all
    else it is the sequence.
    """

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        return self._items[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._shown)

    def serialize(self) -> Any:
        """Return the first items as JSON values, and the number of the others."""
        return self._shown

    @cached_property
    def _shown(self) -> Any:
        try:
            items = _first(self._items)
            more = len(self._items) - len(items) if len(items) == _MOST else 0
            shown: list[Any] = json.loads(json.dumps(items, default=str))
        except Exception:  # noqa: BLE001  (of any kind: reading the output of a task may call a function of the DAG's author)
            return str(self._items)
        return [*shown, f"… and {more:,} more"] if more > 0 else shown


def shown(value: Any) -> Any:
    """Return a lazy sequence so that it can be shown, and any other value as it is."""
    is_lazy = isinstance(value, Sequence) and not isinstance(value, list | tuple | str | bytes | bytearray | memoryview)
    return ShownSequence(value) if is_lazy and not isinstance(value, ShownSequence) else value


def _first(items: Sequence[Any]) -> list[Any]:
    """Return the first items: with one request to Airflow, where it takes one for all of them."""
    from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence

    # The others take a slice for an index, and call the function of ``map()`` with a list.
    return list(items[:_MOST]) if isinstance(items, LazyXComSequence) else list(islice(items, _MOST))
