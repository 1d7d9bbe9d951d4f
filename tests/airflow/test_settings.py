"""Settings of a Quilt connection: every extra, typed and as text, and impossible values."""

import json
import os
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_quilt.core.errors import SettingsError, StorageUnavailableError
from airflow_quilt.core.format.uris import PhysicalKey
from airflow_quilt.core.runtime.limits import Limits
from airflow_quilt.core.runtime.retry import RetryPolicy
from airflow_quilt.core.storage.s3.crt.requests import Transport
from airflow_quilt.hooks._settings import QuiltSettings
from airflow_quilt.hooks._stores import make_aws_hook, make_client, make_stores
from testbed.airflow_home import connections
from testbed.proxy import S3Proxy
from tests.airflow.support import has_common_runtime


def settings(**fields: Any) -> QuiltSettings:
    extra = fields.pop("extra", {})
    return QuiltSettings.of(Connection(**{"conn_id": "lab", "conn_type": "quilt", "extra": json.dumps(extra), **fields}))


LOGIN = {"host": "https://catalog.example.com", "password": "qk_abc"}


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, (None, False, True, 30.0, False)),
        (
            {"workflow": "alpha", "anonymous": True, "verify": False, "timeout": 5, "allow_http": True},
            ("alpha", True, False, 5.0, True),
        ),
        (
            {"workflow": " alpha ", "anonymous": "True", "verify": "false", "timeout": "2.5", "allow_http": "true"},
            ("alpha", True, False, 2.5, True),
        ),
        ({"verify": "/etc/ssl/ours.pem"}, (None, False, "/etc/ssl/ours.pem", 30.0, False)),
        (
            {"workflow": None, "anonymous": None, "verify": None, "timeout": None, "allow_http": None},
            (None, False, True, 30.0, False),
        ),
        (
            {"workflow": "null", "anonymous": "", "verify": "None", "timeout": "", "allow_http": "null"},
            (None, False, True, 30.0, False),
        ),
    ],
    ids=["absent", "typed", "text", "file of an authority", "null", "text for nothing"],
)
def test_extras_may_be_text(extra: dict[str, Any], expected: tuple[object, ...]) -> None:
    found = settings(extra=extra)

    assert (found.workflow, found.anonymous, found.verify, found.timeout, found.allow_http) == expected


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, Limits()),
        ({"max_concurrency": 4, "max_bytes_in_flight": 1000, "spill_entries": 10}, Limits(4, 1000, 10)),
        ({"max_concurrency": " 4", "max_bytes_in_flight": "1000", "spill_entries": "10"}, Limits(4, 1000, 10)),
        ({"max_concurrency": None, "max_bytes_in_flight": "", "spill_entries": "null"}, Limits()),
    ],
    ids=["absent", "typed", "text", "nothing"],
)
def test_limits_may_be_text(extra: dict[str, Any], expected: Limits) -> None:
    assert settings(extra=extra).limits == expected


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, "auto"),
        ({"transport": None}, "auto"),
        ({"transport": "null"}, "auto"),
        ({"transport": "auto"}, "auto"),
        ({"transport": " boto3"}, "boto3"),
    ],
)
def test_transport(extra: dict[str, Any], expected: str) -> None:
    assert settings(extra=extra).transport == expected


@pytest.fixture
def through(proxy: S3Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> S3Proxy:
    """A proxy that ``aws_default`` names."""
    for name, value in connections(proxy.store, f"s3://{bucket}").items():
        monkeypatch.setenv(name, value)
    return proxy


@pytest.mark.parametrize("transport", ["auto", "boto3"])
def test_transport_reaches_stores(through: S3Proxy, bucket: str, transport: Transport) -> None:
    given = QuiltSettings(transport=transport)
    stores = make_stores(given, make_client(given, make_aws_hook(given, None)), RetryPolicy())

    assert list(stores.remote.list_objects(PhysicalKey(bucket, ""))) == []
    [request] = through.requests
    assert ("CRTS3NativeClient" in request.headers["User-Agent"]) == (transport == "auto" and has_common_runtime())


def test_loopback_store_has_no_proxy(through: S3Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment sees no request to a store of this machine, by no spelling of its host."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for host in ("127.0.0.1", "localhost"):
        extra = {
            "endpoint_url": through.store.endpoint.replace("127.0.0.1", host),
            "config_kwargs": {"s3": {"addressing_style": "path"}},
        }
        aws = {**json.loads(os.environ["AIRFLOW_CONN_AWS_DEFAULT"]), "extra": {"region_name": "us-east-1", **extra}}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(aws))
        stores = make_stores(
            QuiltSettings(), make_client(QuiltSettings(), make_aws_hook(QuiltSettings(), None)), RetryPolicy(attempts=1)
        )
        assert list(stores.remote.list_objects(PhysicalKey(bucket, ""))) == []
    assert len(through.requests) == 2


def test_retry_reaches_stores(through: S3Proxy, bucket: str) -> None:
    pauses: list[float] = []
    given = QuiltSettings(transport="boto3")
    stores = make_stores(given, make_client(given, make_aws_hook(given, None)), RetryPolicy(attempts=3, sleep=pauses.append))
    key = stores.remote.put(PhysicalKey(bucket, "object"), b"x" * 1000).key
    through.truncate(lambda request: request.method == "GET", times=100)

    with pytest.raises(StorageUnavailableError):
        stores.remote.get(key)
    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("host", "port", "catalog"),
    [
        ("catalog.example.com", None, "https://catalog.example.com"),
        (" https://Catalog.example.com/ ", None, "https://catalog.example.com"),
        ("catalog.example.com", 8443, "https://catalog.example.com:8443"),
        ("http://localhost:3000/path/", None, "http://localhost:3000/path"),
        ("https://[::1]", 443, "https://[::1]"),
    ],
)
def test_catalog_url_is_normal(host: str, port: int | None, catalog: str) -> None:
    assert settings(host=host, port=port).catalog == catalog


def test_registry_host() -> None:
    hosts = {
        None: None,
        "": None,
        " Registry.example.com": "registry.example.com",
        "10.0.0.1:8443": "10.0.0.1:8443",
        "[::1]": "[::1]",
    }

    assert {given: settings(extra={"registry_host": given}).registry_host for given in hosts} == hosts


def test_unknown_extras_are_named() -> None:
    """The nearest setting is named, by its letters or by its meaning; old forms of Airflow wrote a prefix."""
    said = {
        "regsitry": "did you mean 'registry'?",
        "Registry": "did you mean 'registry'?",
        "bucket": "did you mean 'registry'?",
        "extra__quilt__registry": "did you mean 'registry'?",
        "region": "did you mean 'region_name'?",
        "max-concurrency": "did you mean 'max_concurrency'?",
        "api_key": "put it into the password",
        "endpoint_url": "put it into the AWS connection, which the extra 'aws_conn_id' names",
        "team": "it has no effect",
    }
    for name, cure in said.items():
        [unknown] = settings(extra={"workflow": "alpha", name: "x"}).unknown
        assert str(unknown) == f"{name!r} is unknown; {cure}"
    assert settings(extra={"workflow": "alpha", "dest": None}).unknown == ()
    assert len(settings(extra={f"x\n{number}" * 1000: 1 for number in range(50)}).unknown) == 10


def test_no_extra_is_no_error() -> None:
    for extra in (None, "", "{}", " { } ", "null"):
        assert QuiltSettings.of(Connection(conn_id="lab", conn_type="quilt", extra=extra)) == QuiltSettings()


@pytest.mark.parametrize("extra", ["registry=s3://my-bucket", '["registry"]', '"s3://my-bucket"', "{registry: s3://my-bucket}"])
def test_extra_is_a_json_object(extra: str) -> None:
    with pytest.raises(SettingsError, match=r"connection 'lab': write its extra as a JSON object, such as"):
        QuiltSettings.of(Connection(conn_id="lab", conn_type="quilt", extra=extra))


def test_password_is_not_printed() -> None:
    found = settings(**LOGIN)

    assert found.secret == LOGIN["password"]
    assert "qk_abc" not in repr(found)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"password": "qk_abc"}, "it has a password but no host"),
        ({**LOGIN, "extra": {"anonymous": True}}, "it has a password and the extra 'anonymous'"),
        ({"extra": {"anonymous": "maybe"}}, "'anonymous' is str, expected true or false"),
        ({"extra": {"allow_http": 1}}, "'allow_http' is int, expected true"),
        ({"extra": {"verify": 5}}, "'verify' is int, expected true, false or a str"),
        ({"extra": {"timeout": "soon"}}, "'timeout' is str, expected a number of seconds above 0"),
        ({"extra": {"timeout": 0}}, "'timeout' is int, expected a number of seconds"),
        ({"extra": {"timeout": -1.0}}, "'timeout' is float, expected a number of seconds"),
        ({"extra": {"timeout": True}}, "'timeout' is bool, expected a number of seconds"),
        *(
            ({"extra": {name: value}}, f"'{name}' is {type(value).__name__}, expected an int above 0")
            for name in ("max_concurrency", "max_bytes_in_flight", "spill_entries")
            for value in (0, -1, 2.0, True, "many", "0", "1.5", [8])
        ),
        *(
            ({"extra": {"transport": value}}, f"'transport' is {value!r}, expected 'auto' or 'boto3'")
            for value in ("crt", 1, True)
        ),
        *(
            ({"extra": {name: ["ours"]}}, f"the extra '{name}' is unknown; did you mean '{meant}'")
            for name, meant in (("allowed_bukets", "allowed_buckets"), ("registry_hots", "registry_host"))
        ),
        ({"conn_type": "aws"}, "connection of type 'quilt'; this one is of type 'aws'; name it in the extra 'aws_conn_id'"),
        ({"conn_type": "http", **LOGIN}, "connection of type 'quilt'; this one is of type 'http'$"),
        ({"extra": {"registry": "my-bucket"}}, "a bucket is written s3://my-bucket"),
        ({"extra": {"workflow": ["alpha"]}}, "'workflow' is list, expected a str"),
        *(
            ({"host": host}, "its host: ")
            for host in (
                *(
                    "javascript:alert(1)",
                    "javascript://x/%0aalert(1)",
                    "data:text/html,x",
                    "https://x?y",
                    "ftp://x",
                    "https://a b",
                ),
                *("https://x\\@y", "http://evil\\@127.0.0.1", "https://127.1", "xn\u00e9.com"),
            )
        ),
        *(
            ({"extra": {"registry_host": host}}, "'registry_host': expected the name of a server")
            for host in ("https://registry.example.com", "registry.example.com/path", "a b", "a,b", "user@registry.example.com")
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_field_is_named(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=f"connection 'lab': .*{says}") as raised:
        settings(**fields)
    assert "qk_abc" not in str(raised.value)
