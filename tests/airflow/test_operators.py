"""The operators, called directly: arguments, templates, return values, and the translation of errors."""

import inspect
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pendulum
import pytest
from airflow.sdk import Asset, ObjectStoragePath

from airflow_quilt._compat import AirflowFailException
from airflow_quilt.core.errors import (
    AccessDeniedError,
    CancelledError,
    InputError,
    LoginError,
    PackageNameError,
    QuiltError,
    RevisionConflictError,
    SourceChangedError,
    SourceError,
    StorageUnavailableError,
    ThrottledError,
)
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.operators import (
    QuiltBuildOperator,
    QuiltDeleteOperator,
    QuiltInstallOperator,
    QuiltPushOperator,
    QuiltRollbackOperator,
    QuiltVerifyOperator,
    entry,
)
from airflow_quilt.operators._base import airflow_errors
from airflow_quilt.operators._values import attempt_of, flag, plain
from testbed.airflow_home import connections
from testbed.server import Identity, S3Server
from tests.airflow.support import OTHER_HASH, MappedOutput, StateStore, instance, late, needs_airflow

OPERATORS = [
    QuiltPushOperator,
    QuiltBuildOperator,
    QuiltDeleteOperator,
    QuiltInstallOperator,
    QuiltRollbackOperator,
    QuiltVerifyOperator,
]
REQUIRED = {
    QuiltPushOperator: {"entries": "/data/"},
    QuiltBuildOperator: {"entries": "/data/"},
    QuiltInstallOperator: {"dest": "/data"},
    QuiltRollbackOperator: {"revision": "abcdef"},
}
ARGUMENTS = {name for operator in OPERATORS for name in operator.template_fields}


def push(**arguments: Any) -> dict[str, Any]:
    return late(
        QuiltPushOperator, **{"task_id": "push", "package": "team/data", "entries": {"a.txt": entry(content="a")}, **arguments}
    ).execute({})


def build(**arguments: Any) -> dict[str, Any]:
    return late(QuiltBuildOperator, **{"task_id": "build", "package": "team/data", **arguments}).execute({})


def install(**arguments: Any) -> dict[str, Any]:
    return late(QuiltInstallOperator, **{"task_id": "install", "package": "team/data", **arguments}).execute({})


def verify(**arguments: Any) -> dict[str, Any]:
    return late(QuiltVerifyOperator, **{"task_id": "verify", "package": "team/data", **arguments}).execute({})


def delete(**arguments: Any) -> dict[str, Any]:
    return late(QuiltDeleteOperator, **{"task_id": "delete", "package": "team/data", **arguments}).execute({})


def keys(registry: Registry, package: str = "team/data") -> list[str]:
    return [item.logical_key for item in registry.read(PackageName.parse(package)).entries]


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_argument_is_templated(operator: type) -> None:
    task = operator(task_id="t", package="a/b", **REQUIRED.get(operator, {}))
    own = vars(task).keys() & ARGUMENTS
    assert own == set(operator.template_fields)
    parameters = {
        name
        for kind in operator.__mro__
        if kind.__module__.startswith("airflow_quilt.") and "__init__" in vars(kind)
        for name, parameter in inspect.signature(vars(kind)["__init__"]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert parameters == own


def test_templates_render_in_keys() -> None:
    """Render values and logical keys, but not another task's output."""
    task = QuiltPushOperator(
        task_id="t",
        package="team/{{ what }}",
        entries={"{{ day }}/x.csv": "/data/{{ day }}.csv", "y.json": {"{{ day }}": ["{{ day }}"]}},
        meta={"{{ what }}": {"of": "{{ day }}"}},
        message="{{ day }}",
        registry="s3://{{ what }}",
        dest="s3://{{ what }}/{{ day }}",
    )
    task.render_template_fields({"what": "sales", "day": "2026-11-23"})  # type: ignore[typeddict-unknown-key]

    assert task.package == "team/sales"
    assert task.entries == {"2026-11-23/x.csv": "/data/2026-11-23.csv", "y.json": {"2026-11-23": ["2026-11-23"]}}
    assert task.meta == {"sales": {"of": "2026-11-23"}}
    assert (task.message, task.registry, task.dest) == ("2026-11-23", "s3://sales", "s3://sales/2026-11-23")

    class Returned:
        """Stands where the output of a task does: it resolves to data."""

        def resolve(self, _context: object) -> dict[str, str]:
            return {"{{ day }}": "{{ day }}"}

    assert task.render_template(Returned(), {"day": "x"}) == {"{{ day }}": "{{ day }}"}  # type: ignore[typeddict-unknown-key]


def test_paths_render_unchanged(tmp_path: Path) -> None:
    """Follow no link, and need no file: it may not exist before the task runs."""
    (tmp_path / "link").symlink_to("file")
    push_task = QuiltPushOperator(task_id="p", package="a/b", entries={"d/": [tmp_path / "link"], "{{ day }}": Path("~/x")})
    install_task = QuiltInstallOperator(task_id="i", package="a/b", dest=tmp_path / "new")
    for each in (push_task, install_task):
        each.render_template_fields({"day": "monday"})  # type: ignore[typeddict-unknown-key]

    assert push_task.entries == {"d/": [tmp_path / "link"], "monday": Path("~/x")}
    assert install_task.dest == tmp_path / "new"


@pytest.mark.parametrize("text", ["true", "False", " TRUE "])
def test_templated_bool_parses(text: str) -> None:
    assert flag("dedupe", text) is (text.strip().lower() == "true")


@pytest.mark.parametrize("value", ["", "no", "None", None, 1, []])
def test_bad_bool_is_named(value: object) -> None:
    with pytest.raises(InputError, match="missing_ok .*: expected true or false"):
        flag("missing_ok", value)


def test_templated_bools_apply(connected: str) -> None:
    push()
    assert push(dedupe="False")["created"] is True
    assert delete(package="team/nothing", missing_ok="True")["revisions_deleted"] == 0
    with pytest.raises(AirflowFailException, match="InputError: allow_empty 'maybe'"):
        push(allow_empty="maybe")


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator_limit_overrides(connected: str, operator: type) -> None:
    arguments = {"task_id": "t", "package": "a/b", **REQUIRED.get(operator, {})}
    templated = operator(**arguments, max_concurrency="{{ most }}")
    templated.render_template_fields({"most": 3})

    assert templated.hook.registry().stores.limits.max_concurrency == 3
    assert operator(**arguments).hook.registry().stores.limits == Limits()


def test_bad_concurrency_is_permanent(connected: str, tmp_path: Path) -> None:
    push(max_concurrency=2)
    for work in (push, build, delete, verify, lambda **given: install(dest=str(tmp_path), **given)):
        with pytest.raises(AirflowFailException, match="InputError: max_concurrency '0': expected an int above 0"):
            work(max_concurrency="0")


def test_push_takes_every_source(
    connected: str, s3: S3Server, s3_registry: Registry, bucket: str, other_bucket: str, tmp_path: Path
) -> None:
    s3.client().put_object(Bucket=other_bucket, Key="in/b 1%.txt", Body=b"b")
    for name in ("f/1.txt", "f/2.txt", "one.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    result = push(
        entries={
            "path.bin": str(tmp_path / "one.bin"),
            "url.bin": (tmp_path / "one.bin").as_uri(),
            "pathlike.bin": tmp_path / "one.bin",
            "asset.bin": Asset(f"s3://{other_bucket}/in/b 1%25.txt"),
            "storage.bin": ObjectStoragePath(f"s3://some_conn@{other_bucket}/in/b 1%.txt"),
            "local-storage.bin": ObjectStoragePath(f"file://{tmp_path}/one.bin"),
            "folder/": tmp_path / "f",
            "prefix/": f"s3://{other_bucket}/in/",
            "list/": [str(tmp_path / "f/1.txt"), tmp_path / "f/2.txt"],
            "mapped/": MappedOutput([str(tmp_path / "f/1.txt"), str(tmp_path / "f/2.txt")]),
            "described.bin": entry(path=tmp_path / "one.bin", meta={"origin": "lab"}),
            "bytes.bin": b"\x00\x01",
            "text.txt": entry(content="text"),
            "value.json": {"a": [1, 2.5, None]},
            "mapped.json": MappedOutput([1, 2]),
            "frame.csv": pd.DataFrame({"a": [1]}),
            "frame.parquet": pd.DataFrame({"a": [1]}),
            "frame.json": pd.DataFrame({"a": [1]}),
        },
        meta={"values": MappedOutput(["x", "y"])},
    )

    assert result["entries"] == 21
    manifest = s3_registry.read(PackageName.parse("team/data"))
    assert manifest.header["user_meta"] == {"values": ["x", "y"]}
    found = {item.logical_key: item for item in manifest.entries}
    assert [key for key in found if "/" in key] == [
        "folder/1.txt",
        "folder/2.txt",
        "list/1.txt",
        "list/2.txt",
        "mapped/1.txt",
        "mapped/2.txt",
        "prefix/b 1%.txt",
    ]
    assert found["described.bin"].meta == {"user_meta": {"origin": "lab"}}

    def body(key: str) -> bytes:
        return s3.client().get_object(Bucket=bucket, Key=f"team/data/{key}")["Body"].read()

    for key in ("path.bin", "url.bin", "pathlike.bin", "local-storage.bin", "described.bin"):
        assert body(key) == b"one.bin", key
    for key in ("asset.bin", "storage.bin", "prefix/b 1%.txt"):
        assert body(key) == b"b", key
    assert (body("bytes.bin"), body("text.txt")) == (b"\x00\x01", b"text")
    assert (body("value.json"), body("mapped.json")) == (b'{"a": [1, 2.5, null]}', b"[1, 2]")
    assert (body("frame.csv"), body("frame.json")) == (b"a\n1\n", b'[{"a":1}]')


def test_result_is_plain_json(connected: str) -> None:
    assert all(json.loads(json.dumps(result)) == result for result in (push(), delete()))


def test_result_has_catalog_url(
    connected: str, bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="airflow_quilt")
    monkeypatch.setenv("AIRFLOW_CONN_QUILT_DEFAULT", f"quilt://catalog.example.com/?registry=s3%3A%2F%2F{bucket}")
    result = push()
    assert result["catalog_url"] == f"https://catalog.example.com/b/{bucket}/packages/team/data/tree/{result['top_hash']}/"
    assert caplog.messages[-1] == f"In the catalog: {result['catalog_url']}"


def test_dest_places_files(connected: str, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    push(dest=f"s3://{bucket}/exactly/here")
    monkeypatch.setenv(
        "AIRFLOW_CONN_QUILT_DEFAULT",
        json.dumps({"conn_type": "quilt", "extra": {"registry": connected, "dest": f"{connected}/landing"}}),
    )
    push(package="team/other")

    listed = {item["Key"] for item in s3.client().list_objects_v2(Bucket=bucket)["Contents"]}
    assert {"exactly/here/a.txt", "landing/team/other/a.txt"} <= listed
    assert not {key for key in listed if key.startswith("team/")}


def test_build_needs_no_connection(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.txt").write_text("a")
    for registry in (str(tmp_path / "reg"), (tmp_path / "reg").as_uri()):
        result = build(entries=str(tmp_path / "data"), registry=registry, quilt_conn_id=None)
        assert (result["registry"], result["catalog_url"]) == ((tmp_path / "reg").as_uri(), None)
        assert result["quilt_uri"] == f"quilt+{(tmp_path / 'reg').as_uri()}#package=team/data@{result['top_hash']}"
    assert result["created"] is False

    gone = delete(registry=str(tmp_path / "reg"), quilt_conn_id=None, revision=result["top_hash"][:6])
    assert (gone["revisions_deleted"], gone["top_hash"]) == (1, result["top_hash"])
    assert (tmp_path / "data/a.txt").read_text() == "a"


def test_dedupe_off_adds_revision(connected: str) -> None:
    assert [push()["created"], push()["created"], push(dedupe=False)["created"]] == [True, False, True]


def test_delete_honours_missing_ok(connected: str) -> None:
    with pytest.raises(AirflowFailException, match="PackageNotFoundError: .*there is no package team/data"):
        delete()
    assert delete(missing_ok=True)["revisions_deleted"] == 0
    push()
    with pytest.raises(AirflowFailException, match="has no revision abcdef0"):
        delete(revision="abcdef0")
    assert delete(revision="abcdef0", missing_ok=True)["revisions_deleted"] == 0
    assert delete()["revisions_deleted"] == 1


def test_rollback_restores_latest(connected: str, s3_registry: Registry) -> None:
    old, new = push()["top_hash"], push(entries={"b.txt": b"b"})["top_hash"]
    task = QuiltRollbackOperator(task_id="rollback", package="team/data", revision=old[:8])

    result = task.execute({})
    assert (result["top_hash"], result["previous"]) == (old, new)
    assert task.execute({})["previous"] == old
    assert keys(s3_registry) == ["a.txt"]

    with pytest.raises(AirflowFailException, match="PackageNotFoundError: .*has no revision abcdef0"):
        QuiltRollbackOperator(task_id="rollback", package="team/data", revision="abcdef0").execute({})


def test_update_merges_entries(connected: str, s3_registry: Registry) -> None:
    first = push(entries={"a.txt": b"a", "old/b.txt": b"b", "c.txt": b"c"}, meta={"by": "lab"}, message="first")
    update = {"mode": "update", "entries": {"a.txt": b"A", "d/": entry(meta={"unit": "mm"}), "d/e.txt": b"e"}, "remove": ["old"]}

    second, again = push(**update), push(**update)
    assert keys(s3_registry) == ["a.txt", "c.txt", "d/e.txt"]
    assert (second["created"], again["created"]) == (True, False)
    manifest = s3_registry.read(PackageName.parse("team/data"))
    assert manifest.user_meta == {"by": "lab"}
    assert manifest.header["message"] is None
    assert [item.size for item in manifest.entries] == [1, 1, 1]
    assert manifest.directories == {"d/": {"unit": "mm"}}

    push(mode="update", entries=None, revision=first["top_hash"][:9], remove=["c.txt"], message="third")
    assert keys(s3_registry) == ["a.txt", "old/b.txt"]


def test_functions_place_entries(connected: str, s3: S3Server, s3_registry: Registry, bucket: str, other_bucket: str) -> None:
    for key in ("keep.txt", "copy.txt"):
        s3.client().put_object(Bucket=other_bucket, Key=f"in/{key}", Body=key.encode())
    push(
        entries=f"s3://{other_bucket}/in/",
        copy=lambda key, candidate: key == "copy.txt" and candidate.size == 8,
        dest=lambda key, candidate: f"s3://{bucket}/by-size/{candidate.size}/{key}",
    )

    places = {
        item.logical_key: item.physical_keys[0].partition("?")[0]
        for item in s3_registry.read(PackageName.parse("team/data")).entries
    }
    assert places == {"keep.txt": f"s3://{other_bucket}/in/keep.txt", "copy.txt": f"s3://{bucket}/by-size/8/copy.txt"}


CONFIG = """
version: "1"
default_workflow: alpha
workflows:
  alpha:
    name: Alpha
    is_message_required: true
    metadata_schema: meta
schemas:
  meta:
    url: s3://{bucket}/schemas/meta.json
"""


def test_workflow_is_checked_first(connected: str, s3: S3Server, s3_registry: Registry, bucket: str) -> None:
    s3.client().put_object(Bucket=bucket, Key="schemas/meta.json", Body=b'{"required": ["by", "on"]}')
    s3.client().put_object(Bucket=bucket, Key=".quilt/workflows/config.yml", Body=CONFIG.format(bucket=bucket).encode())

    with pytest.raises(AirflowFailException, match="WorkflowError: ") as raised:
        push(meta={"x": 1})
    assert len(raised.value.__context__.violations) == 3  # type: ignore[union-attr]
    assert list(s3_registry.packages()) == []
    assert not s3.client().list_objects_v2(Bucket=bucket, Prefix="team/").get("Contents")

    push(meta={"by": "Ada", "on": "Monday"}, message="first", workflow="alpha")
    header = s3_registry.read(PackageName.parse("team/data")).header
    assert header["workflow"]["id"] == "alpha"
    assert header["workflow"]["config"].startswith(f"s3://{bucket}/.quilt/workflows/config.yml?versionId=")

    with pytest.raises(AirflowFailException, match="WorkflowConfigError: "):
        push(workflow=None)


def test_hash_type_is_selectable(connected: str, s3_registry: Registry, tmp_path: Path) -> None:
    if OTHER_HASH != "CRC64NVME":
        with pytest.raises(AirflowFailException, match="pip install --upgrade 'awscrt"):
            push(hash_type="CRC64NVME")
        return
    push(hash_type="CRC64NVME", entries={"a.txt": b"a", "empty": b""})

    assert {item.hash.type for item in s3_registry.read(PackageName.parse("team/data")).entries} == {"CRC64NVME"}
    assert verify(read_all=True)["entries"] == 2
    assert install(dest=tmp_path / "copy")["files"] == 2


def test_install_reuses_files(connected: str, tmp_path: Path) -> None:
    first = push(entries={"a.txt": b"a", "d/b.txt": b"b"})
    push(entries={"a.txt": b"new"})

    result = install(dest=tmp_path / "new", revision="latest", return_paths="True")
    assert (result["paths"], result["reused"], result["bytes"]) == ([str(tmp_path / "new/a.txt")], 0, 3)
    pinned = install(package=first["quilt_uri"], dest=str(tmp_path / "new"))
    assert (pinned["top_hash"], pinned["files"], pinned["paths"]) == (first["top_hash"], 2, None)
    assert [(tmp_path / "new" / key).read_bytes() for key in ("a.txt", "d/b.txt")] == [b"a", b"b"]
    assert install(package=first["quilt_uri"], dest=ObjectStoragePath(f"file://{tmp_path}/new"))["reused"] == 2
    part = install(package=f"{first['quilt_uri']}&path=d", dest=tmp_path / "part", return_paths=True)
    assert part["paths"] == [str(tmp_path / "part/b.txt")]
    one = install(revision=first["published_at"], path="d/b.txt", dest=tmp_path / "one", return_paths=True)
    assert one["paths"] == [str(tmp_path / "one/b.txt")]
    assert json.loads(json.dumps(result)) == result


def test_install_returns_s3_urls(connected: str, s3: S3Server, other_bucket: str) -> None:
    push(entries={"a.txt": b"a", "d/b.txt": b"b"})
    [one, other] = install(dest=f"s3://{other_bucket}/copy/", return_paths=True)["paths"]

    assert [url.partition("?")[0] for url in (one, other)] == [f"s3://{other_bucket}/copy/{key}" for key in ("a.txt", "d/b.txt")]
    assert s3.client().get_object(Bucket=other_bucket, Key="copy/d/b.txt")["Body"].read() == b"b"
    assert install(dest=f"s3://{other_bucket}/copy")["reused"] == 2
    assert verify(src=f"s3://{other_bucket}/copy/")["extra"] == 0


def test_verify_lists_differences(connected: str, tmp_path: Path) -> None:
    push(entries={"a.txt": b"a", "b.txt": b"b", "c.txt": b"c"})
    install(dest=tmp_path)
    assert verify(src=tmp_path) == verify(src=tmp_path, read_all="true") != {}
    (tmp_path / "extra.txt").touch()
    assert verify(src=tmp_path, extra_files_ok="True")["extra"] == 1

    (tmp_path / "a.txt").unlink()
    (tmp_path / "b.txt").write_bytes(b"x")
    with pytest.raises(
        AirflowFailException,
        match="VerificationError: differences from revision .*: 3\n- missing: a.txt\n- modified: b.txt\n- extra: extra.txt",
    ):
        verify(src=tmp_path)


def test_uri_and_argument_must_agree(connected: str, tmp_path: Path) -> None:
    uri = push()["quilt_uri"]
    for what, value in {"registry": "s3://elsewhere", "revision": "abcdef"}.items():
        with pytest.raises(AirflowFailException, match=f"InputError: {what} .*leave it out"):
            install(package=uri, dest=tmp_path, **{what: value})
    latest = f"{uri.partition('@')[0]}:latest"
    with pytest.raises(AirflowFailException, match="InputError: revision .*leave it out"):
        install(package=latest, dest=tmp_path, revision="abcdef")
    assert install(package=latest, dest=tmp_path, revision="latest")["files"] == 1
    assert install(package=uri, registry=connected, dest=tmp_path)["files"] == 1


def test_push_copies_local_build(connected: str, s3_registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    built = build(entries={"a.txt": tmp_path / "a.txt"}, registry=str(tmp_path / "reg"), quilt_conn_id=None)
    assert push(entries=built["quilt_uri"])["bytes_copied"] == 1
    assert keys(s3_registry) == ["a.txt"]

    (tmp_path / "a.txt").write_text("b")
    with pytest.raises(AirflowFailException, match="EntryDamagedError: entry 'a.txt'"):
        push(entries=built["quilt_uri"], dedupe=False)


def test_none_hash_deletes_nothing(connected: str, s3_registry: Registry) -> None:
    push()
    task = QuiltDeleteOperator(task_id="delete", package="team/data", revision="{{ what }}")
    task.render_template_fields({"what": None})
    with pytest.raises(AirflowFailException, match="InputError: revision is None: its template"):
        task.execute({})
    assert keys(s3_registry) == ["a.txt"]


def test_allow_empty_is_required(connected: str, s3_registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException, match="EmptyPackageError: entry 'd/': give allow_empty=True"):
        push(entries={"d/": tmp_path})
    assert push(entries={"d/": tmp_path}, allow_empty=True)["entries"] == 0
    assert keys(s3_registry) == []


def nothing_was_written(s3: S3Server, bucket: str) -> bool:
    client = s3.client()
    return not client.list_object_versions(Bucket=bucket).get("Versions") and not client.list_multipart_uploads(
        Bucket=bucket
    ).get("Uploads")


BAD = {
    "one-word name": ({"package": "a"}, "package name 'a': expected namespace/name"),
    "three-part name": ({"package": "a/b/c"}, "package name 'a/b/c'"),
    "name with a newline": ({"package": "a/b\n"}, r"package name 'a/b\\n'"),
    "name that climbs": ({"package": "../x"}, "package name '../x'"),
    "key that climbs": ({"entries": {"../x": b""}}, "logical key '../x': no part may be empty, '.' or '..'"),
    "empty part in a key": ({"entries": {"a//x": b""}}, "logical key 'a//x'"),
    "no text as key": ({"entries": {5: b""}}, "entry 5: give the logical key as a str; it is int"),
    "vanished file": (
        {"entries": {"x": "/nowhere/x"}},
        "entry 'x': give a path that this worker.* there is no file at '/nowhere/x'",
    ),
    "directory for a file": (
        {"entries": {"x": "/usr"}},
        "entry 'x': end the logical key in '/' .* '/usr', which is a directory",
    ),
    "file and directory": ({"entries": {"x": b"", "x/y": b""}}, "'x' is a file, and a directory that holds 'x/y'"),
    "nothing from a task": ({"entries": {"x": None}}, "entry 'x': give a source; it is None"),
    "no kind of source": ({"entries": {"x": object()}}, "entry 'x': give a path or URL.* a value of type object is no source"),
    "registry with a path": ({"registry": "s3://reg/path"}, "registry 's3://reg/path': a registry is a whole bucket"),
    "local registry": ({"registry": "/data/reg"}, "registry file:///data/reg: give s3://bucket, or use build"),
    "dest elsewhere": ({"dest": "s3://other/x"}, "dest 's3://other/x': give a prefix in the registry's bucket"),
    "meta with a date": ({"meta": {"a": [pd.Timestamp(0)]}}, r"meta.a\[0\]: Timestamp is not JSON"),
    "meta with NaN": ({"meta": {"a": float("nan")}}, "meta.a: nan is not JSON"),
    "entry meta with NaN": (
        {"entries": {"x": entry(content="", meta={"a": float("nan")})}},
        "entry 'x': meta.a: nan is not JSON",
    ),
    "meta too large": ({"meta": {"a": "x" * 1_000_000}}, "the package's metadata: its record in the manifest has 1,000,0"),
    "entry meta too large": (
        {"entries": {"x": entry(content="", meta={"a": "x" * 1_000_000})}},
        "entry 'x': its record in the manifest",
    ),
    "no such mode": ({"mode": "merge"}, "mode 'merge': expected 'replace' or 'update'"),
    "revision to replace": ({"revision": "abcdef"}, "revision and remove are for mode='update'"),
    "revision that is not there": (
        {"mode": "update", "revision": "abcdef"},
        "there is no package team/data",
    ),
    "remove as text": ({"mode": "update", "remove": "a.txt"}, "remove 'a.txt': expected a list of logical keys"),
    "no such copy policy": ({"copy": "some"}, "copy 'some': expected one of 'if-outside', 'all', 'local-only', 'none'"),
    "content that is not copied": ({"copy": "none"}, "entry 'a.txt': let it be copied, or build the package"),
    "no such type of hash": ({"hash_type": "MD5"}, "hash type 'MD5': new entries get 'sha2-256-chunked' or 'CRC64NVME'"),
    "metadata of the whole package": (
        {"entries": entry(path="/usr/share", meta={"a": 1})},
        "give the metadata of file:///usr/share as the package's own",
    ),
    "workflow without a config": ({"workflow": "alpha"}, "WorkflowConfigError: "),
    "no such policy": ({"conflict": "maybe"}, "conflict 'maybe': expected 'fail' or 'overwrite'"),
}


@pytest.mark.parametrize(("arguments", "says"), BAD.values(), ids=BAD.keys())
def test_bad_input_writes_nothing(connected: str, s3: S3Server, bucket: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(AirflowFailException, match=says) as raised:
        push(**arguments)
    assert isinstance(raised.value.__context__, QuiltError)
    assert nothing_was_written(s3, bucket)


def test_missing_bucket_is_permanent(connected: str) -> None:
    with pytest.raises(AirflowFailException, match=r"BucketNotFoundError: s3://no-such-bucket: .*there is no such bucket"):
        push(registry="s3://no-such-bucket")


def use(monkeypatch: pytest.MonkeyPatch, s3: S3Server, bucket: str, identity: Identity) -> None:
    for name, value in connections(s3, f"s3://{bucket}", identity).items():
        monkeypatch.setenv(name, value)


def test_reader_push_writes_nothing(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, s3, bucket, s3.reader)
    with pytest.raises(AirflowFailException, match="AccessDeniedError: .*access denied"):
        push()
    assert nothing_was_written(s3, bucket)


def test_wrong_secret_is_permanent(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, s3, bucket, Identity(s3.admin.access_key, "wrong"))
    with pytest.raises(AirflowFailException, match="correct the secret key: it does not match the access key"):
        push()


def test_dead_endpoint_is_transient(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = S3Server("http://127.0.0.1:9", Identity.make(), Identity.make())
    use(monkeypatch, nobody, bucket, nobody.admin)
    operator = QuiltPushOperator(task_id="push", package="team/data", entries={"a.txt": entry(content="a")})
    operator.hook = QuiltHook(retry=RetryPolicy(seconds=0.5))
    with pytest.raises(StorageUnavailableError, match="Could not connect"):
        operator.execute({})


def test_conflict_is_transient() -> None:
    assert RevisionConflictError.transient


@pytest.mark.parametrize(
    ("kind", "example"),
    [
        ("PermanentError", PackageNameError("no name")),
        ("AuthenticationError", AccessDeniedError("denied", "s3://b")),
        ("AuthenticationError", LoginError("no such key")),
        ("RevisionConflictError", RevisionConflictError("team/data", None, None)),
        ("ThrottledError", ThrottledError("slow down", "s3://b")),
    ],
)
@needs_airflow("3.3")
def test_retry_policy_sees_errors(kind: str, example: QuiltError) -> None:
    from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy, RetryAction, RetryRule

    policy = ExceptionRetryPolicy(rules=[RetryRule(f"airflow_quilt.core.errors.{kind}", RetryAction.FAIL, reason="ours")])
    with_policy, without = (
        QuiltPushOperator(task_id="t", package="a/b", entries="/data/", retry_policy=given) for given in (policy, None)
    )

    with pytest.raises(type(example)) as raised, airflow_errors(with_policy):
        raise example
    assert policy.evaluate(raised.value, 1, 3).reason == "ours"
    assert policy.evaluate(SourceChangedError("x") if kind != "PermanentError" else CancelledError("x"), 1, 3).reason is None
    with pytest.raises(type(example) if example.transient else AirflowFailException), airflow_errors(without):
        raise example


def test_attempt_key_per_instance() -> None:
    keys = [
        attempt_of(context).key  # type: ignore[arg-type]
        for context in (
            instance(),
            instance(tries=2),
            instance(task_id="other"),
            instance(map_index=3),
            instance(cleared=1),
        )
    ]

    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
    assert attempt_of({}).key != attempt_of({}).key


def test_only_retry_has_since() -> None:
    assert attempt_of(instance()).since is None  # type: ignore[arg-type]
    assert attempt_of(instance(tries=2)).since == pendulum.datetime(2026, 11, 1).timestamp()  # type: ignore[arg-type]


def test_retry_publishes_once(connected: str, s3_registry: Registry) -> None:
    """Recognize a lost success among the revisions of other tasks."""

    def push_as(context: dict[str, Any], text: str) -> dict[str, Any]:
        operator = QuiltPushOperator(task_id="push", package="team/data", entries={"a.txt": entry(content=text)}, dedupe=False)
        return operator.execute(context)  # type: ignore[arg-type]

    first = push_as(instance(), "mine")
    push_as(instance(task_id="other"), "theirs")
    again = push_as(instance(tries=2), "mine")

    assert {**again, "bytes_copied": 4, "bytes_reused": 0} == first
    assert len(list(s3_registry.revisions(PackageName("team", "data")))) == 2


@pytest.fixture
def store() -> StateStore:
    return StateStore()


def retried(store: StateStore, tries: int = 2, **changes: Any) -> dict[str, Any]:
    """Publish a file as one try of a task."""
    arguments = {"package": "team/data", "dedupe": False, **changes}
    operator = QuiltPushOperator(task_id="push", **arguments)
    return operator.execute({**instance(tries), "task_state_store": store})  # type: ignore[arg-type]


def test_retry_reads_no_source(
    connected: str, s3_registry: Registry, store: StateStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    source = tmp_path / "a.txt"
    source.write_text("mine")
    first = retried(store, 1, entries={"a.txt": str(source)})
    retried(StateStore(), 1, entries={"a.txt": b"theirs"})
    source.unlink()
    again = retried(store, entries={"a.txt": str(source)})

    assert again == first
    assert f"An earlier attempt of this task published {first['quilt_uri']}" in caplog.text
    assert len(list(s3_registry.revisions(PackageName("team", "data")))) == 2


@pytest.mark.parametrize(
    "changes",
    [{"message": "other"}, {"package": "team/other"}, {"dest": "s3://{bucket}/elsewhere"}, {"entries": {"b.txt": b"mine"}}],
    ids=lambda changes: next(iter(changes)),
)
def test_changed_retry_publishes(connected: str, bucket: str, store: StateStore, changes: dict[str, Any]) -> None:
    retried(store, 1, entries={"a.txt": b"mine"})
    changes = {key: value.format(bucket=bucket) if isinstance(value, str) else value for key, value in changes.items()}
    again = retried(store, **{"entries": {"a.txt": b"mine"}, **changes})

    assert again["package"] == changes.get("package", "team/data")
    assert (again["created"], again["bytes_copied"] + again["bytes_reused"]) == (True, 4)


def test_retry_restores_deleted(connected: str, s3_registry: Registry, store: StateStore) -> None:
    first = retried(store, 1, entries={"a.txt": b"mine"})
    s3_registry.delete(PackageName("team", "data"))
    again = retried(store, entries={"a.txt": b"mine"})

    assert again["top_hash"] == first["top_hash"]
    assert [revision.top_hash for revision in s3_registry.revisions(PackageName("team", "data"))] == [first["top_hash"]]


@pytest.mark.parametrize("entries", [{"a.txt": b"mine"}, {"a.csv": pd.DataFrame({"a": [1]})}], ids=["down", "data frame"])
def test_retry_needs_no_state(
    connected: str, s3_registry: Registry, store: StateStore, entries: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    store.is_down = "a.txt" in entries
    first = retried(store, 1, entries=entries)
    again = retried(store, entries=entries)

    assert (again["top_hash"], again["published_at"]) == (first["top_hash"], first["published_at"])
    assert len(list(s3_registry.revisions(PackageName("team", "data")))) == 1
    assert ("could not be stored: the API server is gone" in caplog.text) is store.is_down
    assert ("could not be read: the API server is gone" in caplog.text) is store.is_down
    assert store.noted == {}


def test_repeated_updates_merge(connected: str, s3_registry: Registry) -> None:
    for key in ("a.txt", "b.txt"):
        push(mode="update", conflict="rebase", entries={key: entry(content=key)})

    assert keys(s3_registry) == ["a.txt", "b.txt"]


def test_on_kill_stops_push(connected: str, s3_registry: Registry) -> None:
    class KilledWhileRead(MappedOutput):
        """A source that is read when the work has begun, and has the task killed then."""

        def __getitem__(self, index: Any) -> Any:
            task.on_kill()
            return super().__getitem__(index)

    task = QuiltPushOperator(task_id="push", package="team/data", entries={"a.json": KilledWhileRead([1])})
    with pytest.raises(CancelledError, match="stopped on request"):
        task.execute({})

    # Airflow may have killed it while it rendered templates, or while the function of a decorated task ran.
    task = QuiltPushOperator(task_id="push", package="team/data", entries={"a.json": 1})
    task.on_kill()
    with pytest.raises(CancelledError, match="stopped on request"):
        task.execute({})
    assert list(s3_registry.packages()) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Asset("s3://bucket/key"), "s3://bucket/key"),
        (ObjectStoragePath("s3://conn@bucket/a b%#?/"), "s3://bucket/a%20b%25%23%3F"),
        (ObjectStoragePath("file:///data/a b"), "/data/a b"),
        ({"a": [Asset("s3://bucket/key")]}, {"a": ["s3://bucket/key"]}),
        (MappedOutput([b"x"]), [b"x"]),
    ],
    ids=str,
)
def test_airflow_values_become_plain(value: object, expected: object) -> None:
    assert plain(value) == expected


def test_asset_without_uri_fails() -> None:
    with pytest.raises(SourceError, match="asset 'just_a_name': it has no URI"):
        plain(Asset("just_a_name"))
