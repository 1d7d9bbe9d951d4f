"""The time of a large build, step by step: CPU microseconds for each entry.

``python -m benchmarks.stages``; ``--entries 50_000`` for a short run.
"""

import argparse
import hashlib
import io
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from airflow_quilt.core.format.hashes import hash_of
from airflow_quilt.core.format.manifest import Entry, canonical_text, plain_canonical, plain_lines
from airflow_quilt.core.format.manifest_lines import decode_keys, split_blocks
from airflow_quilt.core.format.manifest_writer import write_manifest
from airflow_quilt.core.format.names import LogicalKey, PackageName, are_keys, is_ordered
from airflow_quilt.core.format.ordering import BATCH, grouped
from airflow_quilt.core.plan.actions import KnownBlock, plan_build
from airflow_quilt.core.plan.tree import SourceTree
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.publish.kept import KeptEntries
from airflow_quilt.core.publish.resolve import discover
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.stores import Stores

_ROUNDS: Final = 3
_NAME: Final = PackageName("seed", "package")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("--entries", type=int, default=200_000, help="how many entries the package has")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quilt-bench-") as directory:
        steps = _steps(Path(directory), given.entries)
        print("| step | µs of the processor an entry |\n|---|---|")
        for name, step in steps.items():
            print(f"| {name} | {_microseconds(step, given.entries):.2f} |", flush=True)


def _microseconds(step: Callable[[], object], entries: int) -> float:
    """Return the shortest time of a step in some rounds."""
    took = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        step()
        took.append(time.process_time() - began)
    return min(took) / entries * 1e6


def _steps(directory: Path, count: int) -> dict[str, Callable[[], object]]:
    registry = Registry(resolve_registry(str(directory)), Stores(LocalStorage(), MemoryStorage([])))
    digest, keys = hash_of(b""), [LogicalKey(f"{number // 1000:05}/{number:08}.bin") for number in range(count)]
    entries = [Entry(key, (f"s3://bucket/{key}?versionId={number:032}",), 0, digest) for number, key in enumerate(keys)]
    out = io.BytesIO()
    summary = write_manifest({"version": "v0", "message": None}, entries, out)
    blocks = list(split_blocks([out.getvalue().split(b"\n", 1)[1]]))
    out.seek(0)
    registry.commit(_NAME, summary.top_hash, out, None)
    decoder = msgspec.json.Decoder(Entry)
    some = [entries[at : at + BATCH] for at in range(0, count, BATCH)]
    canonical, some_keys = [canonical_text(each) for each in some], [keys[at : at + BATCH] for at in range(0, count, BATCH)]

    def sources() -> Iterable[Any]:
        return _tree(registry).sources

    def kept() -> KeptEntries:
        kept = KeptEntries(count // 20)
        for group in grouped(plan_build(sources())):
            if isinstance(group, KnownBlock):
                kept.add_block(group.entries)
        return kept

    def spooled(most: int) -> None:
        with Spool[Entry](Entry, most) as spool:
            spool.extend(entries)
            deque(spool, 0)

    def keep() -> None:
        with kept():
            pass

    def build() -> None:
        with kept() as known:
            write_manifest({"version": "v0"}, known, io.BytesIO())

    return {
        "read the manifest, its order and top hash checked": lambda: deque(registry.read(_NAME).entries, 0),
        "- its keys, read before": lambda: [decode_keys(each) for each in blocks],
        "- their order": lambda: [is_ordered(each) for each in some_keys],
        "- decode its lines": lambda: [len(decoder.decode_lines(each)) for each in blocks],
        "- its lines again, to compare": lambda: [plain_lines(each) for each in some],
        "- the form of its keys": lambda: [are_keys(each) for each in some_keys],
        "- its canonical text": lambda: [plain_canonical(each) for each in some],
        "- SHA-256 of that": lambda: [hashlib.sha256(each).digest() for each in canonical],
        "read, find as sources, and plan": lambda: deque(plan_build(sources()), 0),
        "read, find, plan, and keep in a temporary file": keep,
        "read, find, plan, keep, and write": build,
        "of entries that pass one by one: hold in memory": lambda: spooled(2 * count),
        "- hold in a temporary file": lambda: spooled(count // 20),
        "- write, the top hash computed": lambda: write_manifest({"version": "v0"}, entries, io.BytesIO()),
    }


def _tree(registry: Registry) -> SourceTree:
    draft = Draft(package="seed/next", entries=f"quilt+{registry.location}#package={_NAME}")
    return discover(registry, draft, Spool(Any, 1))


if __name__ == "__main__":
    main()
