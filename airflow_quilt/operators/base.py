"""What the operators share: the connection, errors in Airflow's terms, values as the engine reads them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import AirflowFailException, Asset, BaseOperator, ObjectStoragePath

from airflow_quilt.core.errors import InputError, QuiltError, SourceError
from airflow_quilt.hooks.quilt import QuiltHook

if TYPE_CHECKING:
    import threading

    import jinja2
    from airflow.providers.common.compat.sdk import Context

    from airflow_quilt.core.pointers import Conflict
    from airflow_quilt.core.publish import Draft, Published
    from airflow_quilt.core.registry import Registry


class QuiltOperator(BaseOperator):
    """An operator that works on one package of one registry.

    :param package: ``namespace/name``.
    :param registry: ``s3://bucket``, or for some operators a local directory; by default the connection's.
    :param quilt_conn_id: the connection of type ``quilt``; None for none.
    """

    template_fields: Sequence[str] = ("package", "registry", "quilt_conn_id")
    ui_color = "#e5e1fb"

    def __init__(
        self,
        *,
        package: str,
        registry: str | None = None,
        quilt_conn_id: str | None = QuiltHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.package = package
        self.registry = registry
        self.quilt_conn_id = quilt_conn_id

    @property
    def hook(self) -> QuiltHook:
        """The hook of the operator's connection."""
        return QuiltHook(self.quilt_conn_id)

    def render_template(
        self,
        content: Any,
        context: "Context",
        jinja_env: "jinja2.Environment | None" = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Render templates in the keys of mappings too, which hold logical keys; Airflow renders the values."""
        rendered = super().render_template(content, context, jinja_env, seen_oids)
        if not isinstance(content, dict):  # What a task returned is data, not a template.
            return rendered
        return {
            super(QuiltOperator, self).render_template(key, context, jinja_env) if isinstance(key, str) else key: value
            for key, value in rendered.items()
        }


class QuiltPublishOperator(QuiltOperator):
    """An operator that makes a revision.

    :param package: ``namespace/name``.
    :param entries: logical keys and their sources, or one source for the whole package: paths, URLs, assets, the output of
        tasks, or content.
    :param meta: the package's metadata, a JSON object.
    :param message: what a reader of the history sees.
    :param registry: where to publish; by default the connection's registry.
    :param conflict: ``"fail"`` when ``latest`` moves while the revision is being made, ``"overwrite"`` to win regardless.
    :param dedupe: make no new revision when ``latest`` has the same top hash.
    :param allow_empty: let a source, or the package, hold no file.
    :param quilt_conn_id: the connection of type ``quilt``; None for none.
    """

    template_fields: Sequence[str] = (
        *QuiltOperator.template_fields,
        "entries",
        "meta",
        "message",
        "conflict",
        "dedupe",
        "allow_empty",
    )
    template_fields_renderers = {"entries": "py", "meta": "json"}  # noqa: RUF012  (Airflow's own declaration has no ClassVar)

    _stop: "threading.Event | None" = None

    def __init__(
        self,
        *,
        entries: Any,
        meta: Any = None,
        message: str | None = None,
        conflict: "Conflict" = "fail",
        dedupe: bool = True,
        allow_empty: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.entries = entries
        self.meta = meta
        self.message = message
        self.conflict: Conflict = conflict
        self.dedupe = dedupe
        self.allow_empty = allow_empty

    def execute(self, context: "Context") -> dict[str, Any]:  # noqa: ARG002
        """Publish, and return what a later task may want to know: plain values only."""
        from threading import Event

        from airflow_quilt.core.publish import Draft

        self._stop = Event()
        with airflow_errors():
            hook = self.hook
            registry = hook.registry(self.registry)
            draft = Draft(
                package=self.package,
                entries=plain(self.entries),
                meta=plain(self.meta),
                message=self.message,
                conflict=self.conflict,
                dedupe=flag("dedupe", self.dedupe),
                allow_empty=flag("allow_empty", self.allow_empty),
            )
            published = self.publish(hook, registry, draft, self._stop)
            return {
                "registry": str(published.registry),
                "package": str(published.package),
                "top_hash": published.top_hash,
                "quilt_uri": str(published.uri) if published.uri else None,
                "catalog_url": hook.catalog_url(registry, published.package, published.top_hash),
                "entries": published.entries,
                "bytes": published.bytes,
                "bytes_copied": published.bytes_copied,
                "revision": published.revision.time.to_iso8601_string(),
                "created": published.created,
            }

    def publish(self, hook: QuiltHook, registry: "Registry", draft: "Draft", stop: "threading.Event") -> "Published":
        """Make the revision: the one step in which operators differ."""
        raise NotImplementedError

    def on_kill(self) -> None:
        """Tell the work to stop: uploads are aborted and nothing is published."""
        if self._stop:
            self._stop.set()


@contextmanager
def airflow_errors() -> Iterator[None]:
    """Fail without a retry where a retry cannot help; leave the rest to the task's own settings."""
    try:
        yield
    except QuiltError as error:
        if error.transient:
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error


def flag(name: str, value: object) -> bool:
    """Return a truth value that may have come as text from a template.

    Raises:
        InputError: it is neither; ``bool`` would take the text ``False`` for true.
    """
    match value:
        case bool():
            return value
        case str() if value.strip().lower() in {"true", "false"}:
            return value.strip().lower() == "true"
    raise InputError(f"{name} {value!r}: expected true or false")


def plain(value: Any) -> Any:
    """Turn Airflow's own values into ones that the engine reads: assets and storage paths into URLs, lazy sequences into lists.

    Raises:
        SourceError: an asset has no URI of its own.
    """
    match value:
        case Asset():
            return _asset_url(value)
        case ObjectStoragePath():
            return _path_url(value)
        case str() | bytes() | bytearray() | memoryview():
            return value
        case Mapping():
            return {key: plain(item) for key, item in value.items()}
        case Sequence():
            return [plain(item) for item in value[:]]  # The output of mapped tasks comes with one request this way.
        case _:
            return value


def _asset_url(asset: Asset) -> str:
    if "://" not in asset.uri:
        raise SourceError(f"asset {asset.name!r}: it has no URI, so it names no file")
    return asset.uri


def _path_url(path: ObjectStoragePath) -> str:
    """Return the URL of a storage path; its own connection is not used, the registry's is."""
    if path.protocol == "s3":
        return "s3://" + quote(path.path)
    return path.path if path.protocol in {"", "file", "local"} else str(path)
