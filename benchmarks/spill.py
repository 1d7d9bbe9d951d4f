"""The limit of 100,000 entries in memory beside lower and higher ones: a package of a million with metadata is built."""

from collections.abc import Iterator
from functools import partial
from typing import Final

from benchmarks.measure import Command
from benchmarks.stage import Stage
from benchmarks.variants import DEFAULTS, Variants, main

_ENTRIES: Final = (10_000, 100_000, 1_000_000)


def pieces(stage: Stage) -> Iterator[Variants]:
    """Yield a build of a package whose hashes are known, in a local registry."""
    registry, source = stage.package(stage.of(1_000_000), user_meta={"x": 1})  # Without, its entries are held as text.

    def build(spill: int, number: int) -> Command:
        return stage.ours(
            "build_package", registry=registry, package=f"build/{spill}-{number}", source=source, spill_entries=spill
        )

    yield Variants(
        "build 1,000,000 entries with metadata",
        "spill to disk after",
        DEFAULTS.spill_entries,
        {each: partial(build, each) for each in _ENTRIES},
    )


if __name__ == "__main__":
    main("spill", __doc__, pieces)
