"""Sources with metadata, as plain data."""

from typing import Any


def entry(*, path: object = None, content: object = None, meta: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a source with metadata, for use as a value of ``entries``; plain data, so a task may return it.

    :param path: a path or URL.
    :param content: bytes, `str`, a data frame, or a JSON value under a key that ends in ``.json``.
    :param meta: the metadata of the entry, a JSON object.
    """
    given = {"path": path, "content": content, "meta": meta}
    return {name: value for name, value in given.items() if value is not None}
