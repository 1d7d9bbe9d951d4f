"""Packages, objects and files as datasets of OpenLineage. It is optional: it is imported where it is used."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import TopHash
from airflow_quilt.core.format.uris import PhysicalKey, QuiltUri, RegistryLocation
from airflow_quilt.core.sources.parse import remote_locations

if TYPE_CHECKING:
    from openlineage.client.event_v2 import Dataset, OutputDataset

Change = Literal["CREATE", "OVERWRITE", "ALTER", "DROP"]

MOST_SOURCES: Final = 100
"""So many of a task's sources are told: an event is one message."""


def dataset_of(registry: str, package: str, top_hash: str | None = None) -> "Dataset":
    """Return the dataset of a package, at a revision if one is given.

    Args:
        registry: ``s3://bucket``, or a local directory as ``file:///…``.
        package: ``namespace/name``.
        top_hash: becomes the version of the dataset, and tells where its manifest is.

    Raises:
        LocationError: the registry is malformed.
    """
    from openlineage.client.event_v2 import Dataset

    location = RegistryLocation.parse(registry)
    facets = {**_version(top_hash), **_manifest(location, TopHash(top_hash))} if top_hash else {}
    return Dataset(namespace=f"quilt+{location}", name=package, facets=facets)


def place_of(key: PhysicalKey) -> "Dataset":
    """Return the dataset of an object, a prefix, a file or a directory."""
    from openlineage.client.event_v2 import Dataset

    namespace, name = _named(key)
    return Dataset(namespace=namespace, name=name, facets=_version(key.version_id) if key.version_id else {})


def sources_of(entries: object) -> "list[Dataset]":
    """Return the datasets of the objects, prefixes and packages that ``entries`` name, the first hundred."""
    found: dict[PhysicalKey | QuiltUri, None] = {}
    for location in remote_locations(entries):
        found[_whole(location)] = None
        if len(found) == MOST_SOURCES:
            break
    return [
        dataset_of(str(each.registry), str(each.package), each.top_hash) if isinstance(each, QuiltUri) else place_of(each)
        for each in found
    ]


def written(dataset: "Dataset", change: Change | None = None, **counts: Any) -> "OutputDataset":
    """Return a dataset as what a task wrote: what became of it by that; its ``size`` and ``fileCount``, where known."""
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import lifecycle_state_change_dataset as lifecycle
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    facets = dict(dataset.facets or {})
    if change:
        state = lifecycle.LifecycleStateChange(change)
        facets["lifecycleStateChange"] = lifecycle.LifecycleStateChangeDatasetFacet(lifecycleStateChange=state)
    told = {"outputStatistics": statistics.OutputStatisticsOutputDatasetFacet(**counts)} if counts else {}
    return OutputDataset(namespace=dataset.namespace, name=dataset.name, facets=facets, outputFacets={**told})


def published_dataset(outcome: Mapping[str, Any]) -> "OutputDataset":
    """Return the dataset of a package as a task wrote it, from what the task returned."""
    change: Change | None = None
    if outcome["created"]:
        change = "OVERWRITE" if outcome["previous"] else "CREATE"
    dataset = dataset_of(outcome["registry"], outcome["package"], outcome["top_hash"])
    return written(dataset, change, size=outcome["bytes"], fileCount=outcome["entries"])


def _version(version: str) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset

    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version)}


def _manifest(location: RegistryLocation, top_hash: TopHash) -> dict[str, Any]:
    from openlineage.client.facet_v2 import symlinks_dataset

    namespace, name = _named(location.root.join(layout.manifest(top_hash)))
    identifier = symlinks_dataset.Identifier(namespace=namespace, name=name, type="LOCATION")
    return {"symlinks": symlinks_dataset.SymlinksDatasetFacet(identifiers=[identifier])}


def _named(key: PhysicalKey) -> tuple[str, str]:
    """Return the namespace and the name of a place, as Airflow's own providers write them."""
    return f"s3://{key.bucket}" if key.bucket else "file", key.key or "/"


def _whole(location: PhysicalKey | QuiltUri) -> PhysicalKey | QuiltUri:
    """Return the package that a file of it belongs to: packages are datasets, their files are not."""
    return replace(location, path=None, tag=None, catalog=None) if isinstance(location, QuiltUri) else location
