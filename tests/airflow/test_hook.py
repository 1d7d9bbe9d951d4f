"""QuiltHook: an Airflow connection becomes a registry."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.errors import InputError, LocationError, SettingsError, SettingsUnavailableError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.storage.s3.storage import S3Storage
from airflow_quilt.hooks._settings import QuiltSettings
from airflow_quilt.hooks.quilt import QuiltHook

Connect = Callable[..., QuiltHook]
NAME = PackageName.parse("team/data")
AWS = {"conn_type": "aws", "login": "key", "password": "secret", "extra": {"endpoint_url": "http://127.0.0.1:9", "verify": False}}


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """A function that puts a connection into the environment, as a mapping (JSON) or a URI."""

    def connect(value: object, name: str = "QUILT_DEFAULT") -> QuiltHook:
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", value if isinstance(value, str) else json.dumps(value))
        return QuiltHook()

    return connect


def settings(hook: QuiltHook) -> tuple[str | None, ...]:
    found = hook.settings
    return found.catalog, found.registry, found.aws_conn_id, found.region_name, found.dest


FULL = ("https://catalog.example.com", "s3://reg", "s3_team", "eu-west-1", "s3://reg/landing")


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        pytest.param({"conn_type": "quilt"}, (None, None, "aws_default", None, None), id="empty"),
        pytest.param(
            {
                "conn_type": "quilt",
                "host": "https://catalog.example.com/",
                "extra": {
                    "registry": "s3://reg",
                    "aws_conn_id": "s3_team",
                    "region_name": "eu-west-1",
                    "dest": "s3://reg/landing",
                },
            },
            FULL,
            id="json",
        ),
        pytest.param(
            "quilt://catalog.example.com/?registry=s3%3A%2F%2Freg&aws_conn_id=s3_team&region_name=eu-west-1&dest=s3%3A%2F%2Freg%2Flanding",
            FULL,
            id="uri",
        ),
        pytest.param(
            "quilt://https%3A%2F%2Fcatalog.example.com/?registry=s3%3A%2F%2Freg&aws_conn_id=s3_team&region_name=eu-west-1"
            "&dest=s3%3A%2F%2Freg%2Flanding",
            FULL,
            id="uri with a whole URL as host",
        ),
        pytest.param(
            {"conn_type": "quilt", "extra": {"aws_conn_id": None}},
            (None, None, None, None, None),
            id="json without AWS connection",
        ),
        pytest.param(
            "quilt://?aws_conn_id=null&registry=s3%3A%2F%2Freg", (None, "s3://reg", None, None, None), id="uri with null"
        ),
        pytest.param(
            "quilt://?aws_conn_id=&registry=s3%3A%2F%2Freg", (None, "s3://reg", None, None, None), id="uri with nothing"
        ),
        pytest.param(
            {"conn_type": "quilt", "host": "http://localhost", "port": 8080},
            ("http://localhost:8080", None, "aws_default", None, None),
            id="port",
        ),
    ],
)
def test_connection_forms_are_read(connect: Connect, connection: object, expected: tuple[str | None, ...]) -> None:
    assert settings(connect(connection)) == expected


@pytest.mark.parametrize(
    ("connection", "says"),
    [
        pytest.param(
            {"conn_type": "quilt", "host": "s3://reg"}, "a registry goes into the extra 'registry'", id="registry as host"
        ),
        pytest.param({"conn_type": "quilt", "extra": {"registry": 5}}, "'registry' is int", id="number"),
        pytest.param({"conn_type": "quilt", "extra": {"aws_conn_id": ["a"]}}, "'aws_conn_id' is list", id="list"),
    ],
)
def test_bad_field_is_named(connect: Connect, connection: object, says: str) -> None:
    with pytest.raises(SettingsError, match=f"connection 'quilt_default': .*{says}"):
        _ = connect(connection).settings


def test_missing_connection_is_named() -> None:
    with pytest.raises(SettingsUnavailableError, match="no connection 'nowhere': .*AIRFLOW_CONN_NOWHERE"):
        QuiltHook("nowhere").registry()


def test_missing_registry_has_cure(connect: Connect) -> None:
    with pytest.raises(SettingsError, match=r"give registry=, or set the extra 'registry' of the connection 'quilt_default'"):
        connect({"conn_type": "quilt"}).registry()


def test_defaults_need_no_connection() -> None:
    assert QuiltHook(None).settings == QuiltSettings()


def test_init_reads_no_connection() -> None:
    assert QuiltHook("nowhere").quilt_conn_id == "nowhere"


def test_given_registry_overrides(connect: Connect) -> None:
    hook = connect({"conn_type": "quilt", "extra": {"registry": "s3://reg", "aws_conn_id": None, "region_name": "us-east-1"}})
    assert str(hook.registry().location) == "s3://reg"
    assert str(hook.get_conn().location) == "s3://reg"
    assert str(hook.registry("s3://other").location) == "s3://other"


def test_registry_path_is_refused(connect: Connect) -> None:
    with pytest.raises(LocationError, match=r"write 's3://reg'.*'dest'"):
        connect({"conn_type": "quilt", "extra": {"registry": "s3://reg/path"}}).registry()


def test_aws_settings_reach_client(connect: Connect) -> None:
    extra = {
        **AWS["extra"],
        "config_kwargs": {"retries": {"total_max_attempts": 2}, "max_pool_connections": 3, "s3": {"addressing_style": "path"}},
    }
    connect({**AWS, "extra": extra}, "S3_TEAM")
    hook = connect(
        {"conn_type": "quilt", "extra": {"registry": "s3://reg", "aws_conn_id": "s3_team", "region_name": "eu-north-1"}}
    )

    storage = hook.registry().stores.remote
    assert isinstance(storage, S3Storage)
    meta = storage._client.meta  # noqa: SLF001

    assert meta.endpoint_url == "http://127.0.0.1:9"
    assert meta.region_name == "eu-north-1"
    assert meta.config.retries == {"total_max_attempts": 2, "mode": "standard"}
    assert meta.config.max_pool_connections == 3
    assert meta.config.s3["addressing_style"] == "path"
    assert meta.config.connect_timeout == 10


def test_sessions_read_models_once(connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(AWS, "AWS_DEFAULT")

    def reader() -> object:
        storage = connect({"conn_type": "quilt", "extra": {"registry": "s3://reg"}}).registry().stores.remote
        assert isinstance(storage, S3Storage)
        return storage._client.meta.service_model._service_description  # type: ignore[attr-defined]  # noqa: SLF001

    first = reader()
    assert reader() is first
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))  # Descriptions may be there too.
    assert reader() is not first


def test_limits_reach_stores(connect: Connect) -> None:
    connect(AWS, "AWS_DEFAULT")
    extra = {"registry": "s3://reg", "region_name": "us-east-1"}
    limits = {"max_concurrency": 50, "max_bytes_in_flight": 1000, "spill_entries": 10}
    default = connect({"conn_type": "quilt", "extra": extra}).registry().stores
    given = connect({"conn_type": "quilt", "extra": extra | limits}).registry().stores
    overridden = QuiltHook(max_concurrency=60).registry().stores

    assert default.limits == Limits()
    assert given.limits == Limits(50, 1000, 10)
    assert overridden.limits == Limits(60, 1000, 10)
    for stores in (default, given, overridden):
        assert isinstance(stores.remote, S3Storage)
        assert stores.remote._client.meta.config.max_pool_connections >= stores.limits.max_concurrency  # noqa: SLF001


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "many"])
def test_bad_concurrency_is_named(connect: Connect, value: Any) -> None:
    connect({"conn_type": "quilt", "extra": {"registry": "s3://reg"}})
    with pytest.raises(InputError, match="max_concurrency .*: expected an int above 0"):
        QuiltHook(max_concurrency=value).registry()


def test_bad_endpoint_names_aws_conn(connect: Connect) -> None:
    connect({**AWS, "extra": {"endpoint_url": "nonsense"}}, "AWS_DEFAULT")
    with pytest.raises(SettingsError, match="AWS connection 'aws_default': Invalid endpoint: nonsense"):
        connect({"conn_type": "quilt", "extra": {"registry": "s3://reg"}}).registry()


def test_dest_is_per_package(connect: Connect) -> None:
    """Apply the connection's dest only to the connection's own registry."""
    hook = connect(
        {
            "conn_type": "quilt",
            "extra": {"registry": "s3://reg", "dest": "s3://reg/landing/", "aws_conn_id": None, "region_name": "us-east-1"},
        }
    )
    assert hook.open().landing_prefix(NAME) == "s3://reg/landing/team/data"
    assert hook.open("s3://other").landing_prefix(NAME) is None


def test_catalog_url_needs_a_host(connect: Connect) -> None:
    extra = {"registry": "s3://reg", "aws_conn_id": None, "region_name": "us-east-1"}
    hook = connect({"conn_type": "quilt", "host": "catalog.example.com", "extra": extra})
    page = f"https://catalog.example.com/b/reg/packages/team/data/tree/{'ab' * 32}/"
    assert hook.open().to_xcom(NAME, "ab" * 32)["catalog_url"] == page

    hook = connect({"conn_type": "quilt", "extra": extra})
    assert hook.open().to_xcom(NAME, "ab" * 32)["catalog_url"] is None
