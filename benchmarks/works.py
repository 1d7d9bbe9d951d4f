"""The measured work: each piece, by every client that can do it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from airflow_quilt.core.format.hashes import CRC64NVME
from benchmarks.measure import Command, Round
from benchmarks.stage import Stage

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
_TUNED: Final = ("-c", "64", "-p", "8")
"""Options of s5cmd for one large object: up to 64 parts at a time, of 8 MiB. Its defaults are 5 and 50 MiB."""


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work.

    Attributes:
        title: its description, at the full scale.
        goal: the target, as the table shows it.
        clients: prepares it, and returns the rounds of each client.
        is_large: it is done only on request.
    """

    title: str
    goal: str
    clients: Callable[[Stage], Mapping[str, Round]]
    is_large: bool = False


def build_known(stage: Stage, count: int) -> Mapping[str, Round]:
    """Build a package of as many entries with known hashes, in a local registry."""
    registry, package = stage.package(count)
    return {
        "ours": lambda number: stage.ours("build_package", registry=registry, package=f"ours/{number}", source=package),
        "quilt3": lambda number: stage.quilt3("build_package", registry=registry, package=f"quilt3/{number}", source=package),
    }


def read(stage: Stage, count: int) -> Mapping[str, Round]:
    """Read a manifest of as many entries, in a local registry."""
    registry, package = stage.package(count)
    return {
        "ours": lambda _: stage.ours("read_package", registry=registry, package=package),
        "quilt3": lambda _: stage.quilt3("read_package", registry=registry, package=package),
    }


def _of(clients: Callable[[Stage, int], Mapping[str, Round]], count: int) -> Callable[[Stage], Mapping[str, Round]]:
    return lambda stage: clients(stage, stage.of(count))


def _build_more(stage: Stage) -> Mapping[str, Round]:
    return {"ours": build_known(stage, stage.of(10_000_000))["ours"]}


def _push(count: int, size: int) -> Callable[[Stage], Mapping[str, Round]]:
    def clients(stage: Stage) -> Mapping[str, Round]:
        registry = stage.bucket()
        source = str(stage.files(stage.of(count), size) if count > 1 else stage.files(1, stage.of(size)))
        return {
            "ours": lambda number: stage.ours("push_directory", registry=registry, package=f"ours/{number}", source=source),
            "quilt3": lambda number: stage.quilt3("push_directory", registry=registry, package=f"quilt3/{number}", source=source),
            "s5cmd": lambda number: stage.s5cmd("cp", f"{source}/", f"{registry}/s5cmd/{number}/"),
            "boto3": lambda number: stage.boto3("upload_directory", registry, f"boto3/{number}/", source=source),
        } | _tuned(count, lambda number: stage.s5cmd("cp", *_TUNED, f"{source}/", f"{registry}/tuned/{number}/"))

    return clients


def _tuned(count: int, ready: Round) -> dict[str, Round]:
    """Return s5cmd with options for one large file, if there is but one."""
    return {f"s5cmd {' '.join(_TUNED)}": ready} if count == 1 else {}


def _push_packages(*, again: bool) -> Callable[[Stage], Mapping[str, Round]]:
    def clients(stage: Stage) -> Mapping[str, Round]:
        registry, source = stage.bucket(), str(stage.files(1, 4 * _KIB))
        makers = {"ours": stage.ours, "quilt3": stage.quilt3}

        def push(name: str, number: int) -> Command:
            package = f"{name}/again" if again else f"{name}/{number}"
            return makers[name]("push_directory", registry=registry, package=package, source=source)

        for name in makers if again else ():
            stage.once(push(name, 0))
        return {name: partial(push, name) for name in makers}

    return clients


def _push_again(stage: Stage) -> Mapping[str, Round]:
    registry, files = stage.bucket(), [stage.files(stage.of(2000), 4 * _KIB) for _ in range(2)]

    def changed(directory: Path, number: int) -> str:
        paths = sorted(directory.rglob("*.bin"))
        for path in paths[:: max(1, min(100, len(paths)))]:
            path.write_bytes(number.to_bytes(4) * _KIB)
        return str(directory)

    def ours(source: str) -> Command:
        return stage.ours("push_directory", registry=registry, package="ours/again", source=source)

    def quilt3(source: str) -> Command:
        return stage.quilt3("push_directory", registry=registry, package="quilt3/again", source=source)

    stage.once(ours(str(files[0])))
    stage.once(quilt3(str(files[1])))
    return {"ours": lambda number: ours(changed(files[0], number)), "quilt3": lambda number: quilt3(changed(files[1], number))}


def _build_objects(**checksum: str) -> Callable[[Stage], Mapping[str, Round]]:
    def clients(stage: Stage) -> Mapping[str, Round]:
        registry, source = stage.bucket(), stage.objects(stage.of(1000), 64 * _KIB, **checksum)
        return {
            "ours": lambda number: stage.ours("build_prefix", registry=registry, package=f"ours/{number}", source=source),
            "quilt3": lambda number: stage.quilt3("build_prefix", registry=registry, package=f"quilt3/{number}", source=source),
        }

    return clients


def _build_large(stage: Stage) -> Mapping[str, Round]:
    registry, source = stage.bucket(), stage.objects(1, stage.of(1024 * _MIB), ChecksumAlgorithm=CRC64NVME)
    return {
        "ours": lambda number: stage.ours(
            "build_prefix", registry=registry, package=f"ours/{number}", source=source, hash_type=CRC64NVME
        ),
        "quilt3": lambda number: stage.quilt3("build_prefix", registry=registry, package=f"quilt3/{number}", source=source),
    }


def _copy(stage: Stage) -> Mapping[str, Round]:
    registry, source = stage.bucket(), stage.objects(stage.of(1000), 64 * _KIB, ChecksumAlgorithm="SHA256")
    return {
        "ours": lambda number: stage.ours("push_directory", registry=registry, package=f"ours/{number}", source=source),
        "quilt3": lambda number: stage.quilt3("push_directory", registry=registry, package=f"quilt3/{number}", source=source),
        "s5cmd": lambda number: stage.s5cmd("cp", f"{source}*", f"{registry}/s5cmd/{number}/"),
    }


def _crowd(stage: Stage) -> Mapping[str, Round]:
    registry, source = stage.bucket(), str(stage.files(1, 4 * _KIB))
    stage.manifests(registry, stage.of(100_000))

    def arguments(package: str) -> dict[str, str]:
        short = stage.revisions(registry, package, 10)[:8]
        return {"registry": registry, "package": package, "top_hash": short, "source": source}

    return {
        "ours": lambda number: stage.ours("resolve_and_push", **arguments(f"ours/{number}")),
        "quilt3": lambda number: stage.quilt3("resolve_and_push", **arguments(f"quilt3/{number}")),
    }


def _parse(stage: Stage) -> Mapping[str, Round]:
    commands = {name: stage.python("imports", work) for name, work in _IMPORTS.items()}
    for command in commands.values():
        stage.once(command)  # Python compiles the modules now, not while they are measured.
    return {name: partial(_same, command) for name, command in commands.items()}


def _same(command: Command, _round: int) -> Command:
    return command


def _install(count: int, size: int) -> Callable[[Stage], Mapping[str, Round]]:
    def clients(stage: Stage) -> Mapping[str, Round]:
        registry, package = stage.bucket(), "team/files"
        source = str(stage.files(stage.of(count), size) if count > 1 else stage.files(1, stage.of(size)))
        stage.once(stage.ours("push_directory", registry=registry, package=package, source=source))
        return {
            "ours": lambda _: stage.ours("install_package", registry=registry, package=package, dest=str(stage.place())),
            "quilt3": lambda _: stage.quilt3("install_package", registry=registry, package=package, dest=str(stage.place())),
            "s5cmd": lambda _: stage.s5cmd("cp", f"{registry}/{package}/*", f"{stage.place()}/"),
            "boto3": lambda _: stage.boto3("download_prefix", registry, f"{package}/", dest=str(stage.place())),
        } | _tuned(count, lambda _: stage.s5cmd("cp", *_TUNED, f"{registry}/{package}/*", f"{stage.place()}/"))

    return clients


def _list(stage: Stage) -> Mapping[str, Round]:
    registry, package = stage.bucket(), "team/revisions"
    stage.revisions(registry, package, stage.of(100))
    return {
        "ours": lambda _: stage.ours("list_revisions", registry=registry, package=package),
        "quilt3": lambda _: stage.quilt3("list_revisions", registry=registry, package=package),
    }


def _delete(stage: Stage) -> Mapping[str, Round]:
    registry = stage.bucket()

    def filled(package: str) -> str:
        stage.revisions(registry, package, stage.of(1000))
        return package

    return {
        "ours": lambda number: stage.ours("delete_package", registry=registry, package=filled(f"ours/{number}")),
        "quilt3": lambda number: stage.quilt3("delete_package", registry=registry, package=filled(f"quilt3/{number}")),
    }


_IMPORTS: Final = {"ours": "every_operator", "airflow": "airflow", "quilt3": "quilt3"}

WORKS: Final[Mapping[str, Work]] = {
    "build": Work("build a manifest of 1,000,000 entries with known hashes, local", "10 x quilt3", _of(build_known, 1_000_000)),
    "build-more": Work(
        "build a manifest of 10,000,000 entries with known hashes, local; without quilt3, which holds all of them in memory",
        "",
        _build_more,
        is_large=True,
    ),
    "read": Work("read a manifest of 1,000,000 entries", "20 x quilt3", _of(read, 1_000_000)),
    "push-small": Work("push 2,000 files of 4 KiB", "6 x quilt3, 1 x s5cmd", _push(2000, 4 * _KIB)),
    "push-again": Work("push 2,000 files again, 1 % changed", "20 x quilt3", _push_again),
    "push-large": Work("push one file of 1 GiB", "1.3 x quilt3, 1 x s5cmd", _push(1, 1024 * _MIB)),
    "build-checksums": Work(
        "build over 1,000 S3 objects with SHA-256 checksums",
        "4 x quilt3, no byte read",
        _build_objects(ChecksumAlgorithm="SHA256"),
    ),
    "build-objects": Work("build over 1,000 S3 objects without usable checksums", "1.5 x quilt3", _build_objects()),
    "build-large": Work("build over one S3 object of 1 GiB with a CRC64NVME checksum", "no byte read", _build_large),
    "copy": Work("push 1,000 S3 objects with SHA-256 checksums of another bucket", "no byte read", _copy),
    "install": Work("install 1,000 files of 4 KiB", "6 x quilt3", _install(1000, 4 * _KIB)),
    "list": Work("list 100 revisions", "100 x quilt3", _list),
    "delete": Work("delete a package of 1,000 revisions", "10 x quilt3", _delete),
    "crowd": Work("resolve a short hash and push a file, among 100,000 manifests", "no manifest listed", _crowd),
    "parse": Work("parse a DAG file with every operator, after Airflow's own import", "15 ms", _parse),
}

NETWORK_WORKS: Final[Mapping[str, Work]] = {
    "push-small": Work("push 2,000 files of 4 KiB", "8 x quilt3, 1 x s5cmd", _push(2000, 4 * _KIB)),
    "install-small": Work("install 2,000 files of 4 KiB, verified", "6 x quilt3, 1 x s5cmd", _install(2000, 4 * _KIB)),
    "push-large": Work("push one file of 256 MiB", "1 x s5cmd", _push(1, 256 * _MIB)),
    "install-large": Work("install one file of 256 MiB, verified", "1 x s5cmd", _install(1, 256 * _MIB)),
    "push-one": Work("push one file of 4 KiB, new package", "3 x quilt3", _push_packages(again=False)),
    "push-nothing": Work("push one file of 4 KiB again, nothing new", "", _push_packages(again=True)),
    "list": Work("list 100 revisions", "", _list),
}
"""The works of ``make bench-network``; the goals are those at 25 ms."""
