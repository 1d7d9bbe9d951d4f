"""The rules of a workflow, and the check of a package against them: quilt3's."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jsonschema import Draft7Validator

from airflow_quilt.core.errors import WorkflowConfigError, WorkflowError, plain, quoted
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.workflows.metered import BudgetError, MeteredSchema


@dataclass(frozen=True, slots=True)
class Schema:
    """A JSON schema.

    Attributes:
        label: its name in messages.
        key: its location, at the version that was read.
        rules: the schema, which checks JSON values.
    """

    label: str
    key: PhysicalKey
    rules: MeteredSchema

    def errors(self, instance: object) -> Iterator[tuple[list[Any], str]]:
        """Yield the place and the message of each violation, in the order of places.

        Raises:
            WorkflowConfigError: the schema cannot be applied.
        """
        try:
            return sorted_errors(self.rules, instance)
        except BudgetError as error:
            raise WorkflowConfigError(f"{self.label}: to apply it to this package takes {error}") from None
        except Exception as error:  # A schema inside a schema may choose a dialect whose keywords are unchecked.
            raise WorkflowConfigError(f"{self.label}: cannot be applied to this package: {plain(repr(error))}") from error


@dataclass(frozen=True, slots=True)
class Workflow:
    """The workflow that a package must satisfy.

    Attributes:
        record: ``id``, ``config`` and, if there are any, ``schemas``, for the header of the package; config and schemas are
            at the versions that were read.
    """

    record: Mapping[str, Any]
    _name_pattern: re.Pattern[str] | None = field(default=None, repr=False)
    _message_required: bool = field(default=False, repr=False)
    _metadata_schema: Schema | None = field(default=None, repr=False)
    _entries_schema: Schema | None = field(default=None, repr=False)

    def check(self, *, package: str, message: str | None, user_meta: object, entries: Iterable[Mapping[str, Any]]) -> None:
        """Check a package before it is published.

        Args:
            package: its name.
            message: its message.
            user_meta: its metadata, ``{}`` where none was set.
            entries: ``logical_key``, ``size`` and ``meta`` (the user's, ``{}`` for none) of each entry, in walk order; read
                only if the workflow has a schema for entries.

        Raises:
            WorkflowError: the package breaks rules of the workflow; the error lists all violations.
            WorkflowConfigError: a schema cannot be applied.
        """
        violations: list[str] = []
        if self._message_required and not message:
            violations.append("a message is required")
        if self._name_pattern and not self._name_pattern.search(package):
            violations.append(f"package name {quoted(package)} does not match the pattern {quoted(self._name_pattern.pattern)}")
        if self._metadata_schema:
            violations += [violation("metadata", path, text) for path, text in self._metadata_schema.errors(user_meta)]
        if self._entries_schema:
            violations += _check_entries(self._entries_schema, [dict(entry) for entry in entries])
        if violations:
            raise WorkflowError(self.record["id"], violations)


def _check_entries(schema: Schema, entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for path, text in schema.errors(entries):
        if path:
            index, *inside = path
            yield violation(f"entry {quoted(entries[index]['logical_key'])}", inside, text)
        else:
            yield violation("entries", path, text)


def sorted_errors(validator: Draft7Validator | MeteredSchema, instance: object) -> Iterator[tuple[list[Any], str]]:
    """Yield the place and the message of each violation, in the order of places."""
    errors = [(list(error.path), plain(error.message)) for error in validator.iter_errors(instance)]
    errors.sort(key=lambda error: [(0, part, "") if isinstance(part, int) else (1, 0, str(part)) for part in error[0]])
    return iter(errors)


def violation(document: str, path: Iterable[Any], text: str) -> str:
    """Return the line of a violation: the document, the place in it, and the message of the validator."""
    place = "".join(f".{part}" if isinstance(part, str) and part.isprintable() else f"[{quoted(part)}]" for part in path)
    return f"{document} at {plain(place.removeprefix('.'))}: {text}" if place else f"{document}: {text}"
