"""Sources with metadata, as plain data."""

from typing import Any


def entry(*, path: object = ..., content: object = ..., meta: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a source with metadata, for use as a value of ``entries``; plain data, so a task may return it.

    :param path: a path or URL; None is an error when the entry is published.
    :param content: bytes, `str`, a data frame, or a JSON value under a key that ends in ``.json``; None is the JSON null.
    :param meta: the metadata of the entry, a JSON object; None for none.
    """
    given = {"path": path, "content": content, "meta": ... if meta is None else meta}
    return {name: value for name, value in given.items() if value is not ...}
