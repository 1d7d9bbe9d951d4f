"""Values that are known while a DAG is parsed: they hold no template, and come from no task."""

import os
from typing import Any, Final

from airflow.sdk import Asset, ObjectStoragePath

_MARKS: Final = {"variable_start_string": "{{", "block_start_string": "{%", "comment_start_string": "{#"}
"""The beginnings of templates, by the options of Jinja that change them in a DAG's ``jinja_environment_kwargs``."""
_OF_LINES: Final = ("line_statement_prefix", "line_comment_prefix")
_RESOLVED: Final = ("resolve", "template_fields", "__wrapped__")
"""Attributes of the output of a task, of an object with templates, and of a proxy."""


class Known:
    """Tells whether a value is known.

    Args:
        dag: the DAG of the task; None if it has none yet.
        template_ext: the ends of names of files that are templates.
        is_native: whether Airflow renders to native objects; by default as the DAG says.

    Attributes:
        is_native: whether the text of an argument that is no text may be read as any other value.
    """

    def __init__(self, dag: Any, template_ext: Any, *, is_native: bool | None = None) -> None:
        options = getattr(dag, "jinja_environment_kwargs", None) or {}
        self._marks = {*_MARKS.values(), *(options[name] for name in (*_MARKS, *_OF_LINES) if options.get(name))}
        self._ends = ("\n", "\r", *template_ext)  # Jinja drops a newline at the end of a template.
        self.is_native = bool(getattr(dag, "render_template_as_native_obj", False) if is_native is None else is_native)

    def __call__(self, value: object) -> bool:
        """Return whether it is."""
        match value:
            case str():
                known = not (any(mark in value for mark in self._marks) or value.endswith(self._ends))
            case ObjectStoragePath():
                known = self(value.path)
            case dict():
                known = all(self(key) and self(item) for key, item in value.items())
            case list() | tuple() | set() | frozenset():
                known = all(map(self, value))
            case None | os.PathLike() | Asset() | bytes() | bytearray() | memoryview():
                known = True
            case _:
                known = not any(hasattr(type(value), name) for name in _RESOLVED) and not _is_lazy(value)
        return known


def _is_lazy(value: object) -> bool:
    """Return whether a value is a sequence or mapping that may be read only when the task runs."""
    is_collection = hasattr(type(value), "__getitem__") and hasattr(type(value), "__len__")
    return is_collection and not _is_frame(value)


def _is_frame(value: object) -> bool:
    from airflow_quilt.core.sources.serializers import is_frame

    return is_frame(value)
