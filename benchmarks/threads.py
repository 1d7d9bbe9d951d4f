"""The ceiling of concurrent S3 requests beside lower ones: small files are pushed and installed."""

from collections.abc import Iterator
from functools import partial
from typing import Final

from benchmarks.measure import Command
from benchmarks.stage import Stage
from benchmarks.variants import DEFAULTS, Variants, main

_THREADS: Final = (1, 4, 16, 32, 64, DEFAULTS.max_concurrency)
_SETTING: Final = "max concurrent S3 requests"


def pieces(stage: Stage) -> Iterator[Variants]:
    """Yield a push and an installation of the same files."""
    registry, source = stage.bucket(), str(stage.files(stage.of(1000), 4096))

    def push(threads: int, number: int) -> Command:
        package = f"push/{threads}-{number}"
        return stage.ours("push_directory", registry=registry, package=package, source=source, max_concurrency=threads)

    def install(threads: int, _: int) -> Command:
        dest = str(stage.place())
        return stage.ours("install_package", registry=registry, package="team/files", dest=dest, max_concurrency=threads)

    yield Variants(
        "push 1,000 files of 4 KiB", _SETTING, DEFAULTS.max_concurrency, {each: partial(push, each) for each in _THREADS}
    )
    stage.once(stage.ours("push_directory", registry=registry, package="team/files", source=source))
    yield Variants(
        "install 1,000 files of 4 KiB", _SETTING, DEFAULTS.max_concurrency, {each: partial(install, each) for each in _THREADS}
    )


if __name__ == "__main__":
    main("threads", __doc__, pieces)
