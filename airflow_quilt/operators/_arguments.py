"""The arguments of a task: how they are rendered, and their check before its work begins."""

import os
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow.sdk import BaseOperator, ObjectStoragePath
from jinja2.nativetypes import NativeEnvironment

from airflow_quilt.core.errors import InputError, quoted
from airflow_quilt.operators._construction import CheckedOperator
from airflow_quilt.operators._mapped import parsed_task
from airflow_quilt.operators._shown import shown
from airflow_quilt.operators._templates import TextTemplates
from airflow_quilt.operators._values import TEXTS, text

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context

    from airflow_quilt.operators._checks import Check
    from airflow_quilt.operators._known import Known

_WITH_TEXTS: Final = TEXTS | {"entries", "remove"}
"""The arguments whose templates stand for text; Airflow renders the others."""


class ArgumentsOperator(BaseOperator, metaclass=CheckedOperator):
    """An operator whose arguments are rendered to text where they are text, and are checked before its work begins."""

    required: ClassVar[frozenset[str]] = frozenset({"package"})
    """Arguments that are never None."""
    nullable: ClassVar[frozenset[str]] = frozenset({"quilt_conn_id", "workflow"})
    """Arguments for which None has a meaning of its own, also at run time."""
    callbacks: ClassVar[frozenset[str]] = frozenset()
    """Arguments that may be functions for the work: Airflow would call them while it renders, for a rendered value."""

    checks: ClassVar["Mapping[str, Check]"] = {}
    """The checks of arguments that are known while the DAG is parsed; the core makes them again when the task runs."""

    _faults: Iterable[str] = ()
    _absent: Mapping[str, str] = {}
    """The arguments that were given, and are None since they were rendered, each with the cause."""
    _texts: TextTemplates | None = None
    _is_text = False
    """Whether what is being rendered is text."""
    _is_whole = False
    """Whether it is ``entries`` as a whole, with logical keys, and not one source of it."""

    def check_arguments(self) -> None:
        """Make each text argument a `str`; called before anything else is done with the arguments.

        Raises:
            InputError: arguments are None, empty or not text; the message names each of them, and its origin.
        """
        faults = list(self._faults)
        for name in self._own_fields():
            value = getattr(self, name)
            try:
                if value is None:
                    self._check_none(name)
                elif name in TEXTS:
                    setattr(self, name, text(name, value))
                elif name == "remove" and isinstance(value, list | tuple):
                    setattr(self, name, [text(name, key) for key in value])
            except InputError as error:
                faults.append(str(error))
        if faults:
            raise InputError("\n".join(faults))

    @classmethod
    def check_together(cls, given: Mapping[str, Any], known: "Known") -> None:
        """Check that arguments, each of which is right, go together, as far as they are known while the DAG is parsed.

        Raises:
            InputError: some are for other work than the others.
        """

    @classmethod
    def _own_fields(cls) -> Iterable[str]:
        """Return the templated arguments; a subclass that is not ours may have others of its own."""
        kind = next(kind for kind in cls.__mro__ if kind.__module__.startswith("airflow_quilt."))
        fields: Iterable[str] = kind.template_fields  # type: ignore[attr-defined]
        return fields

    def _check_none(self, name: str) -> None:
        if name in self.nullable:
            return
        if name in self._absent:
            cure = "give a value" if name in self.required else "give a value, or leave it out"
            raise InputError(f"{name} is None: {self._absent[name]}; {cure}")
        if name in self.required:
            raise InputError(f"{name} is None: give a value")

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: "Context",
        jinja_env: "jinja2.Environment",
        seen_oids: set[int],
    ) -> None:
        """Render each argument by its kind; Airflow calls this for all tasks, mapped ones too."""
        if parent is not self:  # An object inside an argument, with templates of its own.
            super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
            return
        texts = self._texts = self._text_templates(jinja_env)
        given = {name: getattr(self, name) for name in template_fields}
        given = {name: value for name, value in given.items() if not (name in self.callbacks and callable(value))}
        for name in given:
            texts.where, self._is_text, self._is_whole = name, name in _WITH_TEXTS, name == "entries"
            super()._do_render_template_fields(self, [name], context, jinja_env, seen_oids)
        nothing = {name for name in given if getattr(self, name) is None}
        named = {name for name in nothing if given[name] is not None} | _mapped_arguments(self, nothing, context)
        self._absent = {name: _origin(given[name]) for name in named}
        self._faults, self._texts, self._is_text = texts.faults, None, False

    def render_template(
        self,
        content: Any,
        context: "Context",
        jinja_env: "jinja2.Environment | None" = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Render text to text, and templates in the keys of mappings too, which hold logical keys; Airflow renders the values.

        Paths stay as they are: Airflow 3.0 calls their ``resolve()``, which follows links, and fails if there is no such file.
        """
        return shown(self._render_value(content, context, jinja_env, seen_oids))

    def _render_value(
        self, content: Any, context: "Context", jinja_env: "jinja2.Environment | None", seen_oids: set[int] | None
    ) -> Any:
        if isinstance(content, os.PathLike) and not isinstance(content, ObjectStoragePath):
            return content
        if seen_oids and id(content) in seen_oids:  # The output of another task is data, not a template.
            return content
        environment = jinja_env or self.get_template_env()
        texts = self._texts or self._text_templates(environment)
        if isinstance(content, dict):
            return self._render_mapping(content, context, environment, seen_oids, texts)
        if self._is_text and isinstance(content, str) and not content.endswith(tuple(self.template_ext)):
            return texts.render(content, context, objects=texts.where not in TEXTS)
        if self._is_text and isinstance(content, ObjectStoragePath):
            texts.render(content.path, context)  # For its faults: Airflow makes the path.
        return super().render_template(content, context, environment, seen_oids)

    def _text_templates(self, environment: "jinja2.Environment") -> TextTemplates:
        own: bool | None = getattr(self, "render_template_as_native_obj", None)
        return TextTemplates(environment, is_native=isinstance(environment, NativeEnvironment) if own is None else own)

    def _render_mapping(
        self,
        content: Mapping[Any, Any],
        context: "Context",
        environment: "jinja2.Environment",
        seen_oids: set[int] | None,
        texts: TextTemplates,
    ) -> dict[Any, Any]:
        from airflow_quilt.core.sources.parse import INDEX, has_source_keys
        from airflow_quilt.core.sources.serializers import is_json_key

        is_described = has_source_keys(content)
        is_text, is_whole = self._is_text, self._is_whole and not is_described
        rendered = {}
        # Airflow takes the names of a function's parameters as they are; a task may have returned those of a mapped one.
        names = {key: key for key in content} if texts.where == "op_kwargs" else texts.render_keys(content, context)
        for key, name in names.items():
            # Of a source, only the path is text: a mapping or a list may be the content of a JSON file.
            is_json = isinstance(content[key], list | tuple) and is_json_key(str(name)) and INDEX not in name
            self._is_text, self._is_whole = is_text and (not is_json if is_whole else key == "path" and is_described), False
            with texts.below(name):
                rendered[name] = self.render_template(content[key], context, environment, seen_oids)
                if is_text and (is_described or is_whole) and content[key] is not None and rendered[name] is None:
                    texts.faults.append(f"{texts.where} is None: {_origin(content[key])}; give a value, or leave it out")
        self._is_text, self._is_whole = is_text, is_whole
        return rendered


def _mapped_arguments(operator: BaseOperator, names: AbstractSet[str], context: "Context") -> set[str]:
    """Return those of the arguments that ``expand()`` or ``expand_kwargs()`` gave to this instance of a mapped task."""
    given = getattr(parsed_task(operator), "expand_input", None)
    if given is None or not names:
        return set()
    return {*(given.value if isinstance(given.value, Mapping) else given.resolve(context)[0])} & names


def _origin(given: Any) -> str:
    """Return the reason why an argument that was given is None."""
    if given is None:
        return "expand() gave it to this instance of the task"
    if isinstance(given, str):
        return f"its template {quoted(given)} has no value"
    tasks = " and ".join(sorted({repr(task.task_id) for task, _ in getattr(given, "iter_references", tuple)()}))
    return f"it comes from the task {tasks}, which returned nothing or was skipped" if tasks else "it was rendered to that"
