"""Tasks whose function returns what is to be published."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.sdk import DecoratedOperator, determine_kwargs, task_decorator_factory

from airflow_quilt.core.errors import SourceError
from airflow_quilt.operators._values import plain
from airflow_quilt.operators.build import QuiltBuildOperator
from airflow_quilt.operators.publish import QuiltPublishOperator
from airflow_quilt.operators.push import QuiltPushOperator

if TYPE_CHECKING:
    from types import EllipsisType
    from typing import TypeAlias

    from airflow.providers.common.compat.sdk import Context, TaskDecorator, XComArg

    from airflow_quilt.core.plan.placement import CopyFunction, CopyRule, DestFunction
    from airflow_quilt.core.publish.draft import Draft, Mode
    from airflow_quilt.core.registry.revisions import Conflict
    from airflow_quilt.hooks._target import RegistryTarget

    Text: TypeAlias = str | XComArg
    Flag: TypeAlias = bool | Text

_LEFT_OUT: Final[Any] = ...


def _fields(operator: type[QuiltPublishOperator]) -> Sequence[str]:
    """Return what is rendered of a decorated task; what a function returns is data, and no template."""
    return (*DecoratedOperator.template_fields, *(name for name in operator.template_fields if name != "entries"), "logical_key")


class _ReturnedEntries(DecoratedOperator, QuiltPublishOperator):
    """A task that calls a function and publishes what it returns.

    :param python_callable: the function.
    :param op_args: its positional arguments.
    :param op_kwargs: its keyword arguments; it may ask for parts of the context by their names.
    :param logical_key: where in the package that lies which the function returns; by default it returns ``entries``.
    """

    template_fields_renderers = {  # noqa: RUF012  (Airflow's own declaration has no ClassVar)
        **DecoratedOperator.template_fields_renderers,
        **{name: kind for name, kind in QuiltPublishOperator.template_fields_renderers.items() if name != "entries"},
    }

    xcom_push = None
    """What Airflow 3.0 asks a decorated task for when its function has returned; it does nothing with it."""

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
        """Return the rendered parameters, and the function's arguments as it gets them."""
        own = {name: getattr(self, name) for name in DecoratedOperator.template_fields}
        ours = {name: plain(getattr(self, name)) for name in self.template_fields if name not in own}
        return {**own, **ours}

    def _draft(self, given: Mapping[str, Any], context: "Context", target: "RegistryTarget") -> "Draft":
        """Call the function: only here, when no earlier try of the task has noted that it published."""
        self._given_entries = self._returned(context)
        return super()._draft({**given, "entries": self._given_entries}, context, target)

    def _returned(self, context: "Context") -> Any:
        named = {**context, **self.op_kwargs}
        returned = self.python_callable(*self.op_args, **determine_kwargs(self.python_callable, self.op_args, named))
        name = getattr(self.python_callable, "__name__", "the function")
        if returned is None:
            raise SourceError(f"{name} returned nothing; expected logical keys and their sources, or one source")
        entries = plain(returned)
        if self.logical_key is not None:
            return {self.logical_key: entries}
        if not _has_keys(entries):
            raise SourceError(
                f"{name} returned a value of type {type(returned).__name__}, which has no name in the package; "
                "name it with logical_key='data.parquet' in the decorator, or return {'data.parquet': …}"
            )
        return entries


def _has_keys(entries: object) -> bool:
    """Whether this may stand for the whole package: a place has names of its own, content has none."""
    if isinstance(entries, bytes | bytearray | memoryview):
        return False
    return isinstance(entries, str | os.PathLike | Mapping | Sequence)


class _QuiltPushDecoratedOperator(_ReturnedEntries, QuiltPushOperator):
    template_fields: Sequence[str] = _fields(QuiltPushOperator)
    custom_operator_name = "@task.quilt_push"


class _QuiltBuildDecoratedOperator(_ReturnedEntries, QuiltBuildOperator):
    template_fields: Sequence[str] = _fields(QuiltBuildOperator)
    custom_operator_name = "@task.quilt_build"


def quilt_push_task(  # noqa: PLR0913  (what an editor completes)
    python_callable: "Callable[..., Any] | None" = None,
    *,
    package: "Text",
    logical_key: "Text | None" = _LEFT_OUT,
    multiple_outputs: bool = True,
    registry: "Text | None" = _LEFT_OUT,
    meta: Any = _LEFT_OUT,
    message: "Text | None" = _LEFT_OUT,
    mode: "Mode" = _LEFT_OUT,
    base: "Text | None" = _LEFT_OUT,
    remove: "Sequence[str] | XComArg" = _LEFT_OUT,
    workflow: "Text | EllipsisType | None" = _LEFT_OUT,
    hash_type: "Text" = _LEFT_OUT,
    unversioned: "Flag" = _LEFT_OUT,
    follow_symlinks: "Flag" = _LEFT_OUT,
    dest: "Text | DestFunction | None" = _LEFT_OUT,
    copy: "CopyRule | CopyFunction" = _LEFT_OUT,
    conflict: "Conflict" = _LEFT_OUT,
    dedupe: "Flag" = _LEFT_OUT,
    allow_empty: "Flag" = _LEFT_OUT,
    provenance: "Flag | None" = _LEFT_OUT,
    partition_key: "Text | None" = _LEFT_OUT,
    quilt_conn_id: "Text | None" = _LEFT_OUT,
    max_concurrency: "int | Text | None" = _LEFT_OUT,
    **kwargs: Any,
) -> "TaskDecorator":
    """Make a function a task that pushes what it returns.

    Takes the parameters of :class:`~airflow_quilt.operators.push.QuiltPushOperator` but ``entries``, which the function returns,
    and those of every task.

    :param python_callable: the function.
    :param logical_key: where in the package that lies which the function returns, so that it may be content such as a data
        frame; a key that ends in ``/`` is a directory. By default the function returns ``entries``.
    :param multiple_outputs: let other tasks ask for parts of what the task returns, as in ``published["top_hash"]``.
    """
    return _decorator(_QuiltPushDecoratedOperator, locals())


def quilt_build_task(  # noqa: PLR0913  (as above)
    python_callable: "Callable[..., Any] | None" = None,
    *,
    package: "Text",
    logical_key: "Text | None" = _LEFT_OUT,
    multiple_outputs: bool = True,
    registry: "Text | None" = _LEFT_OUT,
    meta: Any = _LEFT_OUT,
    message: "Text | None" = _LEFT_OUT,
    mode: "Mode" = _LEFT_OUT,
    base: "Text | None" = _LEFT_OUT,
    remove: "Sequence[str] | XComArg" = _LEFT_OUT,
    workflow: "Text | EllipsisType | None" = _LEFT_OUT,
    hash_type: "Text" = _LEFT_OUT,
    unversioned: "Flag" = _LEFT_OUT,
    follow_symlinks: "Flag" = _LEFT_OUT,
    conflict: "Conflict" = _LEFT_OUT,
    dedupe: "Flag" = _LEFT_OUT,
    allow_empty: "Flag" = _LEFT_OUT,
    provenance: "Flag | None" = _LEFT_OUT,
    partition_key: "Text | None" = _LEFT_OUT,
    quilt_conn_id: "Text | None" = _LEFT_OUT,
    max_concurrency: "int | Text | None" = _LEFT_OUT,
    **kwargs: Any,
) -> "TaskDecorator":
    """Make a function a task that publishes what it returns where it is: paths, objects, prefixes.

    Takes the parameters of :class:`~airflow_quilt.operators.build.QuiltBuildOperator` but ``entries``, and the others of
    :func:`quilt_push_task`.
    """
    return _decorator(_QuiltBuildDecoratedOperator, locals())


def _decorator(operator: type[_ReturnedEntries], given: dict[str, Any]) -> "TaskDecorator":
    """Hand on what was given and no more: a DAG's ``default_args`` count for what was left out."""
    more = given.pop("kwargs")
    named = {name: value for name, value in given.items() if value is not _LEFT_OUT}
    return task_decorator_factory(decorated_operator_class=operator, **named, **more)
