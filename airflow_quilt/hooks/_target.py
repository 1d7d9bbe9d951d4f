"""The registry that a task works on, with the settings of the connection that apply to it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import EllipsisType

    from airflow_quilt.core.format.names import PackageName
    from airflow_quilt.core.registry.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryTarget:
    """An open registry, and the defaults of its connection.

    Attributes:
        registry: the registry.
        dest: the ``s3://`` prefix below which packages land, each under its name; None for the core's default. The connection's
            ``dest`` and ``workflow`` belong to its own registry and do not apply to any other.
        workflow: the workflow of packages that name none; ``...`` is the registry's default.
        catalog: the URL of the catalog, or None.
        conn_id: the ID of the connection, for messages.
    """

    registry: "Registry"
    dest: str | None = None
    workflow: "str | EllipsisType" = ...
    catalog: str | None = None
    conn_id: str | None = None

    def landing_prefix(self, package: "PackageName | str") -> str | None:
        """Return the prefix where a package lands, or None for the core's default (ADR 0002).

        Raises:
            LocationError: the connection's ``dest`` is not in the registry's bucket, or otherwise no prefix for packages.
        """
        from airflow_quilt.core.format.arguments import parse_dest

        if self.dest is None:
            return None
        name = f"connection {self.conn_id!r}: the extra 'dest'"
        return str(parse_dest(self.dest, self.registry.location, name).join(str(package)))

    def to_xcom(self, package: "PackageName | str", top_hash: str | None, **more: Any) -> dict[str, Any]:
        """Return the plain values that name a revision (``QuiltUri.to_xcom``), and more of them."""
        from airflow_quilt.core.format.names import PackageName, TopHash
        from airflow_quilt.core.format.quilt_uri import QuiltUri

        uri = QuiltUri(
            registry=self.registry.location,
            package=PackageName.parse_existing(package),
            top_hash=None if top_hash is None else TopHash(top_hash),
        )
        return {**uri.to_xcom(self.catalog), **more}
