"""The output of the command line: tables for people, plain lines for shells, JSON for programs."""

import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TextIO

from airflow_quilt.core.errors import InputError, escaped

Form = Literal["table", "json", "plain"]
_BATCH: Final = 1000
"""Lines of a table whose columns are made to fit: the first ones appear before the last ones are known."""
_COLORS: Final = {"added": "32", "deleted": "31", "modified": "33", "missing": "31", "extra": "32", "header": "1"}
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")
"""Control characters that are not white space, in UTF-8."""


@dataclass(frozen=True, slots=True)
class Row:
    """One item of the output.

    Attributes:
        value: for JSON, exact.
        cells: for plain lines, exact but for characters that do not print.
        shown: for tables.
        kind: of a change, for its colour.
    """

    value: Mapping[str, Any]
    cells: Sequence[object]
    shown: Sequence[str]
    kind: str | None = None


class Output:
    """Writes the data of a command, and nothing else, to a stream.

    Args:
        form: of the data.
        stream: a text stream, such as the standard output.
    """

    def __init__(self, form: Form, stream: TextIO) -> None:
        self.form = form
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._has_colors = self._is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def rows(self, header: Sequence[str], rows: Iterable[Row]) -> int:
        """Write items as they come, and return their count: a table, lines with tabs, or one JSON array with an item a line."""
        counted = itertools.count()
        items = (row for row, _ in zip(rows, counted, strict=False))
        lines = {"table": self._table, "json": self._json, "plain": self._plain}[self.form](header, items)
        for line in lines:
            self._stream.write(f"{line}\n")
        self._stream.flush()
        return next(counted)

    def record(self, header: Sequence[str], row: Row) -> None:
        """Write one item: as JSON, an object."""
        if self.form == "json":
            self._stream.write(f"{json.dumps(row.value)}\n")
            self._stream.flush()
        else:
            self.rows(header, [row])

    def copy(self, chunks: Iterable[bytes]) -> None:
        """Write bytes as they come.

        Raises:
            InputError: the stream is a terminal, and the bytes are no text: they could make it do anything.
        """
        for chunk in chunks:
            if self._is_terminal and _CONTROLS.search(chunk):
                raise InputError("the file has control characters, which a terminal would obey; write it to a file: > FILE")
            self._stream.buffer.write(chunk)
        self._stream.buffer.flush()

    def _json(self, _: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
        # All but ASCII is escaped: exact, and harmless to terminals. One array, as Airflow's own commands write it.
        yield "["
        last = None
        for row in rows:
            if last is not None:
                yield f"{last},"
            last = json.dumps(row.value)
        if last is not None:
            yield last
        yield "]"

    def _plain(self, _: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
        return ("\t".join(escaped(str(cell)) for cell in row.cells) for row in rows)

    def _table(self, header: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
        rest = iter(rows)
        widths = [len(cell) for cell in header]
        is_first = True
        while batch := [(row.kind, [escaped(cell) for cell in row.shown]) for row in itertools.islice(rest, _BATCH)]:
            widths = [max(width, *(len(cells[at]) for _, cells in batch)) for at, width in enumerate(widths)]
            if is_first:
                yield self._line(widths, header, "header")
                is_first = False
            yield from (self._line(widths, cells, kind) for kind, cells in batch)

    def _line(self, widths: Sequence[int], cells: Sequence[str], kind: str | None) -> str:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        color = _COLORS.get(kind or "")
        return f"\x1b[{color}m{line}\x1b[0m" if color and self._has_colors else line
