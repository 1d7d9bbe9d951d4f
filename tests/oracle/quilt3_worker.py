"""Runs quilt3 for the tests in a process of its own: a JSON request a line comes in, a JSON answer a line goes out.

quilt3 keeps state in the home directory, takes a second to import, and prints. So whoever starts this gives it a home
of its own, starts it once, and gets the answers through a copy of standard output that quilt3 does not know of.
The end of the input ends the process.
"""

import base64
import json
import os
import sys
import time
from collections.abc import Callable
from typing import IO, Any

_pushed: dict[str, int] = {}  # The second in which a package was last pushed.


def main() -> None:
    """Answer requests until there are no more."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as answers:
        os.dup2(2, 1)
        _share_clients()
        for line in sys.stdin:
            _answer(json.loads(line), answers)


def _share_clients() -> None:
    """Let quilt3 build its S3 clients once: it builds one for each small call, and that takes most of its time."""
    from quilt3.hooks import set_build_s3_client_hook

    clients: dict[Any, Any] = {}

    def build_once(build: Callable[[Any, dict[str, Any]], Any], session: Any, options: dict[str, Any]) -> Any:
        kind = options["config"].signature_version
        if kind not in clients:
            clients[kind] = build(session, options)
        return clients[kind]

    set_build_s3_client_hook(build_once)


def _answer(request: dict[str, Any], answers: IO[str]) -> None:
    try:
        answer = {"result": _COMMANDS[request.pop("command")](**request)}
    except Exception as error:  # noqa: BLE001  (whatever quilt3 raises, the test is to hear of it)
        answer = {"error": type(error).__name__, "message": str(error)}
    answers.write(json.dumps(answer) + "\n")


def _make(spec: dict[str, Any]) -> Any:
    import quilt3

    package = quilt3.Package()
    for directory in spec["directories"]:
        package.set_dir(directory["key"], directory["path"], directory["meta"])
    for file in spec["files"]:
        package.set(file["key"], file["where"], file["meta"])
    if spec["meta"] is not None:
        package.set_meta(spec["meta"])
    return package


def build(registry: str, package: str, spec: dict[str, Any]) -> str:
    """Build a package; return its top hash."""
    return _make(spec).build(package, registry, spec["message"])


def push(registry: str, package: str, spec: dict[str, Any], *, force: bool, dedupe: bool) -> str:
    """Push a package; return its top hash."""
    pointers = f"{registry}/{package}"
    while int(time.time()) <= _pushed.get(pointers, 0):
        # quilt3 names revisions by the second: two in one second leave one.
        time.sleep(0.02)
    pushed = _make(spec).push(package, registry, message=spec["message"], force=force, dedupe=dedupe)
    _pushed[pointers] = int(time.time())
    pushed._calculate_missing_hashes()  # noqa: SLF001  (what dedupe returns has none)
    return pushed.top_hash


def top_hash(spec: dict[str, Any]) -> str:
    """Return the top hash of a package that is written nowhere."""
    package = _make(spec)
    package._set_commit_message(spec["message"])  # noqa: SLF001
    package._calculate_missing_hashes()  # noqa: SLF001
    return package.top_hash


def browse(registry: str, package: str, top_hash: str | None) -> dict[str, Any]:
    """Read a revision; its top hash is computed anew from what was read."""
    import quilt3

    found = quilt3.Package.browse(package, registry, top_hash)
    header, *records = found.manifest
    return {"header": header, "entries": records, "top_hash": found.top_hash}


def read(registry: str, package: str, key: str) -> str:
    """Return the bytes of an entry, in base64; quilt3 checks them against the hash."""
    import quilt3

    return base64.b64encode(quilt3.Package.browse(package, registry)[key].get_bytes()).decode()


def install(registry: str, package: str, directory: str, local_registry: str) -> None:
    """Download the files of the latest revision."""
    import quilt3

    quilt3.Package.install(package, registry, dest=directory, dest_registry=local_registry)


def verify(registry: str, package: str, directory: str) -> bool:
    """Tell whether a directory holds exactly the files of the latest revision."""
    import quilt3

    return quilt3.Package.browse(package, registry).verify(directory)


def packages(registry: str) -> list[str]:
    """List the packages of a registry."""
    import quilt3

    return list(quilt3.list_packages(registry))


def revisions(registry: str, package: str) -> list[tuple[str, str]]:
    """List the pointers of a package and the top hashes that they hold."""
    import quilt3

    return list(quilt3.list_package_versions(package, registry))


def delete(registry: str, package: str, top_hash: str | None) -> None:
    """Delete a package, or a revision of it."""
    import quilt3

    quilt3.delete_package(package, registry, top_hash)


def directory_keys(path: str) -> list[str]:
    """List the logical keys that a directory becomes."""
    import quilt3

    return [key for key, _ in quilt3.Package().set_dir("/", path).walk()]


def physical_key(text: str) -> dict[str, str | None]:
    """Read the text of a physical key, and print it again."""
    from quilt3.util import PhysicalKey

    key = PhysicalKey.from_url(text)
    return {"bucket": key.bucket, "key": key.path, "version_id": key.version_id, "text": str(key)}


_COMMANDS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        build,
        push,
        top_hash,
        browse,
        read,
        install,
        verify,
        packages,
        revisions,
        delete,
        directory_keys,
        physical_key,
    )
}

if __name__ == "__main__":
    main()
