"""A process in which another program swaps files and directories before the n-th call to the system, for every n.

``python -m tests.core.swaps`` packs, installs and verifies; it prints how many swaps there were, and a line for each problem. The calls are counted by an
audit hook, which a process cannot take away again.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.install import install
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.registry.selection import Reference
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.verify import verify
from tests.core.packages import commit, entry_of, files_below, put

NAME: Final = PackageName("team", "package")
FILES: Final = {"a.txt": b"inner a", "z/b.txt": b"inner b", "z/y/c.txt": b"inner c"}
SECRET: Final = b"secret!"
_COUNTED: Final = {"open", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.truncate"}


class Swap:
    """Swaps an item for a link to its like outside, before the n-th call to the system that names something below the home."""

    def __init__(self) -> None:
        self._left = 0
        self._action: Callable[[], object] = lambda: None
        sys.addaudithook(self._see)

    def before(self, call: int, action: Callable[[], object]) -> None:
        self._left, self._action = call, action

    def is_done(self) -> bool:
        done, self._left = self._left == 0, 0
        return done

    def _see(self, event: str, _args: tuple[Any, ...]) -> None:
        if self._left and event in _COUNTED:
            self._left -= 1
            if not self._left:
                self._action()


def swap_for_link(inside: Path, outside: Path) -> None:
    """Put a link to another item in the place of one, if it is there."""
    if inside.exists() and not inside.is_symlink():
        inside.rename(inside.with_name(f"{inside.name}.away"))
        inside.symlink_to(outside)


def swap_temporary(directory: Path, outside: Path) -> None:
    """Put links in the place of all temporary files."""
    for path in directory.rglob(".*.tmp"):
        path.unlink()
        path.symlink_to(outside)


def write_files(directory: Path, content: Callable[[bytes], bytes]) -> None:
    """Write the files of the package, with other contents."""
    for key, data in FILES.items():
        (directory / key).parent.mkdir(parents=True, exist_ok=True)
        (directory / key).write_bytes(content(data))


class World:
    """A directory that is packed, installed to or verified, one of the same names outside, and a registry in memory."""

    def __init__(self, work: str, home: Path) -> None:
        self.inside, self.outside = home / "inside", home / "outside"
        self._work = work
        self._memory = MemoryStorage(["registry", "source"])
        stores = Stores(LocalStorage(), self._memory, limits=Limits(max_concurrency=1))
        self._registry = Registry(RegistryLocation.parse("s3://registry"), stores)
        write_files(self.outside, lambda _data: SECRET)
        if work != "install":
            write_files(self.inside, lambda data: data)
        if work != "pack":
            entries = [entry_of(key, data, put(self._memory, f"s3://source/{key}", data)) for key, data in FILES.items()]
            commit(self._registry, NAME, entries)

    def run(self) -> None:
        """Do the work."""
        reference, directory = Reference(NAME), str(self.inside)
        if self._work == "pack":
            push(self._registry, Draft(package=str(NAME), entries=directory), dest="s3://registry/data/")
        elif self._work == "install":
            install(self._registry, reference, directory)
        else:
            verify(self._registry, reference, directory)

    def problems(self) -> Iterator[str]:
        """Yield a line for each file outside that was read or changed."""
        for info in self._memory.list_objects(PhysicalKey("registry", "data/")):
            if SECRET in self._memory.get(info.key).data:
                yield f"{info.key.key} was packed from outside"
        yield from (f"{key} outside is {data!r}" for key, data in files_below(self.outside).items() if data != SECRET)
        if len(files_below(self.outside)) != len(FILES):
            yield "there are other files outside"


def problems(work: str, home: Path, swap: Swap, call: int, target: str) -> Iterator[str]:
    """Do the work once, with one swap; yield a line for each problem."""
    world = World(work, home)
    inside, outside = world.inside, world.outside
    if target == "temporary":
        swap.before(call, lambda: swap_temporary(inside, outside / "a.txt"))
    else:
        swap.before(call, lambda: swap_for_link(inside / target, outside / target))
    where = f"{work}, call {call}, {target}"
    try:
        world.run()
    except QuiltError:
        pass
    except Exception as error:  # noqa: BLE001  (any other error is a problem)
        yield f"{where}: {error!r}"
    yield from (f"{where}: {problem}" for problem in world.problems())


def main() -> None:
    """Do all work with a swap before each of its calls."""
    swap, swaps, found = Swap(), 0, list[str]()
    with tempfile.TemporaryDirectory() as directory:
        for work in ("pack", "install", "verify"):
            for target in ("z", "z/y", "a.txt", "z/b.txt", *(["temporary"] if work == "install" else [])):
                for call in range(1, 1000):
                    home = Path(os.path.realpath(directory)) / f"{work}-{target.replace('/', '-')}-{call}"
                    found += problems(work, home, swap, call, target)
                    is_done = swap.is_done()
                    shutil.rmtree(home)
                    if not is_done:
                        break
                    swaps += 1
    print(swaps, *found, sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
