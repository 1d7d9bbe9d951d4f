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
from secrets import token_hex
from typing import IO, Any, Final

import msgspec

from airflow_quilt.core.build import build
from airflow_quilt.core.format.hashes import hash_of
from airflow_quilt.core.format.manifest import Entry, canonical_text, plain_canonical, plain_lines
from airflow_quilt.core.format.manifest_lines import decode_keys, split_blocks
from airflow_quilt.core.format.manifest_writer import write_manifest
from airflow_quilt.core.format.names import LogicalKey, PackageName, are_keys, is_ordered
from airflow_quilt.core.format.ordering import BATCH, grouped
from airflow_quilt.core.plan.actions import Actions, KnownBlock, plan_build
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

    return {
        "read the manifest, its order and top hash checked": lambda: deque(registry.read(_NAME).entries, 0),
        "- its keys, read before": lambda: deque(map(decode_keys, blocks), 0),
        "- their order": lambda: deque(map(is_ordered, some_keys), 0),
        "- decode its lines": lambda: deque(map(decoder.decode_lines, blocks), 0),
        "- its lines again, to compare": lambda: deque(map(plain_lines, some), 0),
        "- the form of its keys": lambda: deque(map(are_keys, some_keys), 0),
        "- its canonical text": lambda: deque(map(plain_canonical, some), 0),
        "- SHA-256 of that": lambda: deque(map(hashlib.sha256, canonical), 0),
        "read, find as sources, and plan": lambda: deque(_plan(registry), 0),
        "read, find, plan, and keep in a temporary file": lambda: _keep(registry, count // 20),
        "read, find, plan, keep, and write": lambda: _keep(registry, count // 20, io.BytesIO()),
        "update of one file, published": lambda: _update(registry, keys[count // 2], directory / "changed.bin"),
        "of entries that pass one by one: hold in memory": lambda: _spool(entries, 2 * count),
        "- hold in a temporary file": lambda: _spool(entries, count // 20),
        "- write, the top hash computed": lambda: write_manifest({"version": "v0"}, entries, io.BytesIO()),
    }


def _plan(registry: Registry) -> Actions:
    draft = Draft(package="seed/next", entries=f"quilt+{registry.location}#package={_NAME}")
    return plan_build(discover(registry, draft, Spool(Any, 1)).sources)


def _keep(registry: Registry, most: int, out: IO[bytes] | None = None) -> None:
    with KeptEntries(most) as kept:
        for group in grouped(_plan(registry)):
            if isinstance(group, KnownBlock):
                kept.add_block(group.entries)
        if out:
            write_manifest({"version": "v0"}, kept, out)


def _update(registry: Registry, key: LogicalKey, path: Path) -> None:
    path.write_bytes(b"")
    build(registry, Draft(package=str(_NAME), entries={str(key): str(path)}, mode="update", message=token_hex()))


def _spool(entries: Iterable[Entry], most: int) -> None:
    with Spool[Entry](Entry, most) as spool:
        spool.extend(entries)
        deque(spool, 0)


if __name__ == "__main__":
    main()
