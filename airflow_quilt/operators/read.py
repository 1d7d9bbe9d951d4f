"""The base of the operators that read a package."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_quilt.operators._base import QuiltOperator
from airflow_quilt.operators._checks import OF_READS, Check
from airflow_quilt.operators._known import Known

if TYPE_CHECKING:
    from datetime import datetime

    from openlineage.client.event_v2 import Dataset

    from airflow_quilt.core.registry.selection import Reference
    from airflow_quilt.hooks._target import RegistryTarget


class QuiltReadOperator(QuiltOperator):
    """An operator that reads a revision of a package, or a part of it.

    :param package: ``namespace/name``; or a Quilt+ URI, which may name the registry, the revision and the path too.
    :param revision: ``latest``, a top hash or the beginning of one (6 digits or more), or a time for the newest revision at that
        time; by default the latest.
    :param path: the logical key of a file or a directory of the package; by default everything.
    :param registry: the registry, on S3 or a local directory; by default the connection's.
    :param quilt_conn_id: the ID of a connection of type ``quilt``; None for no connection.
    :param max_concurrency: the most concurrent S3 requests; overrides the connection's.
    """

    checks: ClassVar[Mapping[str, Check]] = OF_READS
    template_fields: Sequence[str] = (*QuiltOperator.template_fields, "revision", "path")

    def __init__(self, *, revision: "str | datetime | None" = None, path: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.revision = revision
        self.path = path

    @classmethod
    def check_together(cls, given: Mapping[str, Any], known: Known) -> None:
        """Check that a Quilt+ URI and the other arguments name the same.

        Raises:
            InputError: they do not.
        """
        from airflow_quilt.core.format.names import is_quilt_uri

        package, *others = (given.get(name) for name in ("package", "registry", "revision", "path"))
        if isinstance(package, str) and known(package) and is_quilt_uri(package):
            from airflow_quilt.core.format.quilt_uri import QuiltUri

            QuiltUri.parse(package).check_others(*(other if known(other) else None for other in others))

    def locate(self) -> "tuple[RegistryTarget, Reference]":
        """Open the registry; return it, and the reference to the files to read."""
        return self.hook.locate(self.package, self.registry, self.revision, self.path)

    def reads(self, outcome: Mapping[str, Any]) -> "list[Dataset]":
        """Return the package."""
        from airflow_quilt.assets._lineage import dataset_of

        return [dataset_of(outcome["registry"], outcome["package"], outcome["top_hash"])]
