"""What the operators that make a revision share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_quilt.operators.base import QuiltOperator, airflow_errors
from airflow_quilt.operators.values import flag, plain

if TYPE_CHECKING:
    import threading

    from airflow.providers.common.compat.sdk import Context

    from airflow_quilt.core.pointers import Conflict
    from airflow_quilt.core.publish import Draft, Published
    from airflow_quilt.core.registry import Registry
    from airflow_quilt.hooks.quilt import QuiltHook


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

    def publish(self, hook: "QuiltHook", registry: "Registry", draft: "Draft", stop: "threading.Event") -> "Published":
        """Make the revision: the one step in which operators differ."""
        raise NotImplementedError

    def on_kill(self) -> None:
        """Tell the work to stop: uploads are aborted and nothing is published."""
        if self._stop:
            self._stop.set()
