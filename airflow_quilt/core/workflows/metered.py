"""JSON schemas applied within a budget of steps, also to themselves (draft 7), by the rules of the library jsonschema.

Without references, each part of a schema meets each part of a value once at most, so the work is at most their product; this is
far more than honest schemas need. So values and schemas are copied to lists and objects that count how often they are read. Two
keywords, whose work would grow with the square of a list, are written anew with the same meaning. Messages show the beginning
and the end of a value, as printed whole it would be copied into the message of every rule that it breaks.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, SupportsIndex, cast

from jsonschema import Draft3Validator, Draft4Validator, Draft6Validator, Draft7Validator, SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry

_MOST_LETTERS: Final = 400
"""Characters of a value in a message, which is shortened further."""
_LETTERS_FOR_EACH: Final = 25
"""Characters of a text that count as a value."""
_FEW: Final = _MOST_LETTERS // _LETTERS_FOR_EACH
"""Values that are read without being counted, as the entries of a package are: what they cost is in that of a step."""
_SCHEMA_STEPS: Final = 500_000
"""Steps to check a schema itself: enough for about 50,000 schemas inside of it."""
_STEPS: Final = 300_000
_STEPS_FOR_EACH: Final = 60
"""Steps for every value, list and object that a schema is applied to, beside the first :data:`_STEPS`."""


class BudgetError(ValueError):
    """A schema takes more steps than its budget."""


class Meter:
    """A budget of steps, shared by the parts of a schema and of the value that it is applied to."""

    def __init__(self) -> None:
        self._most = self._left = 0

    def begin(self, steps: int) -> None:
        """Start with a new budget."""
        self._most = self._left = steps

    def charge(self, steps: int) -> None:
        """Count steps.

        Raises:
            BudgetError: there are more than the budget has.
        """
        self._left -= steps
        if self._left < 0:
            raise BudgetError(f"more than {self._most:,} steps; make the schema simpler, or the values fewer")


class _Shown:
    """A list or an object that a message shows the beginning of."""

    meter: Meter

    def __repr__(self) -> str:
        if isinstance(self, dict):
            return _shown(self.meter, "{}", (f"{key!r}: {value!r}" for key, value in dict.items(self)), len(self))
        values: list[Any] = cast("list[Any]", self)
        return _shown(self.meter, "[]", map(repr, list.__iter__(values)), len(values))


class _Rules(_Shown, dict[Any, Any]):
    """A schema, or another object inside of it; ``weight`` is the number of steps to apply it, without the schemas below."""

    weight: int


class _RuleList(_Shown, list[Any]):
    """A list inside a schema."""


class _Enum(_RuleList):
    """The values of ``enum``, with one lookup for all."""

    known: frozenset[Any]


class _Object(_Shown, dict[Any, Any]):
    """An object that a schema is applied to."""

    def items(self) -> Any:
        self.meter.charge(1 + len(self))
        return super().items()

    def __iter__(self) -> Iterator[Any]:
        self.meter.charge(1 + len(self))
        return super().__iter__()


class _List(_Shown, list[Any]):
    """A list that a schema is applied to."""

    def __iter__(self) -> Iterator[Any]:
        self.meter.charge(1 + len(self))
        return super().__iter__()

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = super().__getitem__(index)
        if isinstance(index, slice):
            found = _List(found)
            found.meter = self.meter
        return found


class _LongText(str):
    __slots__ = ()

    def __repr__(self) -> str:
        half = _MOST_LETTERS // 2
        return repr(f"{self[:half]} … {self[-half:]}")


def _shown(meter: Meter, brackets: str, parts: Iterator[str], count: int) -> str:
    """Return a list or an object as Python prints it, of a long one its beginning."""
    texts, size = [], 0
    for number, text in enumerate(parts):
        meter.charge(1)
        texts.append(text)
        size += len(text)
        if size > _MOST_LETTERS and number + 1 < count:
            texts.append("…")
            break
    return f"{brackets[0]}{', '.join(texts)}{brackets[1]}"


class _Copy:
    """Copies of JSON values that count how often their parts are read.

    Attributes:
        size: the number of values so far; a long text counts as several.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.size = 0

    def __call__(self, value: Any) -> Any:
        """Return a copy, or the value itself if it has but a few values."""
        if isinstance(value, str):
            return self._text(value)
        before = self.size
        self.size += 1
        made: _Object | _List
        if isinstance(value, dict):
            made = _Object([(self._text(key), self(item)) for key, item in value.items()])
        elif isinstance(value, list):
            made = _List(map(self, value))
        else:
            return value
        made.meter = self._meter
        return made if self.size - before > _FEW else value

    def _text(self, value: str) -> str:
        self.size += 1 + len(value) // _LETTERS_FOR_EACH
        return _LongText(value) if len(value) > _MOST_LETTERS else value


def _rules(value: Any, meter: Meter) -> Any:
    """Return a copy of a schema that counts how often its parts are applied."""
    if isinstance(value, dict):
        made = _Rules((_text(key), _rules(item, meter)) for key, item in value.items())
        made.meter = meter
        made.weight = 1 + sum(_weight(word, item) for word, item in value.items())
        if isinstance(value.get("enum"), list):
            made["enum"] = _enum_of(value["enum"], meter)
        return made
    if isinstance(value, list):
        items = _RuleList(_rules(item, meter) for item in value)
        items.meter = meter
        return items
    return _text(value)


def _weight(word: str, item: object) -> int:
    """Return the steps of one keyword: those that a list of refusals takes, or to find the properties that are there."""
    if isinstance(item, list) and word not in {"enum", "const"}:
        return 1 + len(item)
    return 1 + len(item) // _FEW if isinstance(item, dict) else 1


def _enum_of(values: list[Any], meter: Meter) -> _Enum:
    made = _Enum(_rules(value, meter) for value in values)
    made.meter = meter
    made.known = frozenset(map(_identity, values))
    return made


def _text(value: Any) -> Any:
    return _LongText(value) if isinstance(value, str) and len(value) > _MOST_LETTERS else value


def _identity(value: Any) -> Any:
    """Return a hashable that is equal for values that JSON Schema holds equal: 1 is 1.0, and true is not 1."""
    if isinstance(value, dict):
        return ("object", frozenset((key, _identity(item)) for key, item in value.items()))
    if isinstance(value, list):
        return ("list", tuple(map(_identity, value)))
    return ("bool", value) if isinstance(value, bool) else value


def _unique_items(validator: Validator, is_wanted: object, instance: Any, _schema: object) -> Iterator[ValidationError]:
    if is_wanted and validator.is_type(instance, "array"):
        seen = {_identity(item) for item in instance}
        if len(seen) < len(instance):
            yield ValidationError(f"{instance!r} has non-unique elements")


def _enum(_validator: Validator, values: Any, instance: Any, _schema: object) -> Iterator[ValidationError]:
    known = values.known if isinstance(values, _Enum) else frozenset(map(_identity, values))
    if _identity(instance) not in known:
        yield ValidationError(f"{instance!r} is not one of {values!r}")


def _evolve(self: Any, **changes: Any) -> Any:
    """Return a validator of a schema inside the schema; one that names a dialect gets our class of that dialect."""
    schema, kind = changes.setdefault("schema", self.schema), type(self)
    if isinstance(schema, _Rules):
        schema.meter.charge(schema.weight)
        if "$schema" in schema:
            kind = _CLASSES.get(validator_for(schema, default=kind), kind)
    for name, alias in self.copied:
        if alias not in changes:
            changes[alias] = getattr(self, name)
    return kind(**changes)


_extend: Any = extend  # Its types name the validators of one dialect.


def _make_class(dialect: Any) -> Any:
    made: Any = _extend(dialect, {"uniqueItems": _unique_items, "enum": _enum})
    made.evolve = _evolve
    made.copied = [(field.name, field.alias) for field in made.__attrs_attrs__ if field.init]
    return made


_CLASSES: Final[Mapping[Any, Any]] = {
    dialect: _make_class(dialect) for dialect in (Draft3Validator, Draft4Validator, Draft6Validator, Draft7Validator)
}
DIALECTS: Final = frozenset(_CLASSES)
"""Dialects for a schema inside a schema: without '$ref' they validate each part of it once."""


class MeteredSchema:
    """A JSON schema of draft 7, without references.

    Args:
        schema: the schema.

    Raises:
        SchemaError: it is not valid by draft 7.
        BudgetError: it takes too many steps to find out.
    """

    def __init__(self, schema: Any) -> None:
        self._meter = Meter()
        self._meter.begin(_SCHEMA_STEPS)
        kind = _CLASSES[Draft7Validator]
        rules = _rules(Draft7Validator.META_SCHEMA, self._meter)
        for error in kind(rules, format_checker=Draft7Validator.FORMAT_CHECKER).iter_errors(_Copy(self._meter)(schema)):
            raise SchemaError.create_from(error)
        self._validator = kind(_rules(schema, self._meter), registry=Registry())  # This registry fetches nothing.

    def iter_errors(self, value: Any) -> Iterator[ValidationError]:
        """Yield the violations of a value.

        Raises:
            BudgetError: to find them takes too many steps.
        """
        copy = _Copy(self._meter)
        copied = copy(value)
        self._meter.begin(_STEPS + _STEPS_FOR_EACH * copy.size)
        for error in self._validator.iter_errors(copied):
            self._meter.charge(10)
            yield error
