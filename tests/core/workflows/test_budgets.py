"""Configs and schemas of others are bounded in bytes and in steps; honest ones are applied as the library applies them."""

import json
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, SchemaError

from airflow_quilt.core.errors import ObjectTooLargeError, QuiltError, WorkflowConfigError, WorkflowError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.storage.local import LocalStorage
from airflow_quilt.core.storage.memory import MemoryStorage
from airflow_quilt.core.storage.stores import Stores
from airflow_quilt.core.workflows.config import check_config, load_workflow
from airflow_quilt.core.workflows.metered import MeteredSchema
from tests.property.hostile import INSTANCES, MIB, SCHEMAS, value_or_refusal

KIB: Final = 1024
CONFIG: Final = b"""version: '1'
default_workflow: a
workflows: {a: {name: A, metadata_schema: s}}
schemas: {s: {url: 's3://rules/s.json'}}
"""


def use(config: bytes, schema: bytes = b"{}", user_meta: object = None) -> object:
    """Load a workflow and apply it, as a push does, and check the config, as the connection test does."""
    memory = MemoryStorage(["registry", "rules"])
    stores, key = Stores(LocalStorage(), memory), PhysicalKey("registry", ".quilt/workflows/config.yml")
    memory.put(key, config)
    memory.put(PhysicalKey("rules", "s.json"), schema)
    stored = stores.text(key)
    check_config(stored, stores.text)
    workflow = load_workflow(..., stored, stores.text)
    assert workflow
    workflow.check(package="team/data", message=None, user_meta={} if user_meta is None else user_meta, entries=[])
    return workflow


def filled(config: bytes, size: int) -> bytes:
    return config + b"#" * (size - len(config))


def test_configs_and_schemas_have_1_mib() -> None:
    schema = b'{"type": "object"}'
    assert use(CONFIG, schema + b" " * (MIB - len(schema)))
    for config, rules in ((filled(CONFIG, MIB + 1), schema), (b"- [x, y]\n" * 350_000, schema), (CONFIG, schema + b" " * MIB)):
        with pytest.raises(
            (ObjectTooLargeError, WorkflowConfigError), match=r"bytes, and no more than 1,048,576 are read at once"
        ):
            use(config, rules)


CONFIGS: Final = {
    "lists": b"a: [" + b"[]," * (MIB // 3 - 9) + b"]",
    "lists in lists": b"[" * MIB,
    "aliases": b"a: &a x\nb: [" + b"*a," * (MIB // 3 - 9) + b"]",
    "a name of an anchor": b"a: *" + b"a" * (MIB // 4),
    "a workflow's name": b"version: '1'\nworkflows: {? " + b"a" * (MIB // 4) + b" : {}}",
    "workflows that are none": b"version: '1'\nworkflows:\n" + b"".join(b"  w%d: 1\n" % number for number in range(2000)),
    "a pattern": CONFIG.replace(b"name: A", b"name: A, handle_pattern: '" + b"(a|" * (MIB // 3 - 99) + b"'"),
    "a URL": CONFIG.replace(b"s3://rules/s.json", b"file:///" + b"a/" * (MIB // 2 - 150)),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_costly_config_is_refused(config: bytes) -> None:
    assert len(config) <= MIB
    result = value_or_refusal(lambda: use(config), seconds=8, memory=64 * MIB)

    assert isinstance(result, WorkflowConfigError)
    assert len(str(result)) < 8000
    assert result.__cause__ is None or len(str(result.__cause__)) < 8000


def many(value: object, size: int = 115 * KIB) -> list[Any]:
    return [value] * (size // (len(json.dumps(value)) + 2))


def nested(word: str, times: int, depth: int) -> Any:
    schema: Any = False
    for _ in range(depth):
        schema = {word: [schema] * times}
    return schema


NEVER: Final = False
DRAFT_4: Final = "http://json-schema.org/draft-04/schema#"
UNIQUE: Final = {"properties": {"x": {"uniqueItems": True}}}
OBJECTS: Final = {"x": [{"i": number} for number in range(1000)]}
MANY_OBJECTS: Final = {"x": [{"i": number} for number in range(8000)]}
MIXED: Final = {"x": [each for number in range(8000) for each in (number, str(number))]}
TEXT: Final = {"x": "y" * MIB}
COSTLY: Final[dict[str, tuple[Any, Any]]] = {
    "unique names that are objects": ({"required": [{"a": number} for number in range(9000)]}, {}),
    "unique types that are objects": ({"type": [{"a": number} for number in range(9000)]}, {}),
    "unique names of many kinds": ({"dependencies": {"a": [*map(str, range(9000)), []]}}, {}),
    "unique objects": (UNIQUE, MANY_OBJECTS),
    "unique values of many kinds": (UNIQUE, MIXED),
    "unique objects by an older draft": ({"allOf": [{"$schema": DRAFT_4, **UNIQUE}]}, MANY_OBJECTS),
    "many empty schemas, 1 MiB": ({"allOf": many({}, MIB - 99)}, {}),
    "many refusals, 1 MiB": ({"anyOf": many(NEVER, MIB - 99)}, OBJECTS),
    "refusals of refusals": (nested("anyOf", 8, 5), OBJECTS),
    "choices of choices": (nested("oneOf", 20, 3), OBJECTS),
    "patterns for a long text": ({"properties": {"x": {"anyOf": [{"pattern": f"^{n}"} for n in range(2000)]}}}, TEXT),
    "patterns for many keys": (
        {"patternProperties": {f"^{number}x": {} for number in range(1000)}},
        {str(number): 0 for number in range(3000)},
    ),
    "more patterns": ({"patternProperties": {f"^{number}x": {} for number in range(9000)}}, {}),
    "a list of values": ({"items": {"enum": [{"v": number} for number in range(1500)]}}, [{"v": -1}] * 1500),
    "each item of many rules": ({"properties": {"x": {"items": {"allOf": many({"not": {}}, 9 * KIB)}}}}, OBJECTS),
    "items that contain": ({"properties": {"x": {"allOf": [{"contains": {"const": n}} for n in range(1000)]}}}, OBJECTS),
    "additional items": ({"properties": {"x": {"anyOf": many({"items": [], "additionalItems": False}, 60 * KIB)}}}, OBJECTS),
    "additional properties": ({"anyOf": many({"additionalProperties": False}, 60 * KIB)}, {str(n): 0 for n in range(9000)}),
    "a pattern of 1 MiB": ({"pattern": "(a|" * (MIB // 3 - 99)}, {}),
}


@pytest.mark.parametrize(("schema", "user_meta"), COSTLY.values(), ids=COSTLY)
def test_costly_schema_ends(schema: object, user_meta: object) -> None:
    data = json.dumps(schema).encode()
    assert len(data) <= MIB
    result = value_or_refusal(lambda: use(CONFIG, data, user_meta), seconds=8, memory=192 * MIB)

    assert not isinstance(result, QuiltError) or len(str(result)) < 70_000


def violations(errors: Callable[[Any], Any], value: object) -> list[tuple[list[Any], str]] | type[Exception]:
    try:
        return [(list(error.path), error.message) for error in errors(value)]
    except Exception as error:  # noqa: BLE001  (of a dialect inside of it, whose keywords are unchecked)
        return type(error)


def same_violations(schema: Any, value: Any) -> None:
    try:
        Draft7Validator.check_schema(schema)
    except (SchemaError, OverflowError) as error:
        with pytest.raises(type(error)):
            MeteredSchema(schema)
        return
    ours, theirs = violations(MeteredSchema(schema).iter_errors, value), violations(Draft7Validator(schema).iter_errors, value)
    if isinstance(ours, list) and isinstance(theirs, list):
        assert [path for path, _ in ours] == [path for path, _ in theirs]
        assert all(one == other or len(other) > 400 for (_, one), (_, other) in zip(ours, theirs, strict=True))
    else:
        assert ours == theirs


SCALARS: Final = st.sampled_from([0, 1, 1.0, -0.0, True, False, None, "", "1", "a", 10**30, 1e30])
SMALL: Final = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)
RULES: Final = st.recursive(
    st.booleans()
    | st.fixed_dictionaries({"enum": st.lists(SMALL, max_size=4)})
    | st.fixed_dictionaries({"const": SMALL})
    | st.sampled_from([{"uniqueItems": True}, {"type": "integer"}, {"minItems": 2}, {"required": ["a"]}, {"maxLength": 0}]),
    lambda inner: st.fixed_dictionaries({"$schema": st.sampled_from([DRAFT_4, Draft7Validator.META_SCHEMA["$id"]]), "not": inner})
    | st.fixed_dictionaries({"properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2), "items": inner})
    | st.fixed_dictionaries({"patternProperties": st.dictionaries(st.sampled_from(["a", "."]), inner, min_size=1, max_size=2)})
    | st.fixed_dictionaries({}, optional={"additionalProperties": inner, "contains": inner, "if": inner, "then": inner})
    | st.lists(inner, min_size=1, max_size=3).flatmap(lambda all_: st.sampled_from(["allOf", "anyOf", "oneOf"]).map(lambda w: {w: all_})),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=100)
@given(RULES, SMALL)
@example({"uniqueItems": True}, [1, True, 1.0])
@example({"uniqueItems": True}, [{"a": 1}, {"a": True}])
@example({"uniqueItems": True}, [[0], [False], 0, False])
@example({"enum": [1, "a", [1]]}, [True])
@example({"enum": [1, "a", [1]]}, [1.0])
def test_rules_mean_the_same(schema: Any, value: Any) -> None:
    same_violations(schema, value)


@settings(max_examples=50)
@given(SCHEMAS, INSTANCES)
def test_any_schema_means_the_same(schema: Any, value: Any) -> None:
    same_violations(schema, value)


QUILTS: Final = {  # As in Quilt's documentation: https://docs.quilt.bio/workflows.
    "$schema": "http://json-schema.org/draft-07/schema#",
    "allOf": [
        {"type": "array", "items": {"properties": {"size": {"type": "number", "minimum": 1, "maximum": 100000}}}, "minItems": 2},
        {"type": "array", "contains": {"properties": {"logical_key": {"type": "string", "pattern": "^README\\.md$"}}}},
    ],
    "uniqueItems": True,
}


def test_honest_packages_are_within_it() -> None:
    entries = [
        {"logical_key": f"a/{number}", "size": number + 1, "meta": {"n": number, "x": ["y"] * 20}} for number in range(3000)
    ]
    schema = MeteredSchema(QUILTS)

    assert [error.validator for error in schema.iter_errors(entries)] == ["contains"]
    assert list(schema.iter_errors([*entries, {"logical_key": "README.md", "size": 1, "meta": {}}])) == []
    names = [f"species {number}" for number in range(20_000)]
    listed = MeteredSchema({"items": {"properties": {"meta": {"properties": {"n": {"enum": names}}}}}})
    assert len(list(listed.iter_errors(entries))) == len(entries)
    wide = MeteredSchema(
        {"properties": {name: {"type": "string", "minLength": 1} for name in names[:3000]}, "required": names[:3000]}
    )
    assert list(wide.iter_errors(dict.fromkeys(names[:3000], "x"))) == []


def test_violation_count_is_kept() -> None:
    with pytest.raises(WorkflowError) as caught:
        use(CONFIG, json.dumps({"additionalProperties": {"type": "string"}}).encode(), {str(n): n for n in range(5000)})

    assert len(caught.value.violations) == 5000
