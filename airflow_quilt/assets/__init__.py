"""Packages as Airflow assets, which publishing updates and DAGs are scheduled on."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from airflow.sdk import Asset, AssetAlias

from airflow_quilt.assets.uri import asset_uri, from_quilt_uri
from airflow_quilt.core.errors import InputError, plain, quoted
from airflow_quilt.core.format.names import is_quilt_uri

__all__ = ["quilt_alias", "quilt_asset"]

_LONGEST_NAME: Final = 1500
"""The most characters of an alias's name, in Airflow's database."""


def quilt_asset(
    package: str,
    registry: str | None = None,
    *,
    watch: bool | Mapping[str, Any] = False,
    group: str | None = None,
    extra: dict[str, Any] | None = None,
) -> Asset:
    """Return the asset of a package: the same one wherever a DAG names the package.

    :param package: ``namespace/name``, or a Quilt+ URI, which names the registry too. With ``*`` in it, such as ``team/*``,
        the asset stands for all packages that match; then it has events only if it is watched.
    :param registry: ``s3://bucket``.
    :param watch: also emit events for revisions from outside Airflow, such as those of the catalog's users: True, or a mapping of
        parameters of :class:`~airflow_quilt.triggers.package.QuiltPackageTrigger` that overrides its defaults.
    :param group: the group of the asset in Airflow's pages.
    :param extra: the extra of the asset.

    Raises:
        LocationError: the package or the registry is malformed.
        InputError: the registry is not named, or named twice.
    """
    if is_quilt_uri(package):
        if registry is not None:
            raise InputError(f"registry {quoted(registry)}: leave it out; the Quilt+ URI {plain(package)} names the registry")
        uri = from_quilt_uri(package)
    elif registry is None:
        raise InputError(f"asset of {quoted(package)}: give registry='s3://bucket'; no connection is read while a DAG is parsed")
    else:
        uri = asset_uri(package, registry)
    options: dict[str, Any] = {"group": group} if group is not None else {}
    if watch is not False:
        options["watchers"] = [_watcher(uri, {} if watch is True else watch)]
    return Asset(name=uri, uri=uri, extra=extra or {}, **options)


def quilt_alias(dag_id: str, task_id: str) -> AssetAlias:
    """Return the alias of the packages that a task publishes, of any name: ``AssetAlias("quilt:<dag_id>.<task_id>")``.

    A task has it among its outlets where package or registry are unknown while the DAG is parsed. A DAG with it as its schedule
    runs when the task has published one of them.

    :param dag_id: the DAG of the task.
    :param task_id: the task, with its task groups: ``group.task``.
    """
    # Percent-encoded, as names are ASCII where Airflow's database is MySQL; the IDs of most DAGs stay as they are.
    return AssetAlias(f"quilt:{quote(dag_id)}.{quote(task_id)}"[:_LONGEST_NAME])


def _watcher(uri: str, given: Mapping[str, Any]) -> Any:
    from airflow.sdk import AssetWatcher

    from airflow_quilt.assets.uri import package_of
    from airflow_quilt.triggers.package import QuiltPackageTrigger

    registry, package = package_of(uri)
    return AssetWatcher(name=f"watch {uri}", trigger=QuiltPackageTrigger(package=package, registry=registry, **given))
