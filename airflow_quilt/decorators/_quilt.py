"""Tasks that publish the return value of a function."""

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack, cast

from airflow.sdk.bases.decorator import DecoratedOperator, _TaskDecorator

from airflow_quilt._compat import determine_kwargs
from airflow_quilt.core.errors import InputError, SourceError
from airflow_quilt.operators._checks import OF_PUBLICATIONS, OF_PUSHES, Check, key
from airflow_quilt.operators._expand import finished
from airflow_quilt.operators._values import plain
from airflow_quilt.operators.build import QuiltBuildOperator
from airflow_quilt.operators.publish import QuiltPublishOperator
from airflow_quilt.operators.push import QuiltPushOperator

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg
    from airflow.sdk.bases.decorator import TaskDecorator

    from airflow_quilt.core.publish.draft import Draft
    from airflow_quilt.hooks._target import RegistryTarget
    from airflow_quilt.operators._parameters import BuildTaskParameters, PushTaskParameters, Text


def _fields(operator: type[QuiltPublishOperator]) -> Sequence[str]:
    """Return the template fields of a decorated task: all but ``entries``, as the return value of a function is data."""
    return (*DecoratedOperator.template_fields, *(name for name in operator.template_fields if name != "entries"), "logical_key")


class _ReturnedEntries(DecoratedOperator, QuiltPublishOperator):
    """A task that calls a function and publishes its return value.

    :param python_callable: the function; an ``async def`` is run on an event loop of its own.
    :param op_args: its positional arguments.
    :param op_kwargs: its keyword arguments; variables of the context are added for its parameters of the same names.
    :param logical_key: the logical key of the source that the function returns; by default it returns ``entries``.
    """

    template_fields_renderers = {  # noqa: RUF012  (Airflow's own declaration has no ClassVar)
        **DecoratedOperator.template_fields_renderers,
        **{name: kind for name, kind in QuiltPublishOperator.template_fields_renderers.items() if name != "entries"},
    }

    xcom_push = None
    """An attribute that Airflow 3.0 reads of a decorated task after the return of its function, and does not use."""

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        logical_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, entries=None, **kwargs)
        self.logical_key = logical_key

    def inputs(self) -> dict[str, Any]:
        """Return the rendered parameters, and the arguments of the function unchanged."""
        own = {name: getattr(self, name) for name in DecoratedOperator.template_fields}
        ours = {name: plain(getattr(self, name)) for name in self.template_fields if name not in own}
        return {**own, **ours}

    def _draft(self, given: Mapping[str, Any], context: "Context", target: "RegistryTarget") -> "Draft":
        """Call the function, and draft the revision; not called if an earlier attempt of the task stored its success."""
        self._given_entries = self._returned(context)
        return super()._draft({**given, "entries": self._given_entries}, context, target)

    def _returned(self, context: "Context") -> Any:
        named = {**context, **self.op_kwargs}
        returned = self.python_callable(*self.op_args, **determine_kwargs(self.python_callable, self.op_args, named))
        if inspect.isawaitable(returned):
            returned = asyncio.run(_awaited(returned))
        name = getattr(self.python_callable, "__name__", "the function")
        if returned is None:
            raise SourceError(f"{name}: return logical keys and their sources, or one source; it returned None")
        entries = plain(returned)
        if self.logical_key is not None:
            return {self.logical_key: entries}
        if not _has_keys(entries):
            raise SourceError(
                f"{name}: give logical_key='data.parquet' in the decorator, or return {{'data.parquet': …}}; it returned a value "
                f"of type {type(returned).__name__}, which has no logical key"
            )
        return entries


async def _awaited(returned: Awaitable[Any]) -> Any:
    return await returned


def _has_keys(entries: object) -> bool:
    """Return whether a value may be the source of the whole package: a location has file names, content has none."""
    if isinstance(entries, bytes | bytearray | memoryview):
        return False
    return isinstance(entries, str | os.PathLike | Mapping | Sequence)


class _QuiltPushDecoratedOperator(_ReturnedEntries, QuiltPushOperator):
    checks: ClassVar[Mapping[str, Check]] = {**OF_PUSHES, "logical_key": key}
    template_fields: Sequence[str] = _fields(QuiltPushOperator)
    custom_operator_name = "@task.quilt_push"


class _QuiltBuildDecoratedOperator(_ReturnedEntries, QuiltBuildOperator):
    checks: ClassVar[Mapping[str, Check]] = {**OF_PUBLICATIONS, "logical_key": key}
    template_fields: Sequence[str] = _fields(QuiltBuildOperator)
    custom_operator_name = "@task.quilt_build"


class QuiltTask(_TaskDecorator[..., Any, Any]):
    """A decorated function, which becomes a task or a mapped task."""

    def expand(self, **mapped: Any) -> "XComArg":
        """Make the mapped task."""
        made = super().expand(**mapped)
        finished(made.operator)  # type: ignore[attr-defined]
        return made

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> "XComArg":
        """Make the mapped task."""
        made = super().expand_kwargs(kwargs, strict=strict)
        finished(made.operator)  # type: ignore[attr-defined]
        return made


def quilt_push_task(
    python_callable: "Callable[..., Any] | None" = None,
    *,
    package: "Text",
    multiple_outputs: bool = False,
    **kwargs: "Unpack[PushTaskParameters]",
) -> "TaskDecorator":
    """Make a function a task that pushes its return value.

    Takes the parameters of :class:`~airflow_quilt.operators.push.QuiltPushOperator` but ``entries``, which the function returns,
    and those of every task.

    :param python_callable: the function.
    :param logical_key: the logical key of the source that the function returns, which may then be content such as a data frame;
        a key that ends in ``/`` is a directory. By default the function returns ``entries``.
    :param multiple_outputs: write each value of the result to XCom by itself. Without it, those that other tasks of the DAG take
        are written, as by ``published["top_hash"]``.
    """
    return _decorator(_QuiltPushDecoratedOperator, python_callable, package=package, multiple_outputs=multiple_outputs, **kwargs)


def quilt_build_task(
    python_callable: "Callable[..., Any] | None" = None,
    *,
    package: "Text",
    multiple_outputs: bool = False,
    **kwargs: "Unpack[BuildTaskParameters]",
) -> "TaskDecorator":
    """Make a function a task that publishes the files and objects that it returns where they are.

    Takes the parameters of :class:`~airflow_quilt.operators.build.QuiltBuildOperator` but ``entries``, and the others of
    :func:`quilt_push_task`.
    """
    return _decorator(_QuiltBuildDecoratedOperator, python_callable, package=package, multiple_outputs=multiple_outputs, **kwargs)


def _decorator(
    operator: type[_ReturnedEntries], python_callable: "Callable[..., Any] | None", *, multiple_outputs: bool, **kwargs: Any
) -> "TaskDecorator":
    """Return the decorator of a kind of task, or if there is a function already, the decorated function.

    Raises:
        InputError: the function is a generator; raised while the DAG is parsed, when it is decorated.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InputError(
                f"{function.__name__} is a generator: return the entries, such as a list of paths; do not yield them"
            )
        return QuiltTask(function=function, operator_class=operator, multiple_outputs=multiple_outputs, kwargs=kwargs)

    return cast("TaskDecorator", decorate if python_callable is None else decorate(python_callable))
