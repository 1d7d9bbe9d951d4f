"""Inputs of the properties."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from airflow_quilt.core.format.hashes import Hash
from airflow_quilt.core.format.manifest import Entry, make_header
from airflow_quilt.core.format.names import DirectoryKey, LogicalKey

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
"""Any text that can be encoded."""

ESCAPED = st.text(st.sampled_from('"\\/\b\f\n\r\t\0\x1f\x7f\x85\u2028\ufeff😀aé'), max_size=6)
"""Text that JSON writes in several ways."""

NUMBERS = (
    st.integers(-(2**70), 2**70)
    | st.sampled_from([10**400, -(10**40), 2**53 + 1])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1e16, 1e-7, -0.0, 5e-324, 1.7976931348623157e308])
)

ODD_LETTERS = st.sampled_from("ab/. +%?#&=;:@~'\"<>\\|-_éü😀\n\t\x7f")

JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | ESCAPED,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | ESCAPED, inner, max_size=3),
    max_leaves=6,
)

META = st.dictionaries(TEXT | ESCAPED, JSON, max_size=3)

HEADERS = st.builds(
    make_header,
    message=st.none() | TEXT | ESCAPED,
    user_meta=st.none() | META,
    workflow=st.none() | META,
    base=st.none() | META.filter(lambda header: "top_hash" not in header),
)


def _is_part(part: str) -> bool:
    return part not in {"", ".", ".."}


PARTS = (st.text(st.sampled_from("ab.-!0é\0"), min_size=1, max_size=3) | TEXT.filter(lambda text: "/" not in text)).filter(
    _is_part
)

LOGICAL_KEYS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)

HASHES = st.builds(Hash, st.sampled_from(["sha2-256-chunked", "SHA256", "CRC64NVME"]), TEXT)


PLACES = st.lists(TEXT, min_size=1, max_size=2).map(tuple)
"""The physical keys of an entry, which may be any text."""

ENTRY_META: st.SearchStrategy[dict[str, Any]] = st.just({}) | META.map(lambda user_meta: {"user_meta": user_meta}) | META


def entries(
    keys: st.SearchStrategy[str] = LOGICAL_KEYS, places: st.SearchStrategy[tuple[str, ...]] = PLACES
) -> st.SearchStrategy[Entry]:
    return st.builds(Entry, keys.map(LogicalKey), places, st.integers(0, 2**43), HASHES, ENTRY_META)


@dataclass(frozen=True, slots=True)
class PackageTree:
    """Records below the header of a manifest, in the order of a walk."""

    entries: list[Entry]
    directories: dict[DirectoryKey, Any]


Shape = dict[str, "Shape | None"]
"""The names in a directory; None stands for a file."""

_NAMES = PARTS.filter(lambda part: "\0" not in part)
_SHAPES: st.SearchStrategy[Shape] = st.dictionaries(
    _NAMES, st.recursive(st.none(), lambda inner: st.dictionaries(_NAMES, inner, max_size=3), max_leaves=8), max_size=4
)


def _walk(shape: Shape, prefix: str = "") -> Iterator[str]:
    """Yield the paths below a directory, each directory before its content."""
    for name, below in sorted(shape.items()):
        if below is None:
            yield prefix + name
        else:
            yield f"{prefix}{name}/"
            yield from _walk(below, f"{prefix}{name}/")


@st.composite
def trees(
    draw: st.DrawFn, places: st.SearchStrategy[tuple[str, ...]] = PLACES, directory_meta: st.SearchStrategy[Any] = JSON
) -> PackageTree:
    """Trees of entries, some of whose directories have metadata."""
    paths = list(_walk(draw(_SHAPES)))
    directories = [DirectoryKey(path) for path in paths if path.endswith("/") and draw(st.booleans())]
    return PackageTree(
        [draw(entries(st.just(path), places)) for path in paths if not path.endswith("/")],
        {key: draw(directory_meta) for key in directories},
    )
