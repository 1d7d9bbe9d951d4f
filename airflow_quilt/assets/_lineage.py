"""Packages, objects and files as datasets of OpenLineage, which is optional and so imported where it is used."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

from airflow_quilt.core.format import layout
from airflow_quilt.core.format.names import TopHash
from airflow_quilt.core.format.quilt_uri import QuiltUri
from airflow_quilt.core.format.uris import PhysicalKey, RegistryLocation
from airflow_quilt.core.sources.parse import remote_locations

if TYPE_CHECKING:
    from openlineage.client.event_v2 import Dataset, OutputDataset

LifecycleChange = Literal["CREATE", "OVERWRITE", "ALTER", "DROP"]

MOST_SOURCES: Final = 100
"""The most input datasets of a task: an event is one message."""


def dataset_of(registry: str, package: str, top_hash: str | None = None) -> "Dataset":
    """Return the dataset of a package, at a revision if one is given.

    Args:
        registry: ``s3://bucket``, or a local directory as ``file:///…``.
        package: ``namespace/name``.
        top_hash: the version of the dataset; it also names the manifest.

    Raises:
        LocationError: the registry is malformed.
    """
    from openlineage.client.event_v2 import Dataset

    location = RegistryLocation.parse(registry)
    facets = {**_version(top_hash), **_manifest(location, TopHash(top_hash))} if top_hash else {}
    return Dataset(namespace=f"quilt+{location}", name=package, facets=facets)


def location_dataset(key: PhysicalKey) -> "Dataset":
    """Return the dataset of an object, a prefix, a file or a directory."""
    from openlineage.client.event_v2 import Dataset

    namespace, name = _identify(key)
    return Dataset(namespace=namespace, name=name, facets=_version(key.version_id) if key.version_id else {})


def sources_of(entries: object) -> "list[Dataset]":
    """Return the datasets of the objects, prefixes and packages that ``entries`` name, at most :data:`MOST_SOURCES`."""
    found: dict[PhysicalKey | QuiltUri, None] = {}
    for location in remote_locations(entries):
        found[_package_of(location)] = None
        if len(found) == MOST_SOURCES:
            break
    return [
        dataset_of(str(each.registry), str(each.package), each.top_hash) if isinstance(each, QuiltUri) else location_dataset(each)
        for each in found
    ]


def output_dataset(dataset: "Dataset", change: LifecycleChange | None = None, **counts: Any) -> "OutputDataset":
    """Return a dataset as an output of a task, with its lifecycle change, and its ``size`` and ``fileCount``, where known."""
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import lifecycle_state_change_dataset as lifecycle
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    facets = dict(dataset.facets or {})
    if change:
        state = lifecycle.LifecycleStateChange(change)
        facets["lifecycleStateChange"] = lifecycle.LifecycleStateChangeDatasetFacet(lifecycleStateChange=state)
    output_facets = {"outputStatistics": statistics.OutputStatisticsOutputDatasetFacet(**counts)} if counts else {}
    return OutputDataset(namespace=dataset.namespace, name=dataset.name, facets=facets, outputFacets={**output_facets})


def published_dataset(outcome: Mapping[str, Any]) -> "OutputDataset":
    """Return the output dataset of a task that published a package, given the task's result."""
    change: LifecycleChange | None = None
    if outcome["created"]:
        change = "OVERWRITE" if outcome["previous"] else "CREATE"
    dataset = dataset_of(outcome["registry"], outcome["package"], outcome["top_hash"])
    return output_dataset(dataset, change, size=outcome["bytes"], fileCount=outcome["entries"])


def _version(version: str) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset

    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version)}


def _manifest(location: RegistryLocation, top_hash: TopHash) -> dict[str, Any]:
    from openlineage.client.facet_v2 import symlinks_dataset

    namespace, name = _identify(location.root.join(layout.manifest(top_hash)))
    identifier = symlinks_dataset.Identifier(namespace=namespace, name=name, type="LOCATION")
    return {"symlinks": symlinks_dataset.SymlinksDatasetFacet(identifiers=[identifier])}


def _identify(key: PhysicalKey) -> tuple[str, str]:
    """Return the namespace and the name of a location, as Airflow's own providers write them."""
    return f"s3://{key.bucket}" if key.bucket else "file", key.key or "/"


def _package_of(location: PhysicalKey | QuiltUri) -> PhysicalKey | QuiltUri:
    """Return the package of a file: packages are datasets, their files are not. Return other locations unchanged."""
    return replace(location, hash_prefix=None, tag=None, path=None, catalog=None) if isinstance(location, QuiltUri) else location
