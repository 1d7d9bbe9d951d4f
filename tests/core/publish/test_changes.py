"""Changes of a revision in its result and in the log, and the requests that the count makes."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from airflow_quilt.core.build import build
from airflow_quilt.core.errors import AccessDeniedError
from airflow_quilt.core.format import layout
from airflow_quilt.core.publish.commit import PublishResult
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.memory import MemoryStorage
from tests.core.faulty import Before, Call, Recorder
from tests.core.packages import put
from tests.support import through


def draft(entries: object = None, **more: Any) -> Draft:
    return Draft(**{"package": "team/package", "entries": entries, **more})


def counts(result: PublishResult) -> tuple[int | None, int | None, int | None]:
    return result.added, result.modified, result.removed


def content(*keys: str, **more: Any) -> Mapping[str, Any]:
    return {key: {"content": key.encode(), **more} for key in keys}


def reads_manifest(call: Call) -> bool:
    return layout.manifest("") in call.key.key and call.operation in {"get", "stat", "stream"}  # type: ignore[arg-type]


@pytest.fixture
def objects(memory: MemoryStorage) -> Mapping[str, str]:
    """Three objects of another bucket, by the keys that they get."""
    urls = {key: f"s3://source/{key}" for key in ("a", "b", "c")}
    for url in urls.values():
        put(memory, url, url.encode(), "SHA256")
    return urls


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="airflow_quilt")
    return caplog


def last(log: pytest.LogCaptureFixture) -> list[str]:
    return log.records[-1].getMessage().splitlines()


def test_changed_keys_are_logged(registry: Registry, log: pytest.LogCaptureFixture) -> None:
    first = push(registry, draft(content("a", "b/c", "b/d", "e")))
    second = push(
        registry,
        draft({**content("b/c", "f\n2026 Published team/other"), "b/d": b"other", "e": {"content": b"e", "meta": {"x": 1}}}),
    )

    assert counts(second) == (1, 2, 1)
    assert (
        last(log)[0]
        == f"Published team/package@{second.top_hash[:12]} in s3://registry: +1 ~2 -1 files since {first.top_hash[:12]}"
    )
    assert last(log)[2:] == ["- 'a'", "~ 'b/d'", "~ 'e'", "+ 'f\\n2026 Published team/other'"]


@pytest.mark.parametrize("mode", ["replace", "update"])
def test_twenty_keys_are_logged(registry: Registry, mode: str, log: pytest.LogCaptureFixture) -> None:
    push(registry, draft(content(*(f"old/{i:02}" for i in range(50)))))
    gone = {"remove": ["old/"]} if mode == "update" else {}
    push(registry, draft(content(*(f"new/{i:02}" for i in range(15)), "old/49"), mode=mode, **gone))

    lines = last(log)
    assert lines[0].split(": ")[-1].startswith("+15 ~0 -49 files since ")
    assert lines[2:] == [*(f"+ 'new/{i:02}'" for i in range(15)), *(f"- 'old/{i:02}'" for i in range(5)), "... and 44 more"]


def test_message_alone_changes_no_file(registry: Registry, log: pytest.LogCaptureFixture) -> None:
    first = push(registry, draft(content("a"), message="one"))
    again = push(registry, draft(content("a"), message="two"))

    assert (counts(again), again.created) == ((0, 0, 0), True)
    assert last(log)[0].endswith(f": +0 ~0 -0 files since {first.top_hash[:12]}")
    assert len(last(log)) == 2


def test_moved_bytes_are_no_change(registry: Registry, objects: Mapping[str, str]) -> None:
    push(registry, draft(objects, message="where they are"), copy="none")
    moved = push(registry, draft(objects, message="copied"))

    assert (counts(moved), moved.bytes_copied > 0) == ((0, 0, 0), True)


def test_count_reads_one_manifest(registry: Registry, objects: Mapping[str, str]) -> None:
    """A push of content and an update read it anyway; a build reads it for the count, with one request; a first one reads none."""
    recorder, read = Recorder(), []
    for publish, change in (
        (build, draft(objects)),
        (build, draft(objects, message="again")),
        (push, draft(content("a"))),
        (build, draft(objects, mode="update")),
        (build, draft(mode="update", message="new", remove=["a"])),
    ):
        recorder.calls.clear()
        assert counts(publish(through(registry, recorder), change)) != (None, None, None)
        read.append([call.operation for call in recorder.calls if reads_manifest(call)])

    assert read == [[], ["get"], ["get"], ["stat", "get"], ["stat", "get"]]


def test_large_manifest_is_not_read(registry: Registry, objects: Mapping[str, str], log: pytest.LogCaptureFixture) -> None:
    first = push(registry, draft(content(*map(str, range(1200)), meta={"x": "y" * 1000})))
    small = build(registry, draft(objects))

    assert counts(small) == (None, None, None)
    assert last(log)[0].endswith(f": uncounted changes since {first.top_hash[:12]}")
    assert len(last(log)) == 2


def test_unreadable_manifest_is_no_error(registry: Registry, objects: Mapping[str, str], log: pytest.LogCaptureFixture) -> None:
    build(registry, draft(objects))

    def refuse() -> None:
        raise AccessDeniedError("the store refuses", "s3://registry")

    result = build(through(registry, Before(reads_manifest, refuse)), draft(objects, message="again"))

    assert (counts(result), result.created) == ((None, None, None), True)
    assert "The changes are not counted, since the latest revision cannot be read: " in log.text
