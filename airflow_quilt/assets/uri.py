"""The URI of a package as an Airflow asset: ``quilt+s3://bucket/namespace/name``.

Airflow drops the fragment of an asset's URI, where a Quilt+ URI names the package: all packages of a bucket would be one
asset. So assets name it in the path. With ``*`` in its name, an asset stands for every package that matches.

Airflow imports this module at the first asset of any kind, so it imports next to nothing itself.
"""

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

from airflow_quilt.core.errors import InputError, LocationError, quoted
from airflow_quilt.core.format.names import check_pattern, is_pattern
from airflow_quilt.core.format.web_url import refuse_login

if TYPE_CHECKING:
    from airflow.sdk import Asset
    from openlineage.client.event_v2 import Dataset

SCHEME: Final = "quilt+s3"
_FORM: Final = "quilt+s3://bucket/namespace/name"


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Check the URI of an asset; Airflow calls this for each asset of the scheme.

    Raises:
        ValueError: the URI names no package, or holds a login; the message shows the right form.
    """
    text = uri.geturl()
    refuse_login(text)
    if not uri.netloc or uri.query or uri.fragment or "@" in uri.netloc:
        raise _wrong(text)
    try:
        check_pattern(uri.path.removeprefix("/"))
    except InputError as error:
        raise _wrong(text) from error
    return uri


def _wrong(text: str) -> LocationError:
    return LocationError(
        f"asset {quoted(text)}: the asset of a Quilt package is written {_FORM}. Pass a Quilt+ URI (quilt+s3://bucket#package=…) "
        "to quilt_asset(), which writes it so: of an asset's URI Airflow drops '#' and the rest"
    )


def _split(url: str) -> SplitResult:
    """Return the parts of a URL; none of them for one that has no parts, such as ``s3://[``."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", url, "", "")


def is_known(value: object) -> bool:
    """Return whether the value of a task's parameter is known at parse time: a `str` without a template."""
    return isinstance(value, str) and not any(mark in value for mark in ("{{", "{%", "{#"))


def asset_uri(package: str, registry: str) -> str:
    """Return the URI of a package's asset.

    Args:
        package: ``namespace/name``, or a pattern of names.
        registry: ``s3://bucket``.

    Raises:
        LocationError: the registry is no bucket, or the package has no name.
    """
    refuse_login(registry)
    parts = _split(registry)
    is_name = parts.netloc and parts.netloc.isprintable() and " " not in parts.netloc
    if parts.scheme != "s3" or not is_name or parts.path not in {"", "/"} or parts.query or parts.fragment:
        cure = "give a bucket, s3://bucket; packages of other registries have no asset"
        raise LocationError(f"registry {quoted(registry)}: {cure}")
    return f"{SCHEME}://{parts.netloc}/{check_pattern(package)}"


def from_quilt_uri(uri: str) -> str:
    """Return the URI of the asset of the package that a Quilt+ URI names; an asset has no revision and no path.

    Raises:
        LocationError: the URI is no Quilt+ URI of a bucket.
    """
    from airflow_quilt.core.format.quilt_uri import QuiltUri

    quilt_uri = QuiltUri.parse(uri)
    return asset_uri(str(quilt_uri.package), str(quilt_uri.registry))


def package_of(uri: str) -> tuple[str, str]:
    """Return the registry and the package of an asset's URI.

    Raises:
        LocationError: the URI is not that of a package's asset.
    """
    refuse_login(uri)
    parts = _split(uri)
    if parts.scheme != SCHEME:
        raise _wrong(uri)
    sanitize_uri(parts)
    return f"s3://{parts.netloc}", parts.path.removeprefix("/")


def to_quilt_uri(uri: str, top_hash: str | None = None) -> str:
    """Return the Quilt+ URI of the package of an asset, at a revision if one is given.

    Raises:
        LocationError: the URI is not that of one package's asset.
        TopHashError: the top hash is malformed.
    """
    from airflow_quilt.core.format.names import PackageName, parse_top_hash
    from airflow_quilt.core.format.quilt_uri import QuiltUri
    from airflow_quilt.core.format.uris import RegistryLocation

    registry, package = package_of(uri)
    if is_pattern(package):
        raise LocationError(f"asset {quoted(uri)}: name one package; a pattern of packages has no Quilt+ URI")
    pin = parse_top_hash(top_hash) if top_hash is not None else None
    location, name = RegistryLocation.parse(registry), PackageName.parse_existing(package)
    return str(QuiltUri(registry=location, package=name, top_hash=pin))


def convert_asset_to_openlineage(asset: "Asset", lineage_context: Any) -> "Dataset | None":  # noqa: ARG001  (Airflow's signature)
    """Return the dataset of a package's asset, at the revision that the asset's ``extra`` names; None where it is a pattern."""
    from airflow_quilt.assets._lineage import dataset_of

    registry, package = package_of(asset.uri)
    top_hash = (asset.extra or {}).get("top_hash")
    return None if is_pattern(package) else dataset_of(registry, package, str(top_hash) if top_hash else None)


def create_asset(*, package: str, registry: str, extra: dict[str, Any] | None = None) -> "Asset":
    """Return the asset of a package, for the collector of lineage."""
    from airflow_quilt.assets import quilt_asset

    return quilt_asset(package, registry, extra=extra)
