"""Names of Airflow that are in other modules in other releases from 3.0.6 on; every other name comes from ``airflow.sdk``.

The newer module is asked first, by name and when the name is first used: the older path warns where the newer one exists, and
files of DAGs are parsed without the modules that only a run needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from airflow.sdk import BaseHook, Connection
    from airflow.sdk.bases.decorator import determine_kwargs
    from airflow.sdk.configuration import conf
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowNotFoundException, AirflowSkipException
    from airflow.sdk.lineage import get_hook_lineage_collector

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSkipException",
    "BaseHook",
    "conf",
    "determine_kwargs",
    "get_async_connection",
    "get_hook_lineage_collector",
]

_EXCEPTIONS: Final = ("airflow.sdk.exceptions", "airflow.exceptions")  # 3.2
_MODULES: Final = {  # The newer module, the older one; and the first release with the newer.
    "AirflowException": _EXCEPTIONS,
    "AirflowFailException": _EXCEPTIONS,
    "AirflowNotFoundException": _EXCEPTIONS,
    "AirflowSkipException": _EXCEPTIONS,
    "BaseHook": ("airflow.sdk", "airflow.hooks.base"),  # 3.1
    "conf": ("airflow.sdk.configuration", "airflow.configuration"),  # 3.2
    "determine_kwargs": ("airflow.sdk.bases.decorator", "airflow.utils.operator_helpers"),  # 3.2
    "get_hook_lineage_collector": ("airflow.sdk.lineage", "airflow.lineage.hook"),  # 3.2; the one that OpenLineage reads
}


def __getattr__(name: str) -> Any:
    """Import a name of the table, from the module where this Airflow has it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    newer, older = _MODULES[name]
    try:
        return getattr(import_module(newer), name)
    except (AttributeError, ModuleNotFoundError):
        return getattr(import_module(older), name)


async def get_async_connection(hook: "BaseHook", conn_id: str) -> "Connection":
    """Return a connection of Airflow, looked up through a hook, without blocking the event loop.

    Before Airflow 3.3.2, whose mark is ``aextra_dejson``, a lookup on the event loop masks secrets with a blocking call to the
    supervisor, which fails while another call is under way. There it is made on a thread, by asgiref, as calls of Airflow's SDK
    within find their way back to the event loop by it.
    """
    from airflow.sdk import Connection
    from asgiref.sync import sync_to_async

    if hasattr(Connection, "aextra_dejson"):
        return await hook.aget_connection(conn_id)
    return await sync_to_async(hook.get_connection)(conn_id)
