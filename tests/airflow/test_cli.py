"""The command line: each command on the real store, with the connections of Airflow."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from airflow_quilt.cli import main
from airflow_quilt.core import Draft, push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.hooks.quilt import QuiltHook
from testbed.server import S3Server

ROOT = Path(__file__).parent.parent.parent
OLD = {"README.md": b"# Data\n", "d/a.csv": b"x\n1\n", "d/e/b.txt": b"b"}
NEW = {"README.md": b"# data!\n", "d/a.csv": b"x\n1\n", "n\n\x1b[2Jew": b"n"}


class Done(NamedTuple):
    """A command that ended: its exit code, and all that it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The output as a JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[list[str]]:
        """The cells of the output with ``-o plain``."""
        return [line.split("\t") for line in self.out.splitlines()]


Run = Callable[..., Done]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a command in this process."""

    def run(*arguments: str) -> Done:
        capfd.readouterr()
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = ended.code
        out, err = capfd.readouterr()
        # Airflow's own logs are set up when it is imported, here not by the command.
        said = [line for line in err.splitlines(keepends=True) if "[info " not in line and "INFO -" not in line]
        return Done(int(code or 0), out, "".join(said))

    return run


class Pushed(NamedTuple):
    """A package of two revisions."""

    registry: Registry
    old: str
    new: str


@pytest.fixture(scope="module")
def pushed(module_registry: str) -> Pushed:
    """The package ``team/data`` in the registry of the connection."""
    registry = QuiltHook().registry()
    drafts = [
        Draft(package="team/data", entries=OLD, message="old"),
        Draft(package="team/data", entries=NEW, message="n\n\x1bew"),
    ]
    hashes = [push(registry, draft).top_hash for draft in drafts]
    return Pushed(registry, *hashes)


def test_lists(run: Run, pushed: Pushed) -> None:
    push(pushed.registry, Draft(package="other/data", entries={"a": b""}))
    uri = f"quilt+{pushed.registry.location}#package=team/data"

    assert run("ls") == (0, "PACKAGE\nother/data\nteam/data\n", "")
    assert run("ls", "team/*", "-o", "json").json == [{"package": "team/data", "quilt_uri": uri}]
    nothing = run("ls", "x/*", "-o", "json")
    assert (nothing.json, "has no package 'x/*'" in nothing.err) == ([], True)
    revisions = [cells[1:] for cells in run("log", "team/data", "-o", "plain").lines]
    assert revisions == [[pushed.new, r"n\n\x1bew"], [pushed.old, "old"]]
    [newest] = run("log", uri, "-n", "1", "-o", "json").json
    assert (newest["top_hash"], newest["message"]) == (pushed.new, "n\n\x1bew")


def test_tree_is_a_tree(run: Run, pushed: Pushed) -> None:
    old = f"team/data@{pushed.old[:8]}"

    assert run("tree", old).out.splitlines() == [
        "SIZE  KEY",
        "7 B   README.md",
        "      d/",
        "4 B     a.csv",
        "        e/",
        "1 B       b.txt",
    ]
    assert [cells[:2] for cells in run("tree", old, "d", "-o", "plain").lines] == [["d/a.csv", "4"], ["d/e/b.txt", "1"]]


def test_names_of_strangers(run: Run, pushed: Pushed) -> None:
    """Control characters are escaped for people and shells, and exact in JSON."""
    assert run("tree", "team/data").out.splitlines()[-1] == r"1 B   n\n\x1b[2Jew"
    assert run("tree", "team/data", "-o", "plain").lines[-1][0] == r"n\n\x1b[2Jew"
    assert run("tree", "team/data", "-o", "json").json[-1]["logical_key"] == "n\n\x1b[2Jew"


def test_diff_has_exit_code(run: Run, pushed: Pushed) -> None:
    found = run("diff", "team/data", pushed.old, "-o", "json")

    assert found.code == 1
    assert [(each["change"], each["logical_key"]) for each in found.json] == [
        ("modified", "README.md"),
        ("deleted", "d/e/b.txt"),
        ("added", "n\n\x1b[2Jew"),
    ]
    assert run("diff", "team/data", pushed.old).out.splitlines()[1] == "modified  7 B -> 8 B  README.md"
    assert run("diff", "team/data", pushed.old, pushed.old) == (0, "", "")


def test_cat_is_checked(run: Run, pushed: Pushed, s3: S3Server) -> None:
    uri = f"quilt+{pushed.registry.location}#package=team/data@{pushed.old}&path=d/a.csv"

    assert run("cat", "team/data", "README.md") == (0, "# data!\n", "")
    assert run("cat", uri).out == "x\n1\n"
    entry = pushed.registry.entry("team/data", "README.md")
    key = pushed.registry.origin(entry)
    s3.client().delete_object(Bucket=key.bucket, Key=key.key, VersionId=key.version_id)
    assert run("cat", "team/data", "README.md")[:2] == (3, "")


def test_install_and_verify(run: Run, pushed: Pushed, tmp_path: Path) -> None:
    dest = str(tmp_path / "copy")
    old = f"team/data@{pushed.old}"
    installed = run("install", old, dest, "-o", "json")

    assert installed.code == 0
    assert (installed.json["top_hash"], installed.json["files"], installed.json["reused"]) == (pushed.old, 3, 0)
    assert "Installed team/data" in installed.err
    assert run("install", old, dest, "-o", "plain").lines == [["team/data", pushed.old, "3", "12", "3"]]
    assert run("verify", old, dest)[:2] == (0, "")
    (tmp_path / "copy/more").write_text("")
    (tmp_path / "copy/d/a.csv").write_text("x\n2\n")
    found = run("verify", old, dest, "-o", "plain")
    assert (found.code, found.lines) == (1, [["modified", "d/a.csv"], ["extra", "more"]])
    found = run("verify", old, dest, "--path", "README.md", "-o", "json").json
    assert (found["modified"], found["extra"]) == ([], ["d/a.csv", "d/e/b.txt", "more"])


def test_errors_are_one_sentence(run: Run, pushed: Pushed) -> None:
    cases = {
        ("log", "team/nothing"): (3, "there is no package team/nothing"),
        ("ls", "--conn-id", "nowhere"): (4, "no connection 'nowhere'"),
        ("ls", "--no-conn"): (3, "no registry: give registry=, s3://bucket or a directory; there is no connection"),
        ("cat", "team/data", "nothing"): (3, "has no entry 'nothing'"),
        ("cat", "team/data", "d"): (3, "has no entry 'd'; 'd' is a directory"),
        ("tree", "team/data", "README.md/"): (3, "nothing at 'README.md/'; 'README.md' is a file"),
        ("tree", "team/data@abcdef", "--revision", "latest"): (2, "names one revision"),
        ("log", "team/data@abcdef"): (2, "log lists all"),
        ("log", "team/data", "-n", "0"): (2, "above 0"),
        ("nothing",): (2, "invalid choice"),
        (): (2, "required"),
    }
    for arguments, (code, words) in cases.items():
        done = run(*arguments)
        assert (done.code, done.out) == (code, ""), done
        assert words in done.err, done
        assert "Traceback" not in done.err
    assert "Traceback" in run("log", "team/nothing", "-v").err
    assert run("ls", "--conn-id", "", "--registry", str(pushed.registry.location)).code == 0


def test_output_may_be_gone(pushed: Pushed) -> None:
    class Interrupted(io.StringIO):
        def write(self, _: str) -> int:
            raise KeyboardInterrupt

    with contextlib.redirect_stdout(Interrupted()):
        assert main(["ls"]) == 130
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out, contextlib.redirect_stdout(out):
        assert main(["tree", "team/data"]) == 141
    assert "_AIRFLOW_PROCESS_CONTEXT" not in os.environ


@pytest.mark.parametrize("no_color", ["", "1"])
def test_terminals_are_respected(no_color: str, pushed: Pushed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours are for terminals alone, and bytes that a terminal would obey are not written to one."""
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    push(pushed.registry, Draft(package="team/control", entries={"a.bin": b"\x1b[2J"}))
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as out, contextlib.redirect_stdout(out):
        assert main(["diff", "team/data", pushed.old]) == 1
        assert main(["cat", "team/control", "a.bin"]) == 3
        shown = os.read(ours, 10_000).decode()
    os.close(ours)

    assert ("\x1b[32madded" in shown) is (not no_color)
    assert ("\x1b" in shown) is (not no_color)
    assert r"n\n\x1b[2Jew" in shown
    assert "\x1b[2J" not in shown


def test_database_has_connections(run: Run, pushed: Pushed, database: None) -> None:
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    extra = json.dumps({"registry": str(pushed.registry.location)})
    with create_session() as session:
        session.add(Connection(conn_id="in_database", conn_type="quilt", extra=extra))

    assert run("ls", "team/*", "--conn-id", "in_database", "-o", "plain").lines[-1] == ["team/data"]


def test_process_writes_data_only(pushed: Pushed) -> None:
    """A command is quiet; and it runs in a task too, from which Airflow hides its database."""
    hidden = dict.fromkeys(
        ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN"], "airflow-db-not-allowed:///"
    )
    command = [sys.executable, "-m", "airflow_quilt.cli", "cat", "team/data", "d/a.csv"]
    done = subprocess.run(command, env={**os.environ, **hidden}, capture_output=True, check=False, text=True)
    helped = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "airflow_quilt.cli", "--help"], capture_output=True, check=True, text=True
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n1\n", "")
    assert "exit codes: 0 done" in helped.stdout
    assert not re.search(r"\b(airflow|boto3|pandas|msgspec)$", helped.stderr, re.MULTILINE)


def test_script_has_its_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["airflow-quilt"].partition(":")

    assert getattr(import_module(module), function) is main
