"""The check of a task while its DAG is parsed: a mistake that holds no template fails the import of the DAG, and not its runs."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import Asset, ObjectStoragePath
from airflow.sdk.bases.operator import BaseOperatorMeta

from airflow_quilt.core.errors import InputError
from airflow_quilt.core.format.hints import did_you_mean
from airflow_quilt.operators._known import Known
from airflow_quilt.operators._mapped import given_to_all
from airflow_quilt.operators._values import TEXTS, plain, text

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_quilt.operators._arguments import ArgumentsOperator
_OWN_WORK: Final = ("execute", "pre_execute", "render_template_fields", "inputs")
"""Methods in which a subclass of the user's may give arguments that its constructor leaves open."""
_OF_DECORATORS: Final = frozenset({"is_setup", "is_teardown", "on_failure_fail_dagrun"})
"""Arguments that Airflow adds to those of a decorated function, and takes away again."""
_MOST: Final = 10
"""The most faults of a task that a message has."""


class CheckedOperator(BaseOperatorMeta):
    """The class of operator classes whose arguments are checked as soon as a task is made.

    That is after the last of its constructors, also that of a subclass, which may change arguments.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make a task, and check it; an instance of a mapped task is made when it runs, and is checked then.

        Raises:
            InputError: arguments can never work, are missing or do not exist; the message names the task and each of them.
        """
        if "_airflow_from_mapped" in kwargs:
            return super().__call__(*args, **kwargs)
        task_id = kwargs.get("task_id")
        # Raised from here: Airflow shows the last two frames, and so the line of the DAG too.
        try:
            made: ArgumentsOperator = super().__call__(*args, **kwargs)
            task_id, faults = made.task_id, list(_faults_of_task(made))
        except InputError as error:
            faults = [str(error)]
        except TypeError as error:
            if not (faults := misnamed(self, kwargs, error)):
                raise
        if faults:
            raise failure(task_id, faults) from None
        return made


def failure(task_id: object, faults: Iterable[str]) -> InputError:
    """Return the error of a task with some faults."""
    different = list(dict.fromkeys(faults))
    more = [f"and {len(different) - _MOST:,} more"] if len(different) > _MOST else []
    return InputError(f"task {task_id!r}: " + "\n".join([*different[:_MOST], *more]))


@cache
def parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of all constructors of an operator class."""
    found: dict[str, inspect.Parameter] = {}
    for each in reversed(kind.__mro__):
        if "__init__" in vars(each):
            found.update(inspect.signature(each.__init__).parameters)  # type: ignore[misc]
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: each for name, each in found.items() if name != "self" and each.kind not in rest}


@cache
def _defaults(kind: type) -> Mapping[str, Any]:
    """Return the defaults of the parameters; without their signatures, which take longer than all the checks."""
    found: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        found.update(getattr(inspect.unwrap(vars(each).get("__init__", each)), "__kwdefaults__", None) or {})
    return found


def misnamed(kind: type, given: Iterable[str], error: TypeError) -> list[str]:
    """Return the faults behind an error of Airflow's about names of arguments: those that do not exist, or are missing.

    An empty list for an error about anything else.
    """
    known, said = parameters(kind), str(error)
    is_missing = said.startswith("missing keyword argument")
    unknown = [name for name in given if name not in known and (is_missing or f"'{name}'" in said)]
    missing = re.findall(r"'(\w+)'", said) if is_missing and not unknown else []
    return [*map(_unknown(kind), unknown), *map(_missing, missing)]


def _missing(name: str) -> str:
    return f"{name} is missing: give a value"


def _unknown(kind: type) -> Callable[[str], str]:
    def fault(name: str) -> str:
        ours: Iterable[str] = kind._own_fields()  # type: ignore[attr-defined]  # noqa: SLF001
        meant = (
            did_you_mean(name, ours)
            or did_you_mean(name, parameters(kind))
            or f"; the arguments are {', '.join(ours)}, and those of every task"
        )
        return f"there is no argument {name!r}{meant}"

    return fault


def _faults_of_task(task: "ArgumentsOperator") -> Iterator[str]:
    kind = type(task)
    if _is_ours(kind):
        is_native = getattr(task, "render_template_as_native_obj", None)
        known = Known(task.get_dag(), kind.template_ext, is_native=is_native)
        given = {name: getattr(task, name) for name in kind._own_fields()}  # noqa: SLF001
        yield from faults_of(kind, given, known)


def _is_ours(kind: type) -> bool:
    """Return whether a class does its work as ours do, so that its arguments are complete when it is made."""
    methods = (getattr(kind, name, None) for name in _OWN_WORK)
    return all(method.__module__.startswith(("airflow.", "airflow_quilt.")) for method in methods if method is not None)


def faults_of(kind: "type[ArgumentsOperator]", given: Mapping[str, Any], known: Known) -> Iterator[str]:
    """Yield the faults of the arguments of a task, as far as they are known."""
    faults = [fault for name, value in given.items() if (fault := _fault(kind, name, value, known))]
    yield from faults
    if not faults:
        try:
            kind.check_together(given, known)
        except InputError as error:
            yield str(error)


def _fault(kind: "type[ArgumentsOperator]", name: str, value: Any, known: Known) -> str | None:
    try:
        if value is None:
            if name in kind.required:
                return f"{name} is None: give a value"
            if name not in kind.checks or _defaults(kind).get(name, ...) is None:
                return None
        elif not _is_checked(kind, name, value, known):
            return None
        elif name in TEXTS:
            value = text(name, value)
        else:
            value = _given(value, known)
        if (check := kind.checks.get(name)) and value is not ...:
            check(value, known)
    except InputError as error:
        fault = str(error)
        return fault if fault.startswith((name, name.replace("_", " "))) else f"{name}: {fault}"
    return None


def _is_checked(kind: "type[ArgumentsOperator]", name: str, value: object, known: Known) -> bool:
    if name not in TEXTS and name not in kind.checks:  # Such as the arguments of a decorated function.
        return False
    if callable(value):  # Airflow calls it while it renders, for a rendered value.
        return name in kind.callbacks
    if isinstance(value, str) and name not in TEXTS and known.is_native:
        return False
    return name == "entries" or known(value)


def _given(value: Any, known: Known) -> Any:
    """Return a value with the URLs of assets and storage paths, as :func:`plain` does when the task runs; reads no sequence."""
    match value:
        case Asset() | ObjectStoragePath() if known(value):
            return plain(value)
        case dict():
            return {key: _given(item, known) for key, item in value.items()}
        case list() | tuple():
            return [_given(item, known) for item in value]
    return value


def check_mapped(operator: "MappedOperator") -> None:
    """Check the arguments of a mapped task, as far as they are known while the DAG is parsed.

    Raises:
        InputError: arguments can never work, are missing or do not exist; the message names the task and each of them.
    """
    kind: type[ArgumentsOperator] = operator.operator_class  # type: ignore[assignment]
    if faults := list(_faults_of_mapped(kind, operator)):
        raise failure(operator.task_id, faults) from None


def _faults_of_mapped(kind: "type[ArgumentsOperator]", operator: "MappedOperator") -> Iterator[str]:
    yield from _faults_of_names(kind, operator.partial_kwargs.keys() - _OF_DECORATORS)
    if _is_ours(kind):
        yield from _faults_of_values(kind, operator)


def _faults_of_names(kind: "type[ArgumentsOperator]", names: AbstractSet[str]) -> Iterator[str]:
    return map(_unknown(kind), sorted(names - parameters(kind).keys()))


def _faults_of_values(kind: "type[ArgumentsOperator]", operator: "MappedOperator") -> Iterator[str]:
    known = Known(operator.dag, kind.template_ext, is_native=operator.partial_kwargs.get("render_template_as_native_obj"))
    own = set(kind._own_fields())  # noqa: SLF001
    defaults = {name: each.default for name, each in parameters(kind).items() if name in own}
    of_all = {name: value for name, value in given_to_all(operator).items() if name in own}
    mapped: Any = operator.expand_input.value
    if isinstance(mapped, Mapping):
        given = {name: value for name, value in {**defaults, **of_all}.items() if name not in mapped}
        for name in mapped.keys() & own:
            values = mapped[name] if isinstance(mapped[name], list | tuple) else ()
            yield from _faults_of_items(kind, ((name, value) for value in values), known)
        yield from _faults_with_missing(kind, given, known)
    else:  # The output of a task, or a list of mappings and such outputs.
        listed = mapped if isinstance(mapped, list | tuple) else ()
        yield from filter(None, (_fault(kind, name, value, known) for name, value in of_all.items()))
        for each in (each for each in listed if isinstance(each, Mapping)):
            yield from _faults_of_names(kind, each.keys())
            yield from _faults_of_items(kind, ((name, each[name]) for name in each.keys() & own), known)
            yield from _faults_with_missing(kind, {**defaults, **of_all, **each}, known)


def _faults_of_items(kind: "type[ArgumentsOperator]", items: Iterable[tuple[str, Any]], known: Known) -> Iterator[str]:
    for name, value in items:
        if value is None and name not in kind.nullable:
            yield f"{name} is None for an instance of the task: give a value"
        elif fault := _fault(kind, name, value, known):
            yield fault


def _faults_with_missing(kind: "type[ArgumentsOperator]", given: Mapping[str, Any], known: Known) -> Iterator[str]:
    missing = [name for name, value in given.items() if value is inspect.Parameter.empty]
    yield from map(_missing, missing)
    if not missing:
        yield from faults_of(kind, given, known)
