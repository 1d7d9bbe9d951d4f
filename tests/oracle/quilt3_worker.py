"""Runs quilt3 for the tests in a process of its own: a JSON request a line comes in, a JSON answer a line goes out.

quilt3 keeps state in the home directory, takes a second to import, and prints. So its parent process gives it a home
of its own, starts it once, and gets the answers through a copy of standard output that quilt3 does not know of.
The end of the input ends the process.
"""

import base64
import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, Final

_pushed: dict[str, int] = {}  # The second in which a package was last pushed.

PLACED: Final = "placing-registry"
ELSEWHERE: Final = "placing-elsewhere"

SELECTORS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "all": lambda _key, _entry: True,
    "none": lambda _key, _entry: False,
    "by key": lambda key, _entry: not key.startswith("outside"),
    "by size": lambda _key, entry: entry.size != 2,
    "by metadata": lambda _key, entry: entry.meta.get("copy", True),
    "by bucket": lambda _key, entry: entry.physical_key.bucket in {None, ELSEWHERE},
    "by version": lambda _key, entry: entry.physical_key.version_id is None,
    "no truth value": lambda _key, _entry: 1,
    "an error": lambda _key, _entry: bool(1 // 0),
}
"""Functions that choose what is copied; both clients call them."""

DESTINATIONS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "by key": lambda key, _entry: f"s3://{PLACED}/by key/{key.replace('/', '-')}",
    "by size": lambda key, entry: f"s3://{PLACED}/{entry.size}/{key}",
    "by metadata": lambda key, entry: f"s3://{PLACED}/{entry.meta.get('place', 'nowhere')}/{key}",
    "quoted": lambda key, _entry: f"s3://{PLACED}/a%20b+c%2B%25;d/{key}",
    "in another bucket": lambda key, _entry: f"s3://{ELSEWHERE}/landed/{key}",
    "no text": lambda _key, _entry: None,
    "bytes": lambda key, _entry: f"s3://{PLACED}/{key}".encode(),
    "a version": lambda key, _entry: f"s3://{PLACED}/{key}?versionId=x",
    "a query": lambda key, _entry: f"s3://{PLACED}/{key}?x=1",
    "a file": lambda key, _entry: f"file:///{key}",
    "a path": lambda key, _entry: f"/{key}",
    "a relative path": lambda key, _entry: key,
    "another scheme": lambda key, _entry: f"https://{PLACED}/{key}",
    "a directory": lambda key, _entry: f"s3://{PLACED}/{key}/",
    "a bucket": lambda _key, _entry: f"s3://{PLACED}",
    "no bucket": lambda key, _entry: f"s3:///{key}",
    "one place": lambda _key, _entry: f"s3://{PLACED}/one",
    "the registry's own area": lambda key, _entry: f"s3://{PLACED}/.quilt/packages/{key}",
    "an error": lambda key, _entry: f"s3://{PLACED}/{1 // 0}/{key}",
}
"""Functions that say where copies land; both clients call them."""


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


def build(registry: str, package: str, spec: dict[str, Any], **workflow: str | None) -> str:
    """Build a package; return its top hash. Without ``workflow`` the registry's default applies."""
    return _make(spec).build(package, registry, spec["message"], **workflow)


def push(registry: str, package: str, spec: dict[str, Any], *, force: bool, dedupe: bool, **workflow: str | None) -> str:
    """Push a package; return its top hash. Without ``workflow`` the registry's default applies."""
    pointers = f"{registry}/{package}"
    while int(time.time()) <= _pushed.get(pointers, 0):
        # quilt3 names revisions by the second: two in one second leave one.
        time.sleep(0.02)
    pushed = _make(spec).push(package, registry, message=spec["message"], force=force, dedupe=dedupe, **workflow)
    _pushed[pointers] = int(time.time())
    pushed._calculate_missing_hashes()  # noqa: SLF001  (what dedupe returns has none)
    return pushed.top_hash


def publish(registry: str, package: str, spec: dict[str, Any]) -> str:
    """Push a package, or build it where the registry is a directory, as the newest revision; return its top hash."""
    return _publish(_make(spec), registry, package, spec["message"])


def revise(
    registry: str,
    package: str,
    top_hash: str | None,
    steps: list[tuple[str, str, list[Any]]],
    message: str | None,
    *,
    build: bool,
) -> str:
    """Take a revision, call methods of the package or of its part at a key, and publish it; return its top hash.

    Where an argument is a mapping with the one key ``entry``, it is the entry of that key.
    """
    import quilt3

    found = quilt3.Package.browse(package, registry, top_hash)
    for key, method, arguments in steps:
        given = [found[each["entry"]] if isinstance(each, dict) and each.keys() == {"entry"} else each for each in arguments]
        getattr(found[key] if key else found, method)(*given)
    return found.build(package, registry, message) if build else _publish(found, registry, package, message)


def place(registry: str, package: str, spec: dict[str, Any] | str, select: str | None, dest: str | None, land: str | None) -> str:
    """Push a package by a function that selects and a place, or a function of the places; return its top hash.

    ``spec`` may be the registry where the package is now.
    """
    import quilt3

    made = quilt3.Package.browse(package, spec) if isinstance(spec, str) else _make(spec)
    message = None if isinstance(spec, str) else spec["message"]
    rules = {"copy all": quilt3.Package.selector_fn_copy_all, "copy local": quilt3.Package.selector_fn_copy_local, **SELECTORS}
    selector = rules[select] if select else None
    landing = DESTINATIONS[land] if land else dest
    return made.push(package, registry, landing, message, selector, force=True).top_hash


def _publish(package: Any, registry: str, name: str, message: str | None) -> str:
    import quilt3

    stamps = [int(pointer) for pointer, _ in quilt3.list_package_versions(name, registry) if pointer != "latest"]
    while int(time.time()) <= max(stamps, default=0):
        time.sleep(0.02)
    if registry.startswith("s3://"):
        return package.push(name, registry, message=message, force=True).top_hash
    return package.build(name, registry, message)


def top_hash(spec: dict[str, Any]) -> str:
    """Return the top hash of a package that is written nowhere."""
    package = _make(spec)
    package._set_commit_message(spec["message"])  # noqa: SLF001
    package._calculate_missing_hashes()  # noqa: SLF001
    return package.top_hash


def browse(registry: str, package: str, top_hash: str | None) -> dict[str, Any]:
    """Read a revision; its top hash is computed anew from its records."""
    import quilt3

    found = quilt3.Package.browse(package, registry, top_hash)
    header, *records = found.manifest
    return {"header": header, "entries": records, "top_hash": found.top_hash}


def relay(manifest: str) -> dict[str, str]:
    """Read the text of a manifest, and write it again; the top hash is computed from its records."""
    import quilt3

    package = quilt3.Package.load(io.StringIO(manifest, newline="\n"))
    out = io.BytesIO()
    package.dump(out)
    return {"manifest": out.getvalue().decode(), "top_hash": package.top_hash}


def diff(registry: str, package: str, old: str, new: str) -> dict[str, list[str]]:
    """List the logical keys that were added, modified and deleted from one revision to another."""
    import quilt3

    one, other = (quilt3.Package.browse(package, registry, top_hash) for top_hash in (old, new))
    return dict(zip(("added", "modified", "deleted"), one.diff(other), strict=True))


def read(registry: str, package: str, key: str) -> str:
    """Return the bytes of an entry, in base64; quilt3 checks them against the hash."""
    import quilt3

    entry = quilt3.Package.browse(package, registry)[key]
    data = entry.get_bytes()
    entry._verify_hash(data)  # noqa: SLF001  (what get_bytes returns is not checked)
    return base64.b64encode(data).decode()


def install(registry: str, package: str, directory: str, local_registry: str, top_hash: str | None, path: str | None) -> None:
    """Download the files of a revision, or those at a path of it."""
    import quilt3

    quilt3.Package.install(package, registry, top_hash, dest=directory, dest_registry=local_registry, path=path)


def verify(registry: str, package: str, directory: str, top_hash: str | None, *, extra_files_ok: bool) -> bool:
    """Whether a directory or prefix holds the files of a revision."""
    import quilt3

    return quilt3.Package.browse(package, registry, top_hash).verify(directory, extra_files_ok)


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


def rollback(registry: str, package: str, top_hash: str) -> None:
    """Let the latest revision be another one."""
    import quilt3

    quilt3.Package.rollback(package, registry, top_hash)


def resolve(registry: str, package: str, prefix: str) -> str:
    """Return the top hash that begins with a prefix."""
    import quilt3

    return quilt3.Package.resolve_hash(package, registry, prefix)


def directory_keys(path: str) -> list[str]:
    """List the logical keys that a directory becomes."""
    import quilt3

    return [key for key, _ in quilt3.Package().set_dir("/", path).walk()]


def physical_key(text: str) -> dict[str, str | None]:
    """Read the text of a physical key, and print it again."""
    from quilt3.util import PhysicalKey

    key = PhysicalKey.from_url(text)
    return {"bucket": key.bucket, "key": key.path, "version_id": key.version_id, "text": str(key)}


def public_names() -> dict[str, list[str]]:
    """List the public functions and methods, by the place where they are."""
    import inspect

    import quilt3
    from quilt3 import admin, api_keys, hooks
    from quilt3.packages import PackageEntry

    def functions(module: Any, prefix: str = "") -> list[str]:
        return [f"{prefix}{name}" for name, _ in inspect.getmembers(module, inspect.isfunction) if not name.startswith("_")]

    def methods(kind: type) -> list[str]:
        return [name for name in vars(kind) if not name.startswith("_")]

    bucket = [f"Bucket.{name}" for name in methods(quilt3.Bucket)]
    return {
        "quilt3": [*functions(quilt3), *bucket, *functions(api_keys, "api_keys."), *functions(hooks, "hooks.")],
        "quilt3.Package": methods(quilt3.Package),
        "quilt3.packages.PackageEntry": methods(PackageEntry),
        "quilt3.admin": [
            name
            for module, found in inspect.getmembers(admin, inspect.ismodule)
            if module not in {"exceptions", "types", "util"}
            for name in functions(found, f"{module}.")
        ],
    }


_COMMANDS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        build,
        push,
        publish,
        revise,
        place,
        top_hash,
        browse,
        relay,
        diff,
        read,
        install,
        verify,
        packages,
        revisions,
        delete,
        rollback,
        resolve,
        directory_keys,
        physical_key,
        public_names,
    )
}

if __name__ == "__main__":
    main()
