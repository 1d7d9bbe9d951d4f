import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest

from airflow_quilt.core.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
    WorkflowConfigError,
    WorkflowError,
)
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.objects import StoredObject
from airflow_quilt.core.workflows.config import Choice, load_workflow
from airflow_quilt.core.workflows.rules import Workflow

ON_S3 = "s3://registry/.quilt/workflows/config.yml?versionId=c1"
ON_DISK = "file:///registry/.quilt/workflows/config.yml"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
NEWER = "https://json-schema.org/draft/2020-12/schema"


class Shelf:
    """Schemas by URL, and the URLs that were asked for."""

    def __init__(self, schemas: Mapping[str, object]) -> None:
        self.schemas = schemas
        self.asked: list[str] = []

    def __call__(self, key: PhysicalKey) -> StoredObject:
        self.asked.append(str(key))
        schema = self.schemas.get(str(key))
        if schema is None:
            raise ObjectNotFoundError("there is no such object", str(key))
        data = schema if isinstance(schema, bytes) else json.dumps(schema).encode()
        read = key if key.is_local or key.version_id else key.at_version("s1")
        return StoredObject(data, "etag", read)


def blob(config: str | bytes, url: str = ON_S3) -> StoredObject:
    return StoredObject(config.encode() if isinstance(config, str) else config, "etag", PhysicalKey.parse(url))


def load(
    config: str | bytes | None, choice: Choice = ..., schemas: Mapping[str, object] | None = None, url: str = ON_S3
) -> Workflow | None:
    return load_workflow(choice, None if config is None else blob(config, url), Shelf(schemas or {}))


def loaded(config: str | bytes, choice: Choice = ..., schemas: Mapping[str, object] | None = None, url: str = ON_S3) -> Workflow:
    workflow = load(config, choice, schemas, url)
    assert workflow
    return workflow


def config_with(rules: str = "{name: Alpha}", more: str = "default_workflow: alpha", version: str = "'1'") -> str:
    return f"version: {version}\nworkflows:\n  alpha: {rules}\n{more}\n"


def with_schemas(metadata: object = None, entries: object = None) -> Workflow:
    rules = ["name: Alpha"]
    schemas, shelf = [], {}
    for kind, schema in (("metadata", metadata), ("entries", entries)):
        if schema is not None:
            rules.append(f"{kind}_schema: {kind}-rules")
            schemas.append(f"{kind}-rules: {{url: 's3://rules/{kind}.json'}}")
            shelf[f"s3://rules/{kind}.json"] = schema
    more = f"default_workflow: alpha\nschemas: {{{', '.join(schemas)}}}"
    return loaded(config_with(f"{{{', '.join(rules)}}}", more), schemas=shelf)


def entry(key: str, size: int = 1, **meta: object) -> dict[str, Any]:
    return {"logical_key": key, "size": size, "meta": meta}


def violations(
    workflow: Workflow,
    *,
    package: str = "team/data",
    message: str | None = None,
    meta: object = None,
    entries: Iterable[Mapping[str, Any]] = (),
) -> list[str]:
    try:
        workflow.check(package=package, message=message, user_meta={} if meta is None else meta, entries=entries)
    except WorkflowError as error:
        return list(error.violations) or ["an error without violations"]
    return []


# Which workflow.


def test_no_config_no_workflow() -> None:
    assert load(None) is None


@pytest.mark.parametrize("choice", ["alpha", "", None])
def test_choice_needs_a_config(choice: Choice) -> None:
    with pytest.raises(WorkflowConfigError, match=f"workflow {choice!r}: the registry has no workflows config"):
        load(None, choice)


@pytest.mark.parametrize(
    ("choice", "more", "workflow"),
    [
        pytest.param(..., "default_workflow: alpha", "alpha", id="the default"),
        pytest.param("alpha", "", "alpha", id="a chosen one"),
        pytest.param("alpha", "is_workflow_required: false", "alpha", id="a chosen one where none is required"),
        pytest.param(
            ..., "default_workflow: alpha\nis_workflow_required: false", "alpha", id="the default where none is required"
        ),
        pytest.param(..., "is_workflow_required: false", None, id="no default and none required"),
        pytest.param(None, "is_workflow_required: false", None, id="none chosen and none required"),
        pytest.param(None, "default_workflow: alpha\nis_workflow_required: false", None, id="none chosen beside a default"),
    ],
)
def test_chosen_or_default_workflow(choice: Choice, more: str, workflow: str | None) -> None:
    record = loaded(config_with(more=more), choice).record

    assert list(record.items()) == [("id", workflow), ("config", ON_S3)]


@pytest.mark.parametrize(
    ("choice", "more", "words"),
    [
        pytest.param(..., "", "workflow: choose one of 'alpha'; .* requires one, and none was chosen", id="no default"),
        pytest.param(..., "is_workflow_required: true", "requires one, and none was chosen", id="no default and one required"),
        pytest.param(None, "default_workflow: alpha", "requires one, and none was chosen", id="none chosen beside a default"),
        pytest.param("beta", "", "workflow 'beta' is not in it; there are 'alpha'", id="unknown"),
        pytest.param("", "is_workflow_required: false", "workflow '' is not in it", id="empty"),
        pytest.param(..., "default_workflow: beta", "the default workflow 'beta' is not in it", id="unknown default"),
        pytest.param(5, "", "workflow 5: expected the id of a workflow, or None, got int", id="no text"),
        pytest.param([], "", r"workflow \[\]: expected the id", id="a list"),
    ],
)
def test_bad_choice_is_refused(choice: Any, more: str, words: str) -> None:
    with pytest.raises(WorkflowConfigError, match=words):
        load(config_with(more=more), choice)


def test_no_workflow_has_no_rules() -> None:
    rules = "{name: Alpha, handle_pattern: ^x$, is_message_required: true}"

    assert violations(loaded(config_with(rules, "is_workflow_required: false"), None)) == []


# The config.

BOMB = "a0: &a0 [x, x]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))
MERGES = "m0: &m0 {x: 1}\n" + "\n".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 30))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        pytest.param("version: [", "cannot be read as YAML.*line 1, column 11", id="cut"),
        pytest.param("a: 1\n---\nb: 2\n", "cannot be read as YAML.*another document", id="two documents"),
        pytest.param("a: !!python/object:os.system {}", "cannot be read as YAML.*tag", id="an object of Python"),
        pytest.param("a: \x01", "cannot be read as YAML", id="a control character"),
        pytest.param(b"version: '1' # \xff", "cannot be read as YAML.*utf-8", id="no UTF-8"),
        pytest.param(config_with().encode("utf-16"), "cannot be read as YAML", id="UTF-16"),
        pytest.param("a: 2024-13-45", "cannot be read as YAML.*month", id="a date that is none"),
        pytest.param("a: !!int ''", "cannot be read as YAML", id="a number that is none"),
        pytest.param("a: !!timestamp x", "cannot be read as YAML", id="a time that is none"),
        pytest.param(f"version: 0x{'f' * 5000}", "cannot be read as YAML", id="a number beyond printing"),
        pytest.param("a: 1" + ":1" * 500, "cannot be read as YAML: a number of more than 1,000 characters", id="a long number"),
        pytest.param("a: 1" + ":1" * 500 + ".5", "cannot be read as YAML: a number", id="a long number with a fraction"),
        pytest.param(f"a: !!int '{'1:' * 500}1'", "cannot be read as YAML: a number", id="a long text that is to be a number"),
        pytest.param(f"? {'1:' * 500}1\n: x", "cannot be read as YAML: a number", id="a long number as a key"),
        pytest.param("[" * 5000 + "]" * 5000, "cannot be read as YAML", id="nested too deeply"),
        pytest.param(BOMB, "cannot be read as YAML: more than 20,000 values", id="aliases of aliases"),
        pytest.param(MERGES, "cannot be read as YAML: more than 20,000 values", id="merges of merges"),
        pytest.param("", "config: None is not of type 'object'", id="empty"),
        pytest.param("# nothing\n", "config: None is not of type 'object'", id="comment"),
        pytest.param("- version", "is not of type 'object'", id="list"),
        pytest.param("just text", "config: 'just text' is not of type 'object'", id="text"),
        pytest.param("version: '1'", "config: 'workflows' is a required property", id="no workflows"),
        pytest.param("workflows: {alpha: {name: A}}", "config: 'version' is a required property", id="no version"),
        pytest.param("version: '1'\nworkflows: {}", "config at workflows: {} should be non-empty", id="empty workflows"),
        pytest.param(config_with(more="colour: red"), "'colour' was unexpected", id="an unknown key"),
        pytest.param(config_with("{name: A, colour: red}"), "config at workflows.alpha: .*'colour'", id="an unknown rule"),
        pytest.param(config_with("{}"), "config at workflows.alpha: 'name' is a required property", id="no name"),
        pytest.param(config_with("{name: ''}"), "config at workflows.alpha.name", id="an empty name"),
        pytest.param(config_with("{name: A, description: ''}"), "workflows.alpha.description", id="an empty description"),
        pytest.param(config_with("{name: A, is_message_required: 1}"), "is_message_required: 1 is not", id="a number as flag"),
        pytest.param(config_with("{name: A, handle_pattern: 1}"), "handle_pattern: 1 is not of type", id="a number as pattern"),
        pytest.param("version: '1'\nworkflows: {1a: {name: A}}", "config at workflows: '1a' does not match", id="an id"),
        pytest.param(f"version: '1'\nworkflows: {{{'a' * 65}: {{name: A}}}}", "is too long", id="a long id"),
        pytest.param(config_with(more="default_workflow: 1"), "default_workflow: 1 is not", id="a number as default"),
        pytest.param(config_with(more="default_workflow:"), "default_workflow: None is not", id="null as default"),
        pytest.param(config_with(more="is_workflow_required: 'no'"), "is_workflow_required: 'no' is not", id="text as flag"),
        pytest.param(config_with(more="schemas: {}"), "config at schemas: {}", id="no schemas"),
        pytest.param(config_with(more="schemas: {a: {}}"), "config at schemas.a: 'url' is a required", id="no URL"),
        pytest.param(config_with(more="successors: {}"), "config at successors: {}", id="no successors"),
        pytest.param(config_with(more="successors: {'s3://b': {}}"), "'title' is a required", id="no title"),
        pytest.param(config_with(version="1"), "config at version: 1 is not of type", id="a number as version"),
        pytest.param(config_with(version="1.0"), "config at version: 1.0 is not of type", id="another number as version"),
        pytest.param(config_with(version="'0.1'"), "config at version: '0.1' does not match", id="version 0"),
        pytest.param(config_with(version="'1.01'"), "config at version: '1.01' does not match", id="a leading zero"),
        pytest.param(config_with(version="{catalog: '1'}"), "config at version: 'base' is a required", id="no base"),
        pytest.param(config_with(version="{base: 1}"), "config at version.base: 1 is not", id="a number as base"),
        pytest.param(config_with(version="{base: '1', x: '1'}"), "config at version: .*'x' was unexpected", id="a part"),
        pytest.param(config_with(version="'2'"), "version '2' is not supported, the newest that is: '1.1.0'", id="2"),
        pytest.param(config_with(version="'1.2'"), "version '1.2' is not supported", id="1.2"),
        pytest.param(config_with(version="'1.1.1'"), "version '1.1.1' is not supported", id="1.1.1"),
        pytest.param(config_with(version="{base: '1.2'}"), "version '1.2' is not supported", id="base 1.2"),
        pytest.param(config_with(version=f"'1.{'9' * 5000}'"), "is not supported", id="a number beyond reading"),
    ],
)
def test_bad_config_names_place(config: str | bytes, words: str) -> None:
    with pytest.raises(WorkflowConfigError, match=f"(?s)^workflows config {re.escape(ON_S3)}: .*{words}"):
        load(config)


@pytest.mark.parametrize(
    "version", ["'1'", "'1.0'", "'1.0.9'", "'1.1'", "'1.1.0'", "{base: '1.1.0', catalog: '9'}", "{base: '1'}"]
)
def test_versions_up_to_1_1_0(version: str) -> None:
    assert loaded(config_with(version=version)).record["id"] == "alpha"


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config_with(more="default_workflow: beta\ndefault_workflow: alpha"), id="a key given twice"),
        pytest.param(config_with(more="default_workflow: alpha\ncatalog: {any: [1]}"), id="a key of the catalog"),
        pytest.param(config_with("{name: A, catalog: 5}"), id="a key of the catalog in a workflow"),
        pytest.param(config_with("{name: A, handle_pattern: '', metadata_schema: '', entries_schema: ''}"), id="empty rules"),
        pytest.param(config_with("{name: A, metadata_schema: gone}", "default_workflow: b\n").replace("workflows:", "workflows:\n  b: {name: B}"), id="another workflow whose schema is gone"),
        pytest.param(config_with(more="default_workflow: alpha\nsuccessors: {'s3://b': {title: B, copy_data: false}}"), id="successors"),
        pytest.param(config_with(more="default_workflow: alpha\nschemas: {a: {url: nowhere, x: 1}}"), id="a bad URL that is not used"),
        pytest.param(config_with(more="default_workflow: alpha\ncatalog: [10:30:59, 190:20:30.15, 0x{}]".format("f" * 900)), id="numbers"),
        pytest.param(config_with(f"{{name: A, description: '{'1:' * 5000}1'}}", "default_workflow: alpha"), id="a long text of digits"),
        pytest.param("\ufeff" + config_with(), id="a byte order mark"),
        pytest.param("workflows:\n  base: &base {name: A}\n  alpha: {<<: *base}\ndefault_workflow: alpha\nversion: '1'\n", id="an alias"),
        pytest.param(config_with(more="default_workflow: alpha\ncatalog: &a [*a]"), id="an alias inside of itself"),
    ],
)  # fmt: skip
def test_config_as_quilt_reads_it(config: str) -> None:
    assert loaded(config).record["id"]


def test_config_errors_come_at_once() -> None:
    with pytest.raises(WorkflowConfigError) as caught:
        load("version: 1\nworkflows: {b: {}, a: {name: 5}}\nx: 1\n")

    assert str(caught.value).splitlines()[1:] == [
        "- config: Additional properties are not allowed ('x' was unexpected)",
        "- config at version: 1 is not of type 'string', 'object'",
        "- config at workflows.a.name: 5 is not of type 'string'",
        "- config at workflows.b: 'name' is a required property",
    ]


def test_config_errors_are_short() -> None:
    with pytest.raises(WorkflowConfigError) as caught:
        load("version: '1'\nworkflows:\n" + "".join(f"  a{number}: {['x' * 1000]}\n" for number in range(1000)))

    assert len(str(caught.value)) < 10_000


# Schemas.

WITH_METADATA = "{name: Alpha, metadata_schema: rules}"


def naming(url: str) -> str:
    return config_with(WITH_METADATA, f"default_workflow: alpha\nschemas: {{rules: {{url: {json.dumps(url)}}}}}")


@pytest.mark.parametrize(
    ("url", "asked", "recorded"),
    [
        pytest.param("s3://rules/m.json", "s3://rules/m.json", "s3://rules/m.json?versionId=s1", id="the current version"),
        pytest.param("s3://rules/m.json?versionId=v/1", *["s3://rules/m.json?versionId=v%2F1"] * 2, id="a version"),
        pytest.param("s3://rules/a%20b.json", "s3://rules/a%20b.json", "s3://rules/a%20b.json?versionId=s1", id="quoted"),
        pytest.param("s3://rules/a b.json", "s3://rules/a%20b.json", "s3://rules/a%20b.json?versionId=s1", id="not quoted"),
        pytest.param("S3://rules/m.json", "s3://rules/m.json", "s3://rules/m.json?versionId=s1", id="upper case"),
        pytest.param("s3://rules/m.json#part", "s3://rules/m.json", "s3://rules/m.json?versionId=s1", id="a fragment"),
        pytest.param("s3://rules/m.json?versionId=", "s3://rules/m.json", "s3://rules/m.json?versionId=s1", id="no version"),
        pytest.param("s3://rules/m.json?versionId=1&versionId=2", *["s3://rules/m.json?versionId=1"] * 2, id="two versions"),
    ],
)
def test_schema_version_is_recorded(url: str, asked: str, recorded: str) -> None:
    shelf = Shelf({asked: {}})
    workflow = load_workflow(..., blob(naming(url)), shelf)

    assert workflow
    assert shelf.asked == [asked]
    assert list(workflow.record.items()) == [("id", "alpha"), ("config", ON_S3), ("schemas", {"rules": recorded})]


@pytest.mark.parametrize("url", ["file:///rules/m.json", "file://localhost/rules/m.json", "FILE:///rules/m.json#x"])
def test_local_registry_local_schema(url: str) -> None:
    workflow = loaded(naming(url), schemas={"file:///rules/m.json": {}}, url=ON_DISK)

    assert workflow.record == {"id": "alpha", "config": ON_DISK, "schemas": {"rules": "file:///rules/m.json"}}


def test_local_registry_s3_schema() -> None:
    workflow = loaded(naming("s3://rules/m.json"), schemas={"s3://rules/m.json": {}}, url=ON_DISK)

    assert workflow.record["schemas"] == {"rules": "s3://rules/m.json?versionId=s1"}


def test_s3_refuses_local_schema() -> None:
    shelf = Shelf({"file:///rules/m.json": {}})
    with pytest.raises(WorkflowConfigError, match=r"schema 'rules': 'file:///rules/m\.json' is a local file.*put it on S3"):
        load_workflow(..., blob(naming("file:///rules/m.json")), shelf)

    assert shelf.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "m.json",
        "/rules/m.json",
        "~/m.json",
        "https://example.com/m.json",
        "s3:m.json",
        "s3:///m.json",
        "s3://[rules/m.json",
        "s3://rules/m.json?version=1",
        "file://host/m.json",
        "file:m.json",
        "file:///m.json?x",
        "file:///m%00.json",
        "s3://rules/\ud800",
        "s3://rules\ud800/m.json",
        "s3://rules/m.json?versionId=\ud800",
        "file:///\ud800",
    ],
)
@pytest.mark.parametrize("config", [ON_S3, ON_DISK])
def test_bad_schema_url_is_refused(url: str, config: str) -> None:
    with pytest.raises(WorkflowConfigError, match=f"^workflows config {re.escape(config)}: schema 'rules': "):
        load(naming(url), url=config)


def test_absent_schema_is_refused() -> None:
    for config in (config_with(WITH_METADATA), naming("s3://b/k").replace("schemas: {rules", "schemas: {other")):
        with pytest.raises(WorkflowConfigError, match="schema 'rules' is not among its schemas"):
            load(config)


@pytest.mark.parametrize("kind", [ObjectNotFoundError, BucketNotFoundError, AccessDeniedError, StorageError])
def test_unreadable_schema_is_named(kind: type[StorageError]) -> None:
    def read(key: PhysicalKey) -> StoredObject:
        raise kind("because", str(key))

    with pytest.raises(WorkflowConfigError, match=r"schema 'rules' at s3://rules/m\.json: cannot be read: .*because"):
        load_workflow(..., blob(naming("s3://rules/m.json")), read)


def test_failing_store_own_error() -> None:
    failure = StorageUnavailableError("asleep", "s3://rules/m.json")

    def read(key: PhysicalKey) -> StoredObject:
        raise failure

    with pytest.raises(StorageUnavailableError) as caught:
        load_workflow(..., blob(naming("s3://rules/m.json")), read)

    assert caught.value is failure


def deep(levels: int) -> bytes:
    return b'{"not": ' * levels + b"{}" + b"}" * levels


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        pytest.param(b"", "Expecting value", id="empty"),
        pytest.param(b"type: object", "Expecting value", id="YAML"),
        pytest.param(b'{"type": "obj\xff"}', "utf-8", id="no UTF-8"),
        pytest.param("{}".encode("utf-16"), "utf-8", id="UTF-16"),
        pytest.param(b"\xef\xbb\xbf{}", "BOM", id="a byte order mark"),
        pytest.param(deep(100_000), "recursion", id="nested too deeply to read"),
        pytest.param({"$ref": "#"}, r"'\$ref' is not supported", id="$ref"),
        pytest.param({"properties": {"a": [{"$ref": "s3://b/k"}]}}, r"'\$ref' is not supported", id="$ref deep inside"),
        pytest.param({"const": {"$ref": 1}}, r"'\$ref' is not supported", id="$ref that is data"),
        pytest.param({"$schema": "http://json-schema.org/draft-04/schema#"}, "Quilt knows only", id="draft 4"),
        pytest.param({"$schema": DRAFT_7.removesuffix("#")}, "Quilt knows only", id="draft 7 without #"),
        pytest.param({"$schema": 7}, r"'\$schema' is 7", id="a number as $schema"),
        pytest.param({"$schema": None}, r"'\$schema' is None", id="null as $schema"),
        pytest.param({"$schema": ["x"]}, r"'\$schema' is \['x'\]", id="a list as $schema"),
        pytest.param({"allOf": [{"$schema": NEWER}]}, f"'\\$schema' is '{NEWER}', later than draft 7", id="a newer draft inside"),
        pytest.param(
            {"not": {"$schema": NEWER.replace("https", "HTTPS") + "#"}}, "later than draft 7", id="the same in other words"
        ),
        pytest.param(
            {"items": {"$schema": "https://json-schema.org/draft/2019-09/schema"}}, "later than", id="draft 2019-09 inside"
        ),
        pytest.param({"type": "objekt"}, "not valid by draft 7: schema at type: 'objekt'", id="an unknown type"),
        pytest.param({"properties": {"a": {"minLength": "1"}}}, "schema at properties.a.minLength", id="a rule deep inside"),
        pytest.param({"pattern": "("}, "not valid by draft 7: schema at pattern", id="a pattern that is none"),
        pytest.param({"pattern": "a{99999999999}"}, "not valid by draft 7", id="a pattern that is too much"),
        pytest.param({"patternProperties": None}, "not valid by draft 7: schema at patternProperties: None", id="no patterns"),
        pytest.param({"patternProperties": 5}, "not valid by draft 7: schema at patternProperties: 5", id="a number of patterns"),
        pytest.param([], r"not valid by draft 7: schema: \[\]", id="a list"),
        pytest.param(b"null", "not valid by draft 7: schema: None", id="null"),
        pytest.param("text", "not valid by draft 7: schema: 'text'", id="text"),
    ],
)
def test_bad_schema_is_named(schema: object, words: str) -> None:
    with pytest.raises(WorkflowConfigError, match=rf"schema 'rules' at s3://rules/m\.json: .*{words}"):
        load(naming("s3://rules/m.json"), schemas={"s3://rules/m.json": schema})


def test_shared_url_is_read_once() -> None:
    rules = "{name: A, metadata_schema: one, entries_schema: two}"
    url = "{url: 's3://rules/all.json'}"
    shelf = Shelf({"s3://rules/all.json": {}})
    config = config_with(rules, f"default_workflow: alpha\nschemas: {{two: {url}, one: {url}, three: {url}}}")
    workflow = load_workflow(..., blob(config), shelf)

    assert workflow
    assert shelf.asked == ["s3://rules/all.json"]
    assert list(workflow.record["schemas"].items()) == [(name, "s3://rules/all.json?versionId=s1") for name in ("one", "two")]


def test_shared_schema_applies_twice() -> None:
    rules = "{name: A, metadata_schema: one, entries_schema: one}"
    more = "default_workflow: alpha\nschemas: {one: {url: 's3://rules/all.json'}}"
    workflow = loaded(config_with(rules, more), schemas={"s3://rules/all.json": {"type": ["object", "array"], "minItems": 1}})

    assert workflow.record["schemas"] == {"one": "s3://rules/all.json?versionId=s1"}
    assert violations(workflow, meta="text") == [
        "metadata: 'text' is not of type 'object', 'array'",
        "entries: [] should be non-empty",
    ]


def test_only_used_schemas_read() -> None:
    shelf = Shelf({})
    url = "{url: 's3://rules/m.json'}"
    workflow = load_workflow(..., blob(config_with(more=f"default_workflow: alpha\nschemas: {{rules: {url}}}")), shelf)

    assert workflow
    assert workflow.record == {"id": "alpha", "config": ON_S3}
    assert shelf.asked == []


@pytest.mark.parametrize("reference", ["$dynamicRef", "$recursiveRef"])
def test_newer_refs_not_followed(reference: str) -> None:
    assert violations(with_schemas({reference: "http://127.0.0.1:9/schema.json"})) == []


@pytest.mark.parametrize(
    ("inside", "passes"),
    [
        pytest.param({"$schema": DRAFT_7, "const": {}}, False, id="draft 7"),
        pytest.param({"$schema": DRAFT_7.replace("7", "6"), "const": {}}, False, id="draft 6"),
        pytest.param({"$schema": DRAFT_7.replace("7", "4"), "const": {}}, True, id="draft 4, which has no const"),
        pytest.param({"$schema": DRAFT_7.replace("7", "3"), "disallow": ["object"]}, False, id="draft 3"),
        pytest.param({"$schema": "https://example.com/schema", "const": {}}, False, id="an unknown one"),
        pytest.param({"properties": {"$schema": {"type": "string"}}}, True, id="a property of that name"),
        pytest.param({"enum": [{"$schema": 5}]}, False, id="data"),
    ],
)
def test_inner_schema_may_be_older(inside: object, passes: bool) -> None:  # noqa: FBT001
    assert (violations(with_schemas({"allOf": [inside]}), meta={"x": 1}) == []) == passes


# The rules.


@pytest.mark.parametrize("message", [None, ""])
def test_message_may_be_required(message: str | None) -> None:
    required = loaded(config_with("{name: A, is_message_required: true}"))

    assert violations(required, message=message) == ["a message is required"]
    assert violations(required, message=" ") == []
    assert violations(loaded(config_with("{name: A, is_message_required: false}")), message=message) == []
    assert violations(loaded(config_with()), message=message) == []


@pytest.mark.parametrize(
    ("pattern", "package", "matches"),
    [
        ("team", "my-team/data", True),
        ("^team", "my-team/data", False),
        ("^team/(raw|clean)$", "team/raw", True),
        ("^team/(raw|clean)$", "team/raw2", False),
        ("DATA", "team/data", False),
        ("(?i)DATA", "team/data", True),
        ("", "team/data", True),
    ],
)
def test_name_must_match_pattern(pattern: str, package: str, matches: bool) -> None:  # noqa: FBT001
    workflow = loaded(config_with(f"{{name: A, handle_pattern: '{pattern}'}}"))

    wrong = f"package name {package!r} does not match the pattern {pattern!r}"
    assert violations(workflow, package=package) == ([] if matches else [wrong])


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "a{99999999999}", "*"])
def test_bad_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(WorkflowConfigError, match=r"workflow 'alpha': handle_pattern .* is not a regular expression"):
        load(config_with(f"{{name: A, handle_pattern: '{pattern}'}}"))


METADATA = {
    "$schema": DRAFT_7,
    "type": "object",
    "required": ["author"],
    "properties": {
        "author": {"type": "string", "minLength": 1},
        "weeks": {"type": "array", "items": {"type": "integer"}},
        "a b": {"properties": {"c": {"maximum": 0}}},
    },
}


@pytest.mark.parametrize(
    ("meta", "lines"),
    [
        pytest.param({"author": "me", "weeks": [1, 2.0]}, [], id="good"),
        pytest.param({}, ["metadata: 'author' is a required property"], id="none"),
        pytest.param(None, ["metadata: 'author' is a required property"], id="not given"),
        pytest.param([], ["metadata: [] is not of type 'object'"], id="list"),
        pytest.param({"author": 5}, ["metadata at author: 5 is not of type 'string'"], id="inside"),
        pytest.param(
            {"weeks": ["x", 1, True], "a b": {"c": 1}, "author": ""},
            [
                "metadata at a b.c: 1 is greater than the maximum of 0",
                "metadata at author: '' should be non-empty",
                "metadata at weeks[0]: 'x' is not of type 'integer'",
                "metadata at weeks[2]: True is not of type 'integer'",
            ],
            id="in many places",
        ),
    ],
)
def test_metadata_matches_schema(meta: object, lines: list[str]) -> None:
    assert violations(with_schemas(METADATA), meta=meta) == lines


ENTRIES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "properties": {
            "logical_key": {"pattern": r"\.csv$"},
            "size": {"maximum": 10},
            "meta": {"properties": {"weeks": {"items": {"type": "integer"}}}},
        },
        "additionalProperties": False,
    },
}


@pytest.mark.parametrize(
    ("entries", "lines"),
    [
        pytest.param([entry("a/b.csv")], [], id="good"),
        pytest.param([], ["entries: [] should be non-empty"], id="none"),
        pytest.param([entry("a.csv"), entry("b.txt")], [r"entry 'b.txt' at logical_key: 'b.txt' does not match '\\.csv$'"], id="key"),
        pytest.param([entry("a/b.csv", 11)], ["entry 'a/b.csv' at size: 11 is greater than the maximum of 10"], id="size"),
        pytest.param([entry("a.csv", weeks=[1, "x"])], ["entry 'a.csv' at meta.weeks[1]: 'x' is not of type 'integer'"], id="meta"),
        pytest.param([entry("a.csv") | {"hash": "x"}], ["entry 'a.csv': Additional properties are not allowed ('hash' was unexpected)"], id="itself"),
    ],
)  # fmt: skip
def test_entries_match_schema(entries: list[dict[str, Any]], lines: list[str]) -> None:
    assert violations(with_schemas(entries=ENTRIES), entries=entries) == lines


@pytest.mark.parametrize(("schema", "passes"), [(True, True), (False, False), (b"true", True), (b"false", False), ({}, True)])
def test_schema_may_be_bool(schema: object, passes: bool) -> None:  # noqa: FBT001
    workflow = with_schemas(schema, schema)

    wrong = ["metadata: False schema does not allow {}", "entries: False schema does not allow []"]
    assert violations(workflow) == ([] if passes else wrong)
    assert violations(with_schemas(entries=schema)) == ([] if passes else wrong[1:])


def test_formats_are_ignored() -> None:
    assert violations(with_schemas({"properties": {"day": {"format": "date"}}}), meta={"day": "tomorrow"}) == []


def test_unruled_entries_not_read() -> None:
    def entries() -> Iterator[dict[str, Any]]:
        raise AssertionError
        yield {}

    for workflow in (with_schemas(METADATA), loaded(config_with(more="is_workflow_required: false"), None)):
        workflow.check(package="team/data", message=None, user_meta={"author": "me"}, entries=entries())


def test_entries_error_propagates() -> None:
    def entries() -> Iterator[dict[str, Any]]:
        yield entry("a.csv")
        raise StorageUnavailableError("asleep", "s3://b/k")

    with pytest.raises(StorageUnavailableError):
        violations(with_schemas(entries=ENTRIES), entries=entries())


def test_inapplicable_schema_refused() -> None:
    older = {"$schema": "http://json-schema.org/draft-03/schema#", "disallow": "nonsense"}

    with pytest.raises(WorkflowConfigError, match=r"schema 'entries-rules' at .*: cannot be applied to this package: .*nonsense"):
        violations(with_schemas(entries={"allOf": [older]}))


# All violations.


def strict() -> Workflow:
    rules = "{name: A, handle_pattern: ^x/, is_message_required: true, metadata_schema: m, entries_schema: e}"
    more = "default_workflow: alpha\nschemas: {m: {url: 's3://rules/m'}, e: {url: 's3://rules/e'}}"
    return loaded(config_with(rules, more), schemas={"s3://rules/m": METADATA, "s3://rules/e": ENTRIES})


def test_all_violations_in_order() -> None:
    error = WorkflowError("alpha", [])
    for _ in range(3):
        with pytest.raises(WorkflowError) as caught:
            strict().check(
                package="team/data", message="", user_meta={"weeks": [None]}, entries=[entry("b.txt", 99), entry("a.txt")]
            )
        error = caught.value

    assert list(error.violations) == [
        "a message is required",
        "package name 'team/data' does not match the pattern '^x/'",
        "metadata: 'author' is a required property",
        "metadata at weeks[0]: None is not of type 'integer'",
        r"entry 'b.txt' at logical_key: 'b.txt' does not match '\\.csv$'",
        "entry 'b.txt' at size: 99 is greater than the maximum of 10",
        r"entry 'a.txt' at logical_key: 'a.txt' does not match '\\.csv$'",
    ]
    assert str(error).splitlines() == [
        "the package does not satisfy the workflow 'alpha' of the registry:",
        *(f"- {line}" for line in error.violations),
    ]
    assert not error.transient


def test_places_in_numeric_order() -> None:
    lines = violations(with_schemas(METADATA), meta={"author": "me", "weeks": ["x"] * 12})

    assert [line.partition(":")[0] for line in lines] == [f"metadata at weeks[{number}]" for number in range(12)]


@pytest.mark.parametrize(("count", "last"), [(100, "- "), (101, "and 1 more"), (5100, "and 5,000 more")])
def test_message_has_100_violations(count: int, last: str) -> None:
    with pytest.raises(WorkflowError, match="workflow 'alpha'") as caught:
        with_schemas(entries=ENTRIES).check(
            package="a/b", message=None, user_meta={}, entries=(entry(f"{number:04}") for number in range(count))
        )

    lines = str(caught.value).splitlines()
    assert len(caught.value.violations) == len(set(caught.value.violations)) == count
    assert sum(line.startswith("- entry ") for line in lines) == 100
    assert lines[-1].startswith(last)


def test_large_value_is_shortened() -> None:
    [line] = violations(with_schemas({"properties": {"x": {"maxItems": 1}}}), meta={"x": ["word"] * 10_000})

    assert line.startswith("metadata at x: ['word', 'word'")
    assert line.endswith("is too long")
    assert len(line) < 400


def test_violation_is_one_line() -> None:
    lines = violations(with_schemas({"additionalProperties": {"type": "integer"}}), meta={"a\nb": "x\ny", "é": 1.5, "": "z"})

    assert lines == [
        "metadata at : 'z' is not of type 'integer'",
        "metadata at ['a\\nb']: 'x\\ny' is not of type 'integer'",
        "metadata at é: 1.5 is not of type 'integer'",
    ]
