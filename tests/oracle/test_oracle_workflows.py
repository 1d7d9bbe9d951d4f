"""quilt3 and our engine judge packages by the same workflows configs, and record the same of them in the header."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from airflow_quilt.core.errors import ObjectNotFoundError, WorkflowConfigError, WorkflowError
from airflow_quilt.core.format.names import walk_order
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.objects import StoredObject
from airflow_quilt.core.storage.paths import resolve_path
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.workflows.config import Choice, load_workflow
from testbed.server import S3Server
from tests.oracle.quilt3_client import Meta, Quilt3, Quilt3Error, Spec, place

CONFIG: Final = ".quilt/workflows/config.yml"
NAME: Final = "team/data"
DRAFT_7: Final = "http://json-schema.org/draft-07/schema#"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A config with its schemas, a package, and whether the package may be published.

    Attributes:
        config: the text, in which ``<BASE>`` is the URL of the place where the schemas lie; None for no config.
        schemas: by file name; all but bytes is written as JSON.
    """

    config: str | bytes | None
    passes: bool
    choice: Choice = ...
    schemas: Mapping[str, object] = field(default_factory=dict)
    files: tuple[str, ...] = ("a.csv", "b/c.csv")
    file_meta: Mapping[str, Meta] = field(default_factory=dict)
    meta: Meta | None = None
    message: str | None = None

    def spec(self, directory: Path) -> Spec:
        """Write the files of the package; each holds its name."""
        files = place(directory, {key: key.encode() for key in self.files})
        return Spec(files=files, file_meta=self.file_meta, meta=self.meta, message=self.message)

    def schema_data(self) -> dict[str, bytes]:
        """Return the bytes of the schemas."""
        return {
            name: schema if isinstance(schema, bytes) else json.dumps(schema).encode() for name, schema in self.schemas.items()
        }

    def config_data(self, base: str) -> bytes | None:
        """Return the bytes of the config, the schemas being at a place."""
        return self.config.replace("<BASE>", base).encode() if isinstance(self.config, str) else self.config


def passes(config: str | bytes | None, **rest: Any) -> Case:
    return Case(config=config, passes=True, **rest)


def fails(config: str | bytes | None, **rest: Any) -> Case:
    return Case(config=config, passes=False, **rest)


def one(rules: str = "", more: str = "", version: str = "'1'") -> str:
    """Return a config with the workflow ``alpha``, which is the default."""
    return f"version: {version}\nworkflows: {{alpha: {{name: Alpha, {rules}}}}}\ndefault_workflow: alpha\n{more}\n"


def two(more: str = "") -> str:
    """Return a config with the workflows ``alpha``, for which a message is required, and ``beta``, and no default."""
    return f"version: '1'\nworkflows: {{alpha: {{name: A, is_message_required: true}}, beta: {{name: B}}}}\n{more}\n"


def at(url: str, kind: str = "metadata_schema") -> str:
    """Return a config whose workflow has a schema at a URL."""
    return one(f"{kind}: s", f"schemas: {{s: {{url: '{url}'}}}}")


META: Final = at("<BASE>/s.json")
ENTRIES: Final = at("<BASE>/s.json", "entries_schema")


def meta_schema(schema: object, *, good: bool, **rest: Any) -> Case:
    return Case(config=META, passes=good, schemas={"s.json": schema}, **rest)


def entries_schema(schema: object, *, good: bool, **rest: Any) -> Case:
    return Case(config=ENTRIES, passes=good, schemas={"s.json": schema}, **rest)


AUTHOR: Final = {"$schema": DRAFT_7, "type": "object", "required": ["author"], "properties": {"author": {"type": "string"}}}
CSV: Final = {"items": {"properties": {"logical_key": {"pattern": r"\.csv$"}}}}
NEWER: Final = "https://json-schema.org/draft/2020-12/schema"
BOTH: Final = one(
    "metadata_schema: m, entries_schema: e, handle_pattern: ^team/, is_message_required: true",
    "schemas: {e: {url: '<BASE>/e.json'}, m: {url: '<BASE>/m.json'}, x: {url: '<BASE>/x.json'}}",
)
SHARED: Final = one("metadata_schema: m, entries_schema: e", "schemas: {e: {url: '<BASE>/s.json'}, m: {url: '<BASE>/s.json'}}")
SAME: Final = one("metadata_schema: s, entries_schema: s", "schemas: {s: {url: '<BASE>/s.json'}}")

CASES = {
    # Which workflow.
    "no config": passes(None),
    "no config, and a workflow": fails(None, choice="alpha"),
    "no config, and an empty workflow": fails(None, choice=""),
    "no config, and no workflow on purpose": fails(None, choice=None),
    "the default": passes(one()),
    "a default that is not there": fails(two("default_workflow: gamma")),
    "no default": fails(two()),
    "no default, and none required": passes(two("is_workflow_required: false")),
    "no default, and one required": fails(two("is_workflow_required: true")),
    "a chosen one": passes(two(), choice="beta"),
    "a chosen one beside the default": passes(two("default_workflow: alpha"), choice="beta"),
    "a chosen one where none is required": passes(two("is_workflow_required: false"), choice="beta"),
    "an unknown one": fails(two(), choice="gamma"),
    "an unknown one where none is required": fails(two("is_workflow_required: false"), choice="gamma"),
    "an empty one": fails(two("is_workflow_required: false"), choice=""),
    "none on purpose": fails(one(), choice=None),
    "none on purpose where none is required": passes(one("is_message_required: true", "is_workflow_required: false"), choice=None),
    "a number as id": fails("version: '1'\nworkflows: {1: {name: One}}", choice="1"),
    # The config.
    "an empty file": fails(""),
    "a comment": fails("# nothing"),
    "a list": fails("[version, workflows]"),
    "a text": fails("version"),
    "bad YAML": fails(one() + "\tx: ["),
    "two documents": fails(one() + "---\n" + one()),
    "an object of Python": fails(one(more="catalog: !!python/name:os.system")),
    "no UTF-8": fails(one().encode() + b"# \xff"),
    "UTF-16": fails(one().encode("utf-16")),
    "a byte order mark": passes("\ufeff" + one()),
    "a date that is none": fails(one(more="catalog: 2024-13-45")),
    "a number that is none": fails(one(more="catalog: !!int ''")),
    "an alias": passes("workflows:\n  beta: &b {name: B}\n  alpha: {<<: *b}\nversion: '1'\ndefault_workflow: alpha"),
    "an alias inside of itself": passes(one(more="catalog: &a [*a]")),
    "a key given twice": passes(one(more="default_workflow: gamma\ndefault_workflow: alpha")),
    "a key given twice, the last one wrong": fails(one(more="default_workflow: gamma")),
    "an unknown key": fails(one(more="colour: red")),
    "an unknown key of a workflow": fails(one("colour: red")),
    "an unknown key of a schema": passes(at("<BASE>/s.json', colour: 'red"), schemas={"s.json": {}}),
    "no version": fails("workflows: {alpha: {name: A}}\ndefault_workflow: alpha"),
    "no workflows": fails("version: '1'\nis_workflow_required: false"),
    "empty workflows": fails("version: '1'\nis_workflow_required: false\nworkflows: {}"),
    "a workflow without a name": fails("version: '1'\nworkflows: {alpha: {}}\ndefault_workflow: alpha"),
    "another workflow without a name": fails("version: '1'\nworkflows: {alpha: {name: A}, b: {}}\ndefault_workflow: alpha"),
    "an empty name": fails("version: '1'\nworkflows: {alpha: {name: ''}}\ndefault_workflow: alpha"),
    "an empty description": fails(one("description: ''")),
    "a description": passes(one("description: The first one")),
    "what the catalog reads": passes(one("catalog: [1]", "catalog: {x: y}")),
    "successors": passes(one(more="successors: {'s3://b': {title: B, copy_data: false}, any: {title: A, x: 1}}")),
    "a successor without a title": fails(one(more="successors: {'s3://b': {copy_data: false}}")),
    "empty successors": fails(one(more="successors: {}")),
    "empty schemas": fails(one(more="schemas: {}")),
    "an id that begins with a digit": fails("version: '1'\nworkflows: {1a: {name: A}}", choice="1a"),
    "an id with a newline at its end": passes('version: "1"\nworkflows: {"a\\n": {name: A}}', choice="a\n"),
    "an id of 64 letters": passes(f"version: '1'\nworkflows: {{{'a' * 64}: {{name: A}}}}", choice="a" * 64),
    "an id of 65 letters": fails(f"version: '1'\nworkflows: {{{'a' * 65}: {{name: A}}}}", choice="a" * 65),
    "null as default": fails(two("default_workflow: null\nis_workflow_required: false")),
    "text as flag": fails(one(more="is_workflow_required: 'false'")),
    **{f"version {version}": passes(one(version=version)) for version in ("'1'", "'1.0'", "'1.0.7'", "'1.1'", "'1.1.0'")},
    **{f"version {version}": fails(one(version=version)) for version in ("'2'", "'1.1.1'", "'1.2'", "'0.9'", "'1.1.0.0'")},
    **{f"version {version}": fails(one(version=version)) for version in ("1", "1.0", "''", "'1.00'", "'v1'", "null", "[1]")},
    "a version with a newline at its end": passes(one(version='"1.1.0\\n"')),
    "a version beyond reading": fails(one(version=f"'1.{'9' * 5000}'")),
    "a version of two": passes(one(version="{base: '1.1.0', catalog: '1.0'}")),
    "a version of two, the catalog's any": passes(one(version="{base: '1', catalog: '7.7.7'}")),
    "a version of two, the base alone": passes(one(version="{base: '1.1'}")),
    "a version of two, the catalog's alone": fails(one(version="{catalog: '1.0'}")),
    "a version of two, the base too new": fails(one(version="{base: '1.2.0', catalog: '1.0'}")),
    "a version of three": fails(one(version="{base: '1', catalog: '1', other: '1'}")),
    # Messages and names.
    "a message": passes(one("is_message_required: true"), message="hello"),
    "a message of a space": passes(one("is_message_required: true"), message=" "),
    "no message": fails(one("is_message_required: true")),
    "an empty message": fails(one("is_message_required: true"), message=""),
    "no message where none is required": passes(one("is_message_required: false")),
    "a name that matches": passes(one("handle_pattern: ^team/(data|other)$")),
    "a name that matches in its middle": passes(one("handle_pattern: m/d")),
    "a name that does not match": fails(one("handle_pattern: ^m/d")),
    "a name in another case": fails(one("handle_pattern: TEAM")),
    "an empty pattern": passes(one("handle_pattern: ''")),
    "a pattern that is none": fails(one("handle_pattern: '('")),
    "a pattern that is none, of another workflow": passes(
        "version: '1'\nworkflows: {alpha: {name: A}, b: {name: B, handle_pattern: '('}}", choice="alpha"
    ),
    # Schemas.
    "a schema for metadata": meta_schema(AUTHOR, good=True, meta={"author": "me"}),
    "metadata without a property": meta_schema(AUTHOR, good=False, meta={"x": 1}),
    "metadata of another type": meta_schema(AUTHOR, good=False, meta={"author": 1}),
    "no metadata where a property is required": meta_schema(AUTHOR, good=False),
    "no metadata is an empty object": meta_schema({"const": {}}, good=True),
    "empty metadata is an empty object": meta_schema({"const": {}}, good=True, meta={}),
    "1.0 is an integer": meta_schema({"properties": {"x": {"type": "integer"}}}, good=True, meta={"x": 1.0}),
    "true is no integer": meta_schema({"properties": {"x": {"type": "integer"}}}, good=False, meta={"x": True}),
    "formats are not looked at": meta_schema({"properties": {"x": {"format": "date"}}}, good=True, meta={"x": "y"}),
    "a number too large to divide": meta_schema({"properties": {"x": {"multipleOf": 0.5}}}, good=False, meta={"x": 10**400}),
    "a schema for entries": entries_schema(CSV, good=True),
    "a key that does not match": entries_schema(CSV, good=False, files=("a.csv", "a.txt")),
    "an empty package": entries_schema({"minItems": 1}, good=False, files=()),
    "all that is known of an entry": entries_schema(
        {"const": [{"logical_key": "a.csv", "size": 5, "meta": {"x": 1}}, {"logical_key": "b/c.csv", "size": 7, "meta": {}}]},
        good=True,
        file_meta={"a.csv": {"x": 1}},
    ),
    "entries in walk order": entries_schema(
        {"items": [{"properties": {"logical_key": {"const": key}}} for key in ("a/z", "a.txt", "a0")]},
        good=True,
        files=("a0", "a.txt", "a/z"),
    ),
    "metadata of an entry": entries_schema(
        {"items": {"properties": {"meta": AUTHOR}}}, good=False, file_meta={"a.csv": {"author": "me"}, "b/c.csv": {"author": 5}}
    ),
    "a schema that is true": meta_schema(True, good=True),  # noqa: FBT003
    "a schema that is false": meta_schema(False, good=False),  # noqa: FBT003
    "a schema of entries that is true": entries_schema(True, good=True),  # noqa: FBT003
    "a schema of entries that is false": entries_schema(False, good=False),  # noqa: FBT003
    "$ref": meta_schema({"$ref": "#"}, good=False),
    "$ref deep inside": meta_schema({"properties": {"x": {"anyOf": [{"$ref": "#"}]}}}, good=False),
    "$ref that is data": meta_schema({"not": {"const": {"$ref": 1}}}, good=False),
    "$ref as a value": meta_schema({"title": "$ref"}, good=True),
    "no $schema": meta_schema({}, good=True),
    "$schema with draft 7": meta_schema({"$schema": DRAFT_7}, good=True),
    "$schema with draft 7 without #": meta_schema({"$schema": DRAFT_7[:-1]}, good=False),
    "$schema with draft 4": meta_schema({"$schema": "http://json-schema.org/draft-04/schema#"}, good=False),
    "$schema that is a number": meta_schema({"$schema": 7}, good=False),
    "$schema that is null": meta_schema({"$schema": None}, good=False),
    "$schema of another draft inside": meta_schema({"allOf": [{"$schema": NEWER, "minProperties": 1}]}, good=False),
    "a keyword of another draft": meta_schema({"dependentRequired": {"x": ["y"]}}, good=True, meta={"x": 1}),
    "a keyword of another draft inside": meta_schema(
        {"allOf": [{"$schema": NEWER, "dependentRequired": {"x": ["y"]}}]}, good=False, meta={"x": 1}
    ),
    "a keyword of an older draft inside": meta_schema(
        {"allOf": [{"$schema": "http://json-schema.org/draft-03/schema#", "disallow": ["string"]}]}, good=True, meta={"x": 1}
    ),
    "a keyword of an older draft inside that is not satisfied": meta_schema(
        {"allOf": [{"$schema": "http://json-schema.org/draft-03/schema#", "disallow": ["object"]}]}, good=False, meta={"x": 1}
    ),
    "a keyword of another draft that fails": meta_schema(
        {"allOf": [{"$schema": "http://json-schema.org/draft-03/schema#", "disallow": "nonsense"}]}, good=False
    ),
    "a keyword of references that draft 7 does not know": meta_schema({"$dynamicRef": "http://127.0.0.1:9/"}, good=True),
    "$id elsewhere": meta_schema({"$id": "http://127.0.0.1:9/"}, good=True),
    "an invalid schema": meta_schema({"type": "objekt"}, good=False),
    "an invalid schema deep inside": meta_schema({"properties": {"x": {"minLength": "1"}}}, good=False),
    "an invalid pattern": meta_schema({"pattern": "("}, good=False),
    "a pattern that is too much": meta_schema({"pattern": "a{99999999999}"}, good=False),
    "a schema that is no JSON": meta_schema(b"type: object", good=False),
    "an empty schema": meta_schema(b"", good=False),
    "a schema that is no UTF-8": meta_schema(b'{"title": "\xff"}', good=False),
    "a schema with a byte order mark": meta_schema(b"\xef\xbb\xbf{}", good=False),
    "a schema that is UTF-16": meta_schema("{}".encode("utf-16"), good=False),
    "a schema that is a list": meta_schema([], good=False),
    "a schema that is null": meta_schema(None, good=False),
    "a schema with a key given twice": meta_schema(b'{"type": "array", "type": "object"}', good=True),
    "a schema that is not among the schemas": fails(META.replace("{s:", "{t:"), schemas={"s.json": {}}),
    "a schema, and no schemas": fails(one("metadata_schema: s")),
    "a schema of entries that is not among the schemas": fails(ENTRIES.replace("{s:", "{t:"), schemas={"s.json": {}}),
    "a schema without an id": passes(one("metadata_schema: '', entries_schema: ''")),
    "a schema that is not there": fails(META),
    "a schema that is not there, of another workflow": passes(
        META.replace("default_workflow: alpha", "default_workflow: b").replace("{alpha:", "{b: {name: B}, alpha:")
    ),
    "a schema that is a directory": fails(at("<BASE>"), schemas={"s.json": {}}),
    "a schema in a bucket that is not there": fails(at("s3://no-such-bucket/s.json")),
    "a bucket as schema": fails(at("s3://no-such-bucket")),
    "a version as schema": fails(at("<BASE>/s.json?versionId=none"), schemas={"s.json": {}}),
    "schemas for both": passes(BOTH, schemas={"m.json": AUTHOR, "e.json": CSV}, meta={"author": "me"}, message="hello"),
    "schemas for both, and entries that are wrong": fails(
        BOTH, schemas={"m.json": AUTHOR, "e.json": CSV}, meta={"author": "me"}, message="hello", files=("a.txt",)
    ),
    "two schemas at one URL": passes(SHARED, schemas={"s.json": {"minProperties": 1, "minItems": 1}}, meta={"x": 1}),
    "one schema for both": passes(SAME, schemas={"s.json": {}}),
    "one schema for both that is wrong for one": fails(SAME, schemas={"s.json": {"type": "object"}}),
    # URLs of schemas.
    **{
        f"URL {url!r}": fails(at(url), schemas={"s.json": {}})
        for url in (
            "",
            "s.json",
            "/s.json",
            "~/s.json",
            "https://example.com/s.json",
            "s3:s.json",
            "s3:///s.json",
            "s3://[b/s.json",
            "s3://Not A Bucket/s.json",
            "file:s.json",
            "file://host/s.json",
            "file:///s%00.json",
            "<BASE>/s.json?x=1",
            "<BASE>/s.json?versionId=a&x=1",
        )
    },
    **{
        f"URL {url!r}": passes(at(url), schemas={name: {}})
        for name, url in (
            ("s.json", "<BASE>/s.json#part"),
            ("s.json", "<BASE>/s.json?"),
            ("a b.json", "<BASE>/a b.json"),
            ("a b.json", "<BASE>/a%20b.json"),
            ("a+b;c=d.json", "<BASE>/a+b;c=d.json"),
            ("\u00e9.json", "<BASE>/\u00e9.json"),
            ("a%b.json", "<BASE>/a%25b.json"),
            ("a%zzb.json", "<BASE>/a%zzb.json"),
            ("s.json", " <BASE>/s.json"),
        )
    },
    "a URL with a tab": passes(at("<BASE>/s.json").replace("'<BASE>/s", '"<BASE>/s\\t').replace("json'", 'json"'), schemas={"s.json": {}}),
}  # fmt: skip

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture(scope="module")
def registry_bucket(s3: S3Server) -> str:
    """A versioned bucket whose workflows config each test writes anew."""
    return s3.make_bucket("oracle-workflows")


@pytest.fixture(scope="module")
def stores(s3: S3Server) -> Stores:
    """The storages through which our engine reads configs and schemas."""
    return Stores(LocalStorage(), S3Storage(s3.client()))


class Judges:
    """Both clients, judging the same package by the same config."""

    def __init__(self, quilt3: Quilt3, stores: Stores, registry: PhysicalKey) -> None:
        self._quilt3 = quilt3
        self._stores = stores
        self.registry = registry
        self._config = registry.join(CONFIG)

    def write(self, relative: str, data: bytes) -> PhysicalKey:
        """Write a file of the registry; return where it is, at its version."""
        key = self.registry.join(relative)
        return self._stores.of(key).put(key, data).key

    def write_config(self, data: bytes | None) -> None:
        """Put a config into the registry, or take it away."""
        if data is None:
            self._stores.of(self._config).delete([self._config])
        else:
            self.write(CONFIG, data)

    def ours(self, spec: Spec, choice: Choice) -> object:
        """Return the recorded workflow, or "refused"."""
        try:
            workflow = load_workflow(choice, self._read_config(), self._read)
            if workflow is None:
                return None
            entries = (
                {"logical_key": key, "size": Path(spec.files[key]).stat().st_size, "meta": spec.file_meta.get(key, {})}
                for key in sorted(spec.files, key=walk_order)
            )
            workflow.check(package=NAME, message=spec.message, user_meta=spec.meta or {}, entries=entries)
        except (WorkflowError, WorkflowConfigError):
            return "refused"
        return json.dumps(workflow.record)

    def quilt3s(self, spec: Spec, choice: Choice) -> object:
        """Return the workflow that quilt3 records, or "refused"."""
        where = self.registry.key if self.registry.is_local else f"s3://{self.registry.bucket}"
        try:
            top_hash = self._quilt3.build(where, NAME, spec, workflow=choice)
        except Quilt3Error:
            return "refused"
        header = self._quilt3.browse(where, NAME, top_hash)["header"]
        return json.dumps(header["workflow"]) if "workflow" in header else None

    def _read(self, key: PhysicalKey) -> StoredObject:
        return self._stores.of(key).get(key)

    def _read_config(self) -> StoredObject | None:
        try:
            return self._read(self._config)
        except ObjectNotFoundError:
            return None


@pytest.fixture(params=["disk", "s3"])
def judges(request: pytest.FixtureRequest, quilt3: Quilt3, stores: Stores, registry_bucket: str, tmp_path: Path) -> Judges:
    """Both clients with a registry on the disk, and with one on S3."""
    root = resolve_path(tmp_path / "registry") if request.param == "disk" else PhysicalKey(registry_bucket, "")
    return Judges(quilt3, stores, root)


@every_case
def test_verdict_and_record_agree(case: Case, judges: Judges, tmp_path: Path) -> None:
    spec = case.spec(tmp_path / "files")
    for name, data in case.schema_data().items():
        judges.write(f"schemas/{tmp_path.name}/{name}", data)
    base = re.sub(r"\?.*", "", str(judges.registry.join(f"schemas/{tmp_path.name}")))
    judges.write_config(case.config_data(base))
    quilt3s = judges.quilt3s(spec, case.choice)

    assert judges.ours(spec, case.choice) == quilt3s
    assert (quilt3s != "refused") == case.passes


def test_pinned_schema_is_recorded(quilt3: Quilt3, stores: Stores, registry_bucket: str, tmp_path: Path) -> None:
    judges = Judges(quilt3, stores, PhysicalKey(registry_bucket, ""))
    lax = judges.write("schemas/pinned.json", b"{}")
    strict = judges.write("schemas/pinned.json", b"false")
    spec = passes(None).spec(tmp_path)
    recorded = []
    for url in (str(lax), f"{lax}&versionId=other", str(strict), str(strict.at_version(None))):
        judges.write_config(at(url).encode())
        recorded.append(judges.quilt3s(spec, ...))
        assert judges.ours(spec, ...) == recorded[-1]

    assert lax.version_id
    assert lax.version_id in str(recorded[0])
    assert recorded[2:] == ["refused", "refused"]


def test_disk_registry_reads_s3_schema(quilt3: Quilt3, stores: Stores, registry_bucket: str, tmp_path: Path) -> None:
    schema = Judges(quilt3, stores, PhysicalKey(registry_bucket, "")).write("schemas/shared.json", b"{}")
    judges = Judges(quilt3, stores, resolve_path(tmp_path / "registry"))
    judges.write_config(at(f"s3://{registry_bucket}/schemas/shared.json").encode())
    spec = passes(None).spec(tmp_path / "files")
    recorded = judges.quilt3s(spec, ...)

    assert judges.ours(spec, ...) == recorded
    assert json.loads(str(recorded))["schemas"] == {"s": str(schema)}


@pytest.mark.parametrize("prefix", ["file://", "file://localhost", "FILE://"])
def test_local_schema_needs_local(prefix: str, quilt3: Quilt3, stores: Stores, registry_bucket: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{}")
    spec = passes(None).spec(tmp_path / "files")
    verdicts = []
    for root in (PhysicalKey(registry_bucket, ""), resolve_path(tmp_path / "registry")):
        judges = Judges(quilt3, stores, root)
        judges.write_config(at(f"{prefix}{tmp_path}/s.json").encode())
        verdicts.append(judges.quilt3s(spec, ...))
        assert judges.ours(spec, ...) == verdicts[-1]

    assert verdicts[0] == "refused" != verdicts[1]


def test_no_version_is_recorded(s3: S3Server, quilt3: Quilt3, stores: Stores, tmp_path: Path) -> None:
    bucket = s3.make_bucket("oracle-workflows-plain", versioned=False)
    judges = Judges(quilt3, stores, PhysicalKey(bucket, ""))
    judges.write("schemas/s.json", b"{}")
    judges.write_config(at(f"S3://{bucket}/schemas/s.json").encode())
    spec = passes(None).spec(tmp_path)
    recorded = judges.quilt3s(spec, ...)

    assert judges.ours(spec, ...) == recorded
    assert json.loads(str(recorded)) == {
        "id": "alpha",
        "config": f"s3://{bucket}/{CONFIG}",
        "schemas": {"s": f"s3://{bucket}/schemas/s.json"},
    }


def test_newer_draft_is_refused(quilt3: Quilt3, stores: Stores, registry_bucket: str, tmp_path: Path) -> None:
    judges = Judges(quilt3, stores, PhysicalKey(registry_bucket, ""))
    judges.write("schemas/newer.json", json.dumps({"allOf": [{"$schema": NEWER}]}).encode())
    judges.write_config(at(f"s3://{registry_bucket}/schemas/newer.json").encode())
    spec = passes(None).spec(tmp_path)

    assert judges.ours(spec, ...) == "refused"
    assert judges.quilt3s(spec, ...) != "refused"


def test_push_record_equals_build(quilt3: Quilt3, stores: Stores, registry_bucket: str, tmp_path: Path) -> None:
    judges = Judges(quilt3, stores, PhysicalKey(registry_bucket, ""))
    judges.write_config(two("is_workflow_required: false").encode())
    spec = passes(None).spec(tmp_path)
    for choice in (..., None, "beta"):
        top_hash = quilt3.push(f"s3://{registry_bucket}", NAME, spec, workflow=choice)
        header = quilt3.browse(f"s3://{registry_bucket}", NAME, top_hash)["header"]
        assert json.dumps(header["workflow"]) == judges.ours(spec, choice)
    with pytest.raises(Quilt3Error, match="Commit message is required"):
        quilt3.push(f"s3://{registry_bucket}", NAME, spec, workflow="alpha")
    assert judges.ours(spec, "alpha") == "refused"
