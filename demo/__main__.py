"""Run the example DAGs with real Airflow against a real S3 store, show the packages, and clean up.

``make demo``, or ``make demo KEEP=1`` to keep the store until Ctrl-C, for other clients.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from typing import IO, Final, Self, cast

from airflow_quilt.core import PackageName, QuiltUri, Registry, open_registry
from airflow_quilt.core.runtime.progress import human_size
from demo.commands import END
from testbed.airflow_home import airflow_environment, connections
from testbed.seaweedfs import seaweedfs
from testbed.server import S3Server

BUCKET: Final = "penguins"
PACKAGE: Final = PackageName.parse("penguins/weekly")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T")
"""The beginning of a record of Airflow's log."""
DAGS: Final = Path(__file__).parent.parent / "example_dags"


def main() -> None:
    """Run the story of the README: two runs, two revisions, one of them retired."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="quilt-demo-") as name, seaweedfs(Path(name, "store")) as store:
        say(f"An S3 store is up at {store.endpoint}, with a versioned bucket s3://{store.make_bucket(BUCKET)}")
        registry = open_registry(f"s3://{BUCKET}", client=store.client())
        with Airflow(Path(name), store) as airflow:
            airflow.run("db", "migrate")
            airflow.run("dags", "test", "example_quilt_push", "2008-12-29")
            airflow.run("dags", "test", "example_quilt_push", "2009-12-28")
            show_revisions(registry)
            show_latest(registry)
            oldest = [revision.top_hash for revision in registry.revisions(PACKAGE)][-1]
            airflow.run("dags", "test", "example_quilt_delete", "-c", f'{{"package": "{PACKAGE}", "top_hash": "{oldest[:8]}"}}')
        show_revisions(registry)
        say(f"Done in {time.monotonic() - began:.0f} s.")
        show_next(store, registry.resolve(PACKAGE))


class Airflow:
    """Airflow in a directory of its own, with connections to the store; its commands run in one process."""

    def __init__(self, directory: Path, store: S3Server) -> None:
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
            **airflow_environment(directory / "airflow", DAGS),
            **connections(store, f"s3://{BUCKET}"),
            "TMPDIR": str(directory),
        }

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "demo.commands"],
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error:
            self._process.terminate()
        self._process.communicate()

    def run(self, *arguments: str) -> None:
        """Run a command and show the log lines of the Quilt operators, or all lines if it fails."""
        say("$ airflow " + shlex.join(arguments))
        commands, output = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        print(json.dumps(arguments), file=commands, flush=True)
        lines: list[str] = []
        begun = 0
        for line in output:
            if line.startswith(END):
                if line.removeprefix(END).strip() == "0":
                    return
                break
            if _TIME.match(line):
                begun = len(lines)
            lines.append(line)
            if "[airflow_quilt." in line:  # The name of its logger ends a record, of one line or several.
                for text in "".join(lines[begun:]).partition("]")[2].partition("[airflow_quilt.")[0].splitlines():
                    print("   ", text.strip(), flush=True)
        print("".join(lines))
        sys.exit(f"airflow {shlex.join(arguments)} failed")


def show_revisions(registry: Registry) -> None:
    """Print the history of the package."""
    say(f"The revisions of {PACKAGE} in {registry.location}, newest first")
    latest = registry.resolve(PACKAGE)
    for revision in registry.revisions(PACKAGE):
        message = registry.read(PACKAGE, revision.top_hash).header["message"]
        sign = "  <- latest" if revision.top_hash == latest else ""
        print(f"    {revision.published_at:YYYY-MM-DD HH:mm:ss} UTC  {revision.top_hash[:12]}  {message}{sign}")


def show_latest(registry: Registry) -> None:
    """Print the files of the latest revision."""
    latest = registry.resolve(PACKAGE)
    manifest = registry.read(PACKAGE, latest)
    say(f"The latest one, metadata {manifest.header['user_meta']}")
    for line in tree([(entry.logical_key, entry.size) for entry in manifest.entries]):
        print("   ", line)
    say(f"Its Quilt+ URI\n    {QuiltUri(registry=registry.location, package=PACKAGE, top_hash=latest)}")


def tree(files: list[tuple[str, int]]) -> Iterator[str]:
    """Draw files, which come in walk order, as a tree with sizes."""
    for (before, _), (key, size) in pairwise([("", 0), *files]):
        *folders, name = key.split("/")
        known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before.split("/")[:-1], folders, strict=False)))
        for depth, folder in enumerate(folders[known:], known):
            yield f"{'  ' * depth}{folder}/"
        yield f"{'  ' * len(folders) + name:<28}{human_size(size):>10}"


def show_next(store: S3Server, top_hash: str) -> None:
    """Print the commands for other clients; with KEEP, wait for Ctrl-C."""
    keep = os.environ.get("KEEP")
    say("Next" if keep else "Next: `make demo KEEP=1` keeps the store running, and then")
    who = store.admin if keep else None
    endpoint, key, secret = (store.endpoint, who.access_key, who.secret_key) if who else ("<store>", "<key>", "<secret>")
    print(f"    export AWS_ENDPOINT_URL_S3={endpoint} AWS_ACCESS_KEY_ID={key} AWS_SECRET_ACCESS_KEY={secret}")
    print(f"    .venv/bin/airflow-quilt tree {PACKAGE} --no-conn --registry s3://{BUCKET}")
    print(f"    quilt3 install {PACKAGE} --registry s3://{BUCKET} --top-hash {top_hash[:12]} --dest ./penguins")
    print("    connections, sources and errors: docs/")
    if keep:
        say("The store stays up until Ctrl-C ...")
        signal.pause()


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped; everything is cleaned up.")
