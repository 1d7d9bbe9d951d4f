"""What the properties are tried on."""

from typing import Any

from hypothesis import strategies as st

from airflow_quilt.core.checksums import Hash
from airflow_quilt.core.manifest import Entry
from airflow_quilt.core.names import LogicalKey

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
"""Any text that can be encoded."""

ODD_LETTERS = st.sampled_from("ab/. +%?#&=;:@~'\"<>\\|-_éü😀\n\t\x7f")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)

META = st.dictionaries(TEXT, JSON, max_size=3)


def _is_part(part: str) -> bool:
    return part not in {"", ".", ".."}


PARTS = (st.text(st.sampled_from("ab.-!0é\0"), min_size=1, max_size=3) | TEXT.filter(lambda text: "/" not in text)).filter(
    _is_part
)

LOGICAL_KEYS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)

HASHES = st.builds(Hash, st.sampled_from(["sha2-256-chunked", "SHA256", "CRC64NVME"]), TEXT)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    meta: dict[str, Any] = draw(st.just({}) | META.map(lambda user_meta: {"user_meta": user_meta}) | META)
    return Entry(
        LogicalKey(draw(LOGICAL_KEYS)),
        tuple(draw(st.lists(TEXT, min_size=1, max_size=2))),
        draw(st.integers(0, 2**43)),
        draw(HASHES),
        meta,
    )
