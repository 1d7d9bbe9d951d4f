"""The workflows config of a registry: a YAML file, and the JSON schemas that it names, at any location.

Its rules are quilt3's.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from types import EllipsisType
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from jsonschema import Draft7Validator, SchemaError
from jsonschema.validators import validator_for

from airflow_quilt.core.errors import LocationError, StorageError, WorkflowConfigError, plain, quoted
from airflow_quilt.core.format.hints import did_you_mean
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.format.web_url import refuse_login
from airflow_quilt.core.storage.objects import StoredObject
from airflow_quilt.core.storage.paths import resolve_location
from airflow_quilt.core.workflows.bounded_yaml import YAML_ERRORS, parse_yaml
from airflow_quilt.core.workflows.metered import DIALECTS, BudgetError, MeteredSchema
from airflow_quilt.core.workflows.rules import Schema, Workflow, sorted_errors, violation

Choice = str | EllipsisType | None
"""The id of a workflow, None for no workflow, or ``...`` for the registry's default."""

_NEWEST_VERSION: Final = (1, 1, 0)
_META_SCHEMA: Final = "http://json-schema.org/draft-07/schema#"
_MOST_PATTERNS: Final = 1000
"""Maximum ``patternProperties`` of one object in a schema: for each key of a value they are searched one after the other."""
_LONGEST_PATTERN: Final = 65_536
_MOST_SHOWN: Final = 20

_FLAG: Final = {"type": "boolean"}
_TEXT: Final = {"type": "string"}
_WORDS: Final = {"type": "string", "minLength": 1}
_VERSION: Final = {"type": "string", "pattern": r"^[1-9][0-9]*(\.(0|[1-9][0-9]*)){0,2}$"}

_CONFIG = Draft7Validator(
    {
        "type": "object",
        "required": ["version", "workflows"],
        "additionalProperties": False,
        "properties": {
            "version": {
                **_VERSION,
                "type": ["string", "object"],
                "required": ["base"],
                "additionalProperties": False,
                "properties": {"base": _VERSION, "catalog": _VERSION},
            },
            "catalog": True,
            "is_workflow_required": _FLAG,
            "default_workflow": _TEXT,
            "workflows": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"pattern": "^[A-Za-z_-][A-Za-z0-9_-]*$", "maxLength": 64},
                "additionalProperties": {
                    "type": "object",
                    "required": ["name"],
                    "additionalProperties": False,
                    "properties": {
                        "catalog": True,
                        "name": _WORDS,
                        "description": _WORDS,
                        "handle_pattern": _TEXT,
                        "metadata_schema": _TEXT,
                        "entries_schema": _TEXT,
                        "is_message_required": _FLAG,
                    },
                },
            },
            "schemas": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {"type": "object", "required": ["url"], "properties": {"url": _TEXT}},
            },
            "successors": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {
                    "type": "object",
                    "required": ["title"],
                    "properties": {"title": _WORDS, "copy_data": _FLAG},
                },
            },
        },
    }
)


def load_workflow(choice: Choice, config: StoredObject | None, read: Callable[[PhysicalKey], StoredObject]) -> Workflow | None:
    """Load the chosen workflow with its schemas.

    Args:
        choice: the workflow.
        config: the workflows config of the registry, or None if it has none.
        read: reads a schema; nothing is fetched in any other way.

    Returns:
        The workflow, or None without a config. For None as choice in a registry with a config: a workflow that demands
        nothing, which the package's header records.

    Raises:
        WorkflowConfigError: the config or a schema cannot be used; the workflow is not in the config; the choice is None
            although the config requires a workflow; or it is not ``...`` although there is no config.
    """
    if choice is not None and not isinstance(choice, str | EllipsisType):
        raise WorkflowConfigError(
            f"workflow {quoted(choice)}: expected the id of a workflow, or None, got {type(choice).__name__}"
        )
    if config is None:
        if choice is ...:
            return None
        raise WorkflowConfigError(f"workflow {quoted(choice)}: the registry has no workflows config; leave the workflow out")
    label = f"workflows config {config.key}"
    settings = _parse_config(config.data, label)
    name, rules = _choose(choice, settings, label)
    pattern = _parse_pattern(rules.get("handle_pattern"), f"{label}: workflow {quoted(name)}")
    used = [schema for schema in (rules.get("metadata_schema"), rules.get("entries_schema")) if schema]
    loaded = _load_schemas(used, settings.get("schemas", {}), config.key, read)
    record: dict[str, Any] = {"id": name, "config": str(config.key)}
    if loaded:
        record["schemas"] = {schema: str(loaded[schema].key) for schema in loaded}
    return Workflow(
        record,
        pattern,
        rules.get("is_message_required", False),
        loaded.get(rules.get("metadata_schema", "")),
        loaded.get(rules.get("entries_schema", "")),
    )


def check_config(config: StoredObject, read: Callable[[PhysicalKey], StoredObject]) -> str:
    """Check a config and every schema that its workflows use; return the workflows' names as one ``str``.

    Raises:
        WorkflowConfigError: the config or a schema cannot be used.
    """
    label = f"workflows config {config.key}"
    settings = _parse_config(config.data, label)
    for name, rules in settings["workflows"].items():
        _parse_pattern(rules.get("handle_pattern"), f"{label}: workflow {quoted(name)}")
        used = [rules[kind] for kind in ("metadata_schema", "entries_schema") if rules.get(kind)]
        _load_schemas(used, settings.get("schemas", {}), config.key, read)
    return _names(settings["workflows"])


def _parse_config(data: bytes, label: str) -> dict[str, Any]:
    try:
        config: dict[str, Any] = parse_yaml(data.decode())
        errors = list(sorted_errors(_CONFIG, config))
    except YAML_ERRORS as error:
        raise WorkflowConfigError(f"{label}: cannot be read as YAML: {plain(error)}") from None
    if errors:
        lines = "\n".join("- " + violation("config", path, text) for path, text in errors[:_MOST_SHOWN])
        raise WorkflowConfigError(f"{label}: not a workflows config as Quilt defines it:\n{lines}")
    version = config["version"] if isinstance(config["version"], str) else config["version"]["base"]
    if not _is_supported(version):
        newest = ".".join(map(str, _NEWEST_VERSION))
        raise WorkflowConfigError(f"{label}: version {quoted(version)} is not supported, the newest that is: {newest!r}")
    return config


def _is_supported(version: str) -> bool:
    try:
        return tuple(map(int, version.split("."))) <= _NEWEST_VERSION
    except ValueError:  # Python limits the digits of an int.
        return False


def _choose(choice: Choice, settings: Mapping[str, Any], label: str) -> tuple[str | None, Mapping[str, Any]]:
    workflows = settings["workflows"]
    name = settings.get("default_workflow") if choice is ... else choice
    if name is None:
        if settings.get("is_workflow_required", True):
            raise WorkflowConfigError(f"workflow: choose one of {_names(workflows)}; {label} requires one, and none was chosen")
        return None, {}
    if name not in workflows:
        default = "the default workflow" if choice is ... else "workflow"
        hint = did_you_mean(str(name), map(str, workflows))
        raise WorkflowConfigError(f"{label}: {default} {quoted(name)} is not in it{hint or ';'} there are {_names(workflows)}")
    return name, workflows[name]


def _names(workflows: Iterable[object]) -> str:
    return plain(", ".join(map(repr, workflows)))


def _parse_pattern(pattern: str | None, label: str) -> re.Pattern[str] | None:
    if not pattern:
        return None
    if len(pattern) > _LONGEST_PATTERN:
        raise WorkflowConfigError(f"{label}: handle_pattern has more than {_LONGEST_PATTERN:,} characters")
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise WorkflowConfigError(
            f"{label}: handle_pattern {quoted(pattern)} is not a regular expression: {plain(error)}"
        ) from None


def _load_schemas(
    used: Iterable[str], schemas: Mapping[str, Any], config: PhysicalKey, read: Callable[[PhysicalKey], StoredObject]
) -> dict[str, Schema]:
    loaded: dict[str, Schema] = {}
    by_key: dict[PhysicalKey, Schema] = {}
    for schema in used:
        label = f"workflows config {config}: schema {quoted(schema)}"
        if schema not in schemas:
            raise WorkflowConfigError(f"{label} is not among its schemas")
        url = schemas[schema]["url"]
        key = _parse_url(url, label)
        if key.is_local and not config.is_local:
            raise WorkflowConfigError(f"{label}: {quoted(url)} is a local file, which a registry on S3 cannot use; put it on S3")
        if key not in by_key:
            by_key[key] = _load_schema(key, f"{label} at {url}", read)
        loaded[schema] = by_key[key]
    return loaded


def _parse_url(url: str, label: str) -> PhysicalKey:
    """Return the location of a schema; as in quilt3, the rules are laxer than for other URLs."""
    try:
        refuse_login(url)
        parts = urlsplit(url)
        if parts.scheme == "file":
            return resolve_location(f"file://{parts.netloc}{parts.path}" + (f"?{parts.query}" if parts.query else ""))
        query = parse_qs(parts.query)
        versions = query.pop("versionId", [None])
        if parts.scheme == "s3" and parts.netloc and not query:
            key = PhysicalKey(parts.netloc, unquote(parts.path)[1:], versions[0])
            return PhysicalKey.parse(str(key))  # It is recorded, so it must print and parse.
    except (LocationError, ValueError) as error:
        raise WorkflowConfigError(f"{label}: {plain(error)}") from None
    raise WorkflowConfigError(f"{label}: {quoted(url)}: expected s3://bucket/key, ?versionId=… after it or not, or file:///path")


def _load_schema(key: PhysicalKey, label: str, read: Callable[[PhysicalKey], StoredObject]) -> Schema:
    try:
        stored = read(key)
    except StorageError as error:
        if error.transient:
            raise
        raise WorkflowConfigError(f"{label}: cannot be read: {error}") from error
    try:
        schema = json.loads(stored.data.decode(), object_hook=_check_object)
    except (ValueError, RecursionError) as error:
        raise WorkflowConfigError(f"{label}: not a JSON schema that Quilt can use: {plain(error)}") from None
    if isinstance(schema, dict) and schema.get("$schema", _META_SCHEMA) != _META_SCHEMA:
        raise WorkflowConfigError(f"{label}: '$schema' is {quoted(schema['$schema'])}, Quilt knows only {_META_SCHEMA!r}")
    try:
        return Schema(label, stored.key, MeteredSchema(schema))
    except BudgetError as error:
        raise WorkflowConfigError(f"{label}: to check it takes {error}") from None
    except (SchemaError, OverflowError, RecursionError) as error:
        reason = violation("schema", error.path, plain(error.message)) if isinstance(error, SchemaError) else plain(error)
        raise WorkflowConfigError(f"{label}: not valid by draft 7: {reason}") from None


def _check_object(values: dict[str, Any]) -> dict[str, Any]:
    """Refuse constructs that multiply the work of validation: references, dialects that have other ones, endless patterns."""
    if "$ref" in values:
        raise ValueError("'$ref' is not supported, write what it refers to in its place")
    dialect = values.get("$schema")
    if isinstance(dialect, str) and validator_for(values, default=Draft7Validator) not in DIALECTS:
        raise ValueError(f"'$schema' is {quoted(dialect)}, later than draft 7: write that schema in draft 7")
    patterns = values.get("patternProperties")
    if not isinstance(patterns, dict):  # The schema of schemas refuses it.
        patterns = {}
    if len(patterns) > _MOST_PATTERNS:
        raise ValueError(f"an object with more than {_MOST_PATTERNS:,} 'patternProperties'")
    if any(isinstance(each, str) and len(each) > _LONGEST_PATTERN for each in (*patterns, values.get("pattern"))):
        raise ValueError(f"a pattern of more than {_LONGEST_PATTERN:,} characters")
    return values
