"""The transfer buffer of 64 MiB beside smaller and larger ones: a large file is pushed at high concurrency."""

from collections.abc import Iterator
from functools import partial
from typing import Final

from airflow_quilt.core.format.hashes import part_size
from benchmarks.measure import Command
from benchmarks.stage import Stage
from benchmarks.variants import DEFAULTS, Variants, main

_MIB: Final = 1024 * 1024
_SIZE: Final = 1024 * _MIB
_MEMORY: Final = tuple(each * _MIB for each in (16, 32, 64, 128, 256, 512))


def pieces(stage: Stage) -> Iterator[Variants]:
    """Yield a push of one file."""
    registry, source = stage.bucket(), str(stage.files(1, stage.of(_SIZE)))

    def push(memory: int, number: int) -> Command:
        threads, package = max(_MEMORY) // part_size(_SIZE), f"push/{memory}-{number}"
        limits = {"max_bytes_in_flight": memory, "max_concurrency": threads}
        return stage.ours("push_directory", registry=registry, package=package, source=source, **limits)

    yield Variants(
        "push one file of 1 GiB",
        "transfer buffer (bytes)",
        DEFAULTS.max_bytes_in_flight,
        {each: partial(push, each) for each in _MEMORY},
    )


if __name__ == "__main__":
    main("in_flight", __doc__, pieces)
