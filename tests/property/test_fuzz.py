"""Any manifest, pointer, address or config is read, or refused by an error of the core."""

import functools
import io
import itertools
import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_quilt.core.errors import QuiltError
from airflow_quilt.core.format.diff import compare
from airflow_quilt.core.format.hashes import algorithm
from airflow_quilt.core.format.manifest_reader import read_manifest
from airflow_quilt.core.format.manifest_writer import write_manifest
from airflow_quilt.core.format.names import PackageName, parse_directory_key, parse_logical_key, walk_order
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.plan.actions import Source
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.objects import StoredObject
from airflow_quilt.core.storage.paths import resolve_registry
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.workflows.config import Choice, check_config, load_workflow
from airflow_quilt.core.workflows.rules import Workflow
from tests.property.hostile import (
    ANY_BYTES,
    ANY_TEXT,
    CONFIG,
    CONFIGS,
    INSTANCES,
    MANIFESTS,
    MIB,
    NOT_TEXTS,
    SCHEMAS,
    TEXTS,
    TookTooLongError,
    bounded,
    spoiled,
    value_or_refusal,
)

NAME: Final = PackageName("team", "data")
POINTERS: Final = ".quilt/named_packages/team/data/"


def registry_in_memory() -> tuple[Registry, MemoryStorage]:
    memory = MemoryStorage(["registry"])
    return Registry(RegistryLocation.parse("s3://registry"), Stores(LocalStorage(), memory)), memory


# Addresses and names.


@given(TEXTS)
@example("s3://bucket/\ud800")
@example("~\ud800")
def test_physical_key_round_trips(text: str) -> None:
    key = value_or_refusal(lambda: PhysicalKey.parse(text))

    assert isinstance(key, QuiltError) or value_or_refusal(lambda: PhysicalKey.parse(str(key))) == key


@given(TEXTS)
@example("s3://bucket?versionId=")
@example("file:///\ud800")
def test_registry_round_trips(text: str) -> None:
    location = value_or_refusal(lambda: resolve_registry(text))

    assert isinstance(location, QuiltError) or value_or_refusal(lambda: resolve_registry(str(location))) == location


def quilt_uri(registry: str, fragment: str) -> str:
    return f"quilt+{registry}#package=team/data{fragment}"


@given(TEXTS | st.builds(quilt_uri, st.just("s3://bucket") | TEXTS, TEXTS | TEXTS.map(lambda text: f"&catalog={text}")))
@example("quilt+s3://bucket#package=team/data&catalog=a%26path=b")
@example("quilt+s3://bucket#package=team/data&catalog=\ud800")
def test_quilt_uri_round_trips(text: str) -> None:
    uri = value_or_refusal(lambda: QuiltUri.parse(text))

    assert isinstance(uri, QuiltError) or value_or_refusal(lambda: QuiltUri.parse(str(uri))) == uri


@given(TEXTS | NOT_TEXTS | st.from_regex(r"\A[\w-]+/[\w-]+\Z"))
def test_package_name_round_trips(text: Any) -> None:
    for parse in (PackageName.parse, PackageName.parse_existing):
        name = value_or_refusal(lambda parse=parse: parse(text))
        assert isinstance(name, QuiltError) or str(name) == text


@given(TEXTS | NOT_TEXTS)
@example("a/..")
@example("a\0b")
def test_logical_key_stays_inside(text: Any) -> None:
    key = value_or_refusal(lambda: parse_logical_key(text))
    directory = value_or_refusal(lambda: parse_directory_key(text))

    if not isinstance(key, QuiltError):
        assert key == text
        assert os.path.normpath(f"/inside/{key}") == f"/inside/{key}"
        assert key.encode().decode() == key
    assert isinstance(directory, QuiltError) or parse_logical_key(directory[:-1]) + "/" == text


# Manifests.


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(edge, len(data)) for edge in at), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


def read_and_written(chunks: list[bytes]) -> bytes:
    """Read a manifest, use its entries as the core does, and write it again."""
    manifest = read_manifest(chunks)
    entries = list(manifest.entries)
    assert [entry.logical_key for entry in entries] == sorted({entry.logical_key for entry in entries}, key=walk_order)
    assert list(compare(entries, entries)) == []
    for entry in entries:
        value_or_refusal(lambda entry=entry: Source.of_entry(entry))
        value_or_refusal(lambda entry=entry: [*algorithm(entry.hash.type).parts(entry.size)])
    out = io.BytesIO()
    write_manifest(manifest.header, entries, out, manifest.directories)
    return out.getvalue()


@given(spoiled(*MANIFESTS) | ANY_BYTES, st.lists(st.integers(0, 500), max_size=4))
def test_manifest_bytes_round_trip(data: bytes, at: list[int]) -> None:
    once = value_or_refusal(lambda: read_and_written(cut(data, at)))

    assert isinstance(once, QuiltError) or value_or_refusal(lambda: read_and_written([once])) == once


# Pointers and revisions.


@functools.cache
def with_history() -> tuple[Registry, frozenset[str]]:
    """A registry with three revisions of one package, and their hashes."""
    registry, _ = registry_in_memory()
    for content in ("one", "two", "three"):
        push(registry, Draft(package=str(NAME), entries={"a.json": {"content": content}}))
    return registry, frozenset(revision.top_hash for revision in registry.revisions(NAME))


OFFSETS = st.integers(-24 * 60 + 1, 24 * 60 - 1).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(timezones=st.none() | OFFSETS)


@given(TEXTS | NOT_TEXTS | TIMES | TIMES.map(datetime.isoformat) | st.from_regex(r"\A[0-9a-f]{5,65}\Z"))
@example("0001-01-01T00:00:00+23:59")
@example("9999-12-31T23:59:59-23:59")
@example("2024-01-01\ud80000:00")
def test_revision_is_in_the_history(revision: Any) -> None:
    registry, history = with_history()
    found = value_or_refusal(lambda: registry.resolve(NAME, revision))

    assert isinstance(found, QuiltError) or found in history or found == revision


HASHES = st.sampled_from(["0a" * 32, "0A" * 32, "0a" * 31, "0a" * 32 + "\n", " " + "0a" * 32, "٣" * 64, ""]).map(str.encode)
STAMPS = st.integers(0, 10**10 + 1).map(str) | st.sampled_from(["0000000001", "9999999999", "latest", "١٢٣٤٥٦٧٨٩٠", "a/b", ""])


@given(
    st.none() | HASHES | ANY_BYTES,
    st.dictionaries(STAMPS | TEXTS.filter(lambda text: text.isprintable()), HASHES | ANY_BYTES, max_size=3),
)
def test_any_pointers_are_handled(latest: bytes | None, others: dict[str, bytes]) -> None:
    registry, memory = registry_in_memory()
    for name, data in {**others, **({} if latest is None else {"latest": latest})}.items():
        memory.put(PhysicalKey("registry", POINTERS + name), data)

    found = value_or_refusal(lambda: registry.latest(NAME))
    history = value_or_refusal(lambda: list(registry.revisions(NAME)))
    value_or_refusal(lambda: registry.resolve(NAME, "0a0a0a"))
    value_or_refusal(lambda: list(registry.packages()))
    manifest = value_or_refusal(lambda: registry.read(NAME))

    assert isinstance(manifest, QuiltError)
    assert found is None or isinstance(found, QuiltError) or found.top_hash == "0a" * 32
    assert isinstance(history, QuiltError) or {revision.top_hash for revision in history} <= {"0a" * 32}


# Workflows.

CHOICES: st.SearchStrategy[Choice] = st.sampled_from([..., None, "alpha", "beta", ""])
ENTRIES: Final = [{"logical_key": "a/b", "size": 5, "meta": {"x": [1]}}, {"logical_key": "c", "size": 0, "meta": {}}]


def workflows(config: bytes, schema: bytes) -> tuple[StoredObject, Callable[[PhysicalKey], StoredObject]]:
    """Return a config as a registry would, and a reader of the schemas in a bucket."""
    memory = MemoryStorage(["rules"])
    memory.put(PhysicalKey("rules", "schema.json"), schema)
    return StoredObject(config, "etag", PhysicalKey("registry", ".quilt/workflows/config.yml")), memory.get


def load(config: bytes, schema: bytes, choice: Choice) -> Workflow | None:
    return load_workflow(choice, *workflows(config, schema))


def judge(workflow: Workflow | None, user_meta: object) -> None:
    if workflow:
        workflow.check(package="team/data", message=None, user_meta=user_meta, entries=ENTRIES)


@given(spoiled(CONFIG) | CONFIGS | ANY_BYTES, CHOICES, ANY_TEXT)
@example(CONFIG.replace(b'"s3://rules/schema.json"', b'"s3://rules/\\uD800"'), ..., "")
def test_any_config_is_handled(config: bytes, choice: Choice, word: str) -> None:
    schema = b'{"type": "object"}'
    workflow = value_or_refusal(lambda: load(config, schema, choice))
    names = value_or_refusal(lambda: check_config(*workflows(config, schema)))

    if not isinstance(workflow, QuiltError):
        value_or_refusal(lambda: judge(workflow, {"a": word}))
        assert workflow is not None
        json.dumps(workflow.record)
    assert isinstance(names, QuiltError) or names


JSON_SCHEMAS = SCHEMAS.map(lambda schema: json.dumps(schema).encode())
SCHEMA: Final = json.dumps(
    {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": ["object", "array"],
        "properties": {"a": {"type": "string", "pattern": "^x", "minLength": 2}},
        "items": {"properties": {"size": {"multipleOf": 0.5, "maximum": 10**30}}, "required": ["logical_key"]},
    }
).encode()


@given(JSON_SCHEMAS | spoiled(SCHEMA) | ANY_BYTES, INSTANCES)
def test_any_schema_is_handled(schema: bytes, user_meta: object) -> None:
    workflow = value_or_refusal(lambda: load(CONFIG, schema, "alpha"))

    if not isinstance(workflow, QuiltError):
        value_or_refusal(lambda: judge(workflow, user_meta))
        assert workflow is not None
        assert workflow.record["id"] == "alpha"


# Small texts that are much work.


def in_a_map(depth: int) -> dict[str, Any]:
    """Return metadata in which ``a`` holds ``a`` holds ``a`` …"""
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def twice_itself(dialect: str, reference: str) -> bytes:
    """Return a schema that checks ``a`` twice, by the whole schema again, if such a reference is followed."""
    again = {"$schema": dialect, reference: "#"}
    return json.dumps({"properties": {"a": {"$schema": dialect, "allOf": [again, again]}}}).encode()


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(b"a: 1" + b":1" * 300_000, id="a number of 300,000 digits to the base of 60"),
        pytest.param(b"a: 1" + b":1" * 300_000 + b".5", id="one with a fraction"),
        pytest.param(b"[" * 100_000, id="lists in lists"),
        pytest.param(b"? " * 100_000, id="keys of keys"),
        pytest.param(b"[" + b"a," * 100_000 + b"]", id="a list of many"),
        pytest.param(b"a: &a {x: 1}\nb: {<<: [" + b"*a," * 50_000 + b"]}", id="many merges"),
        pytest.param(b"a: " + b"9" * 1_000_000, id="digits"),
        pytest.param(b"a: 0x" + b"f" * 1_000_000, id="hex digits"),
        pytest.param(b'"' + b"\\x41" * 250_000 + b'"', id="escapes"),
        pytest.param(b"%TAG !a! b\n" * 50_000 + b"--- a", id="tags"),
        pytest.param(b"---\n" * 100_000, id="documents"),
    ],
)
def test_costly_config_ends_soon(config: bytes) -> None:
    assert isinstance(value_or_refusal(lambda: load(config, b"{}", ...), seconds=5, memory=512 * MIB), QuiltError)


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(twice_itself("https://json-schema.org/draft/2020-12/schema", "$dynamicRef"), id="dynamic references"),
        pytest.param(twice_itself("https://json-schema.org/draft/2019-09/schema", "$recursiveRef"), id="recursive references"),
        pytest.param(b'{"not":' * 100_000 + b"{}" + b"}" * 100_000, id="nested"),
        pytest.param(json.dumps({"allOf": [False] * 10_000}).encode(), id="many rules"),
        pytest.param(json.dumps({"enum": [str(number) for number in range(50_000)]}).encode(), id="many values"),
    ],
)
def test_costly_schema_ends_soon(schema: bytes) -> None:
    value_or_refusal(lambda: judge(load(CONFIG, schema, "alpha"), in_a_map(60)), seconds=5, memory=512 * MIB)


@pytest.mark.parametrize("where", ["the name", "metadata"])
def test_endless_pattern_is_killable(where: str) -> None:
    endless = b"(a+)+$"
    config = CONFIG.replace(b"^(team|group)/", endless) if where == "the name" else CONFIG
    schema = json.dumps({"properties": {"a": {"pattern": endless.decode() if where == "metadata" else ""}}}).encode()
    workflow = load(config, schema, "alpha")
    letters = "a" * 60 + "/-"
    assert workflow is not None

    began = time.process_time()
    with pytest.raises(TookTooLongError), bounded(seconds=0.5):
        workflow.check(package=letters, message=None, user_meta={"a": letters}, entries=[])
    assert time.process_time() - began < 5


def test_seed_inputs_are_valid() -> None:
    workflow = load(CONFIG, SCHEMA, "beta")
    judge(workflow, {"a": "xyz"})

    assert workflow is not None
    assert check_config(*workflows(CONFIG, SCHEMA)) == "'alpha', 'beta'"
    assert [isinstance(value_or_refusal(lambda data=data: read_and_written([data])), bytes) for data in MANIFESTS] == [True] * 4
