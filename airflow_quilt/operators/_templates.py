"""Rendering of text arguments, to exactly their text (ADR 0021)."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import NoneType
from typing import TYPE_CHECKING, Any

from jinja2 import Undefined
from jinja2.nativetypes import native_concat

from airflow_quilt.core.errors import quoted

if TYPE_CHECKING:
    import jinja2


class TextTemplates:
    """Renders the templates of a task's text arguments.

    With native rendering, Airflow evaluates the text of a template as Python: the partition ``2026_11`` becomes the number
    202611, a top hash such as ``12e4…`` a float. Here the text of a number stays text. The value of a single expression is kept
    as it is, and a quoted text is taken out of its quotes, as by Airflow.

    Args:
        environment: Airflow's environment of the task. A ``finalize`` of the DAG's own decides there what becomes of None.
        is_native: whether Airflow renders the task's templates to native objects.

    Attributes:
        faults: expressions without a value, and keys that cannot be told apart; for one error at the start of the work.
        where: the argument that is being rendered, for messages.
    """

    def __init__(self, environment: "jinja2.Environment", *, is_native: bool) -> None:
        self._environment = environment if environment.finalize else environment.overlay(finalize=self._finalize)
        self._is_native = is_native
        self._odd: set[type] = set()
        self.faults: list[str] = []
        self.where = ""

    def render(self, template: str, context: Mapping[str, Any], *, objects: bool = False) -> Any:
        """Return the text of a template; or None, or an object, where this is the value of its only expression.

        Args:
            template: the template.
            context: the context of the task.
            objects: let native rendering evaluate a text to a list, a mapping or bytes.
        """
        self._odd.clear()
        nodes: list[Any] = list(self._environment.from_string(template).generate(context))
        if self._is_native and len(nodes) == 1 and not isinstance(nodes[0], str | Undefined):
            return nodes[0]
        text = "".join(map(str, nodes))
        if NoneType in self._odd and text == "None":
            return None
        if self.where != "message":  # Any text will do there.
            self._check(template, text)
        return _evaluate(text, objects=objects) if self._is_native else text

    def render_keys(self, keys: Iterable[Any], context: Mapping[str, Any]) -> dict[Any, Any]:
        """Return each key of a mapping with its rendered form; no two are the same, or it is a fault."""
        rendered: dict[Any, Any] = {}
        first: dict[Any, Any] = {}
        for key in keys:
            rendered[key] = name = self._render_key(key, context) if isinstance(key, str) else key
            if first.setdefault(name, key) is not key:
                both = f"{quoted(first[name])} and {quoted(key)}"
                self.faults.append(
                    f"{self.where}: the keys {both} are both rendered to {quoted(name)}; give them different values"
                )
        return rendered

    @contextmanager
    def below(self, key: object) -> Iterator[None]:
        """Render a value of a mapping, whose key messages name."""
        above, self.where = self.where, f"{self.where}[{quoted(key)}]"
        try:
            yield
        finally:
            self.where = above

    def _render_key(self, key: str, context: Mapping[str, Any]) -> str:
        if (rendered := self.render(key, context)) is None:
            self.faults.append(f"{self.where}: the key {quoted(key)} has no value")
        return str(rendered)

    def _check(self, template: str, text: str) -> None:
        if NoneType in self._odd:
            self.faults.append(
                f"{self.where}: an expression in {quoted(template)} has no value, and it would read {quoted(text)}"
            )
        elif self._odd:
            kinds = " and ".join(sorted(kind.__name__ for kind in self._odd))
            self.faults.append(f"{self.where}: an expression in {quoted(template)} is a value of type {kinds}, and no text")
        elif template and not text:
            self.faults.append(f"{self.where}: {quoted(template)} is rendered to an empty str")

    def _finalize(self, value: Any) -> Any:
        """Keep the type of a value that is no text: Jinja calls this with each one before it is printed."""
        if value is None or (isinstance(value, Collection) and not isinstance(value, str)):
            self._odd.add(type(value))
        return value


def _evaluate(text: str, *, objects: bool) -> Any:
    value: Any = native_concat([text])
    return value if isinstance(value, str) or (objects and isinstance(value, list | tuple | dict | bytes)) else text
