"""QuiltBuildOperator."""

from typing import TYPE_CHECKING

from airflow_quilt.operators.publish import QuiltPublishOperator

if TYPE_CHECKING:
    import threading

    from airflow_quilt.core.publish.draft import Draft
    from airflow_quilt.core.publish.pipeline import PublishResult
    from airflow_quilt.core.registry.attempt import Attempt
    from airflow_quilt.core.registry.registry import Registry
    from airflow_quilt.hooks.quilt import QuiltHook


class QuiltBuildOperator(QuiltPublishOperator):
    """Publishes a revision that names files where they are, without copying any.

    Takes the parameters of :class:`~airflow_quilt.operators.publish.QuiltPublishOperator`; the registry may be an S3 bucket or
    a local directory (``file:///…`` or a path). Content has no place to be named, so sources must be files or objects.
    """

    def publish(
        self,
        hook: "QuiltHook",  # noqa: ARG002
        registry: "Registry",
        draft: "Draft",
        attempt: "Attempt",
        stop: "threading.Event",
    ) -> "PublishResult":
        """Build the package."""
        from airflow_quilt.core.build import build

        return build(registry, draft, stop, attempt=attempt)
