"""Triggers and sessions while a store, STS or a secrets backend does not answer, or refuses for a moment."""

import asyncio
import itertools
import json
import os
import threading
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import AirflowException
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    MetadataRetrievalError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
    SSOTokenLoadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from airflow_quilt.core.errors import (
    AccessDeniedError,
    CredentialsExpiredError,
    QuiltError,
    SettingsError,
    SettingsUnavailableError,
    StorageError,
    StorageUnavailableError,
    ThrottledError,
)
from airflow_quilt.hooks._sessions import session_errors
from airflow_quilt.hooks.quilt import QuiltHook
from airflow_quilt.operators import QuiltPushOperator, entry
from airflow_quilt.triggers._registries import RegistryAccess
from airflow_quilt.triggers.revision import QuiltRevisionTrigger
from testbed.airflow_home import connections
from testbed.faults import Fault
from testbed.loopback import Request
from testbed.proxy import S3Proxy
from testbed.server import S3Server, role_arn

PATIENCE = 45
FAST = 0.2
SENSORS = 12


def publish() -> str:
    entries = {"a.txt": entry(content="a")}
    return str(QuiltPushOperator(task_id="push", package="team/data", entries=entries).execute({})["top_hash"])


def connection(kind: str, **fields: Any) -> str:
    return json.dumps({"conn_type": kind, **fields})


def is_sts(request: Request) -> bool:
    return request.method == "POST" and request.path == "/"


@pytest.fixture
def role(proxy: S3Proxy, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> S3Proxy:
    """A proxy in front of STS, which a connection asks for a role; S3 is reached directly."""
    for name, value in connections(s3, f"s3://{bucket}").items():
        monkeypatch.setenv(name, value)
    extra = {
        "role_arn": role_arn("writer"),
        "region_name": "us-east-1",
        "service_config": {"s3": {"endpoint_url": s3.endpoint}, "sts": {"endpoint_url": proxy.store.endpoint}},
    }
    who = {"login": s3.admin.access_key, "password": s3.admin.secret_key}
    monkeypatch.setenv("AIRFLOW_CONN_OF_ROLE", connection("aws", **who, extra=extra))
    quilt = {"registry": f"s3://{bucket}", "aws_conn_id": "of_role"}
    monkeypatch.setenv("AIRFLOW_CONN_BY_ROLE", connection("quilt", extra=quilt))
    return proxy


async def event_of(trigger: QuiltRevisionTrigger, seconds: float = PATIENCE) -> dict[str, Any]:
    """Run a trigger to its end; return the payload of its one event."""
    async with asyncio.timeout(seconds), aclosing(trigger.run()) as events:
        [event] = [event async for event in events]
    payload: dict[str, Any] = event.payload
    return payload


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  (other threads fulfil it)
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("role")
def test_dead_stores_stop_no_other(proxy: S3Proxy, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve sensors wait for stores and for an STS that do not answer; a package elsewhere is seen, and asyncio's pool is free."""
    top_hash = publish()
    monkeypatch.setenv("AIRFLOW_CONN_DEAD_STORE", connections(proxy.store, "s3://x")["AIRFLOW_CONN_AWS_DEFAULT"])
    monkeypatch.setenv("AIRFLOW_CONN_DEAD", connection("quilt", extra={"aws_conn_id": "dead_store"}))
    proxy.order(Fault("delay", seconds=PATIENCE), times=1000)
    dead = itertools.cycle([("dead", "s3://one"), ("dead", "s3://two"), ("by_role", None)])

    async def story() -> None:
        triggers = [QuiltRevisionTrigger("team/data", registry, conn) for conn, registry in itertools.islice(dead, SENSORS)]
        waiting = [asyncio.create_task(event_of(trigger)) for trigger in triggers]
        await until(lambda: proxy.count() >= 2 * 4 + 1)  # Four threads for each registry; one of the third is opening it.
        assert not any(task.done() for task in waiting)
        assert await asyncio.wait_for(asyncio.to_thread(int, "5"), PATIENCE / 10) == 5
        event = await event_of(QuiltRevisionTrigger("team/data"), PATIENCE / 3)
        assert event["found"]["top_hash"] == top_hash
        threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("quilt-registry")]
        assert len(threads) <= 4 * 4
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        proxy.end()

    asyncio.run(story())


def test_trigger_requests_are_bounded(role: S3Proxy) -> None:
    """One attempt and a short timeout for each request, those for credentials too; the mode of retries stays."""

    async def story() -> None:
        opened = await RegistryAccess("by_role", None).open()
        for config in (opened.hook._connect()[0].meta.config, opened.hook._aws.config):  # noqa: SLF001
            assert config.read_timeout < 30
            assert config.connect_timeout <= 5
            assert config.retries["total_max_attempts"] == 1

    asyncio.run(story())
    assert QuiltHook("by_role")._connect()[0].meta.config.read_timeout == 60  # noqa: SLF001


def test_sts_outage_is_waited_for(role: S3Proxy, caplog: pytest.LogCaptureFixture) -> None:
    top_hash = publish()
    for interval, times in ((FAST, 2), (3600.0, 1)):  # A request has one attempt, so the next poll must not be an hour away.
        caplog.clear()
        role.cut(is_sts, times=times)

        event = asyncio.run(event_of(QuiltRevisionTrigger("team/data", quilt_conn_id="by_role", poll_interval=interval)))

        assert event["found"]["top_hash"] == top_hash
        assert caplog.text.count("AWS connection 'of_role': Connection was closed") == times


def test_refusals_of_a_moment_pass(
    role: S3Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A secrets backend that fails looks like a missing connection; and a profile is put right while the trigger waits."""
    top_hash = publish()
    wrong = json.loads(os.environ["AIRFLOW_CONN_OF_ROLE"])
    wrong["extra"]["profile_name"] = "nobody"

    async def story() -> None:
        for registry, name, broken, says in (
            (None, "AIRFLOW_CONN_BY_ROLE", None, "there is no connection 'by_role'"),
            (
                f"s3://{bucket}",
                "AIRFLOW_CONN_OF_ROLE",
                json.dumps(wrong),
                "AWS connection 'of_role': The config profile (nobody)",
            ),
        ):
            whole = os.environ[name]
            monkeypatch.setenv(name, broken) if broken else monkeypatch.delenv(name)
            waiting = asyncio.create_task(event_of(QuiltRevisionTrigger("team/data", registry, "by_role", poll_interval=1)))
            await until(lambda: says in caplog.text)  # noqa: B023  (it is awaited here)
            monkeypatch.setenv(name, whole)
            event = await waiting
            assert event.get("found", event).get("top_hash") == top_hash, (name, event)

    asyncio.run(story())


def refused(code: str, status: int) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": "because"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "AssumeRole")


def test_session_errors_have_a_kind() -> None:
    """Errors of services are transient as they are in the work; errors of settings, of any library, are permanent."""
    for error, kind in (
        (refused("AccessDenied", 403), AccessDeniedError),
        (refused("InvalidClientTokenId", 403), AccessDeniedError),
        (refused("ForbiddenOfSomeNewKind", 403), AccessDeniedError),
        (refused("ExpiredToken", 403), CredentialsExpiredError),
        (refused("Throttling", 400), ThrottledError),
        (refused("IDPCommunicationError", 400), StorageUnavailableError),
        (refused("ServiceUnavailable", 503), StorageUnavailableError),
        (refused("ValidationError", 400), StorageError),
        (NoCredentialsError(), AccessDeniedError),
        (SSOTokenLoadError(error_msg="no file"), AccessDeniedError),
        (UnauthorizedSSOTokenError(), AccessDeniedError),
        (TokenRetrievalError(provider="sso", error_msg="expired"), CredentialsExpiredError),
        (CredentialRetrievalError(provider="custom-process", error_msg="exit 1"), StorageUnavailableError),
        (MetadataRetrievalError(error_msg="no answer"), StorageUnavailableError),
        (EndpointConnectionError(endpoint_url="https://sts"), StorageUnavailableError),
        (ConnectTimeoutError(endpoint_url="https://sts"), StorageUnavailableError),
        (ConnectionResetError("of an identity provider"), StorageUnavailableError),
        (RuntimeError("sts_response_http_status=500"), StorageUnavailableError),
        (ProfileNotFound(profile="nobody"), SettingsError),
        (NoRegionError(), SettingsError),
        (NotImplementedError("assume_role_method"), SettingsError),
        (AirflowException("Unsupported federation"), SettingsError),
        (KeyError("idp_url"), SettingsError),
        (FileNotFoundError("token"), SettingsError),
        (SettingsUnavailableError("as it is"), SettingsUnavailableError),
    ):
        with pytest.raises(QuiltError) as raised, session_errors("team"):
            raise error
        assert type(raised.value) is kind, error
        assert "AWS connection 'team': " in str(raised.value) or raised.value is error


def test_bad_sessions_are_named(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sessions that botocore and the Amazon provider refuse, each in its own way."""
    (tmp_path / "config").write_text("[profile process]\ncredential_process = /bin/false\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AIRFLOW_CONN_QUILT_DEFAULT", connection("quilt", extra={"registry": f"s3://{bucket}"}))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    arn = {"role_arn": role_arn("writer")}
    for extra, kind, says in (
        ({"profile_name": "nobody"}, SettingsError, "profile (nobody) could not be found"),
        ({**arn, "assume_role_method": "by_luck"}, SettingsError, "by_luck"),
        ({**arn, "assume_role_method": "assume_role_with_web_identity"}, SettingsError, "Unsupported federation"),
        (
            {**arn, "service_config": {"sts": {"endpoint_url": "http://127.0.0.1:9"}}},
            StorageUnavailableError,
            "Could not connect",
        ),
        ({"profile_name": "process", "endpoint_url": "http://127.0.0.1:9"}, StorageUnavailableError, "custom-process"),
        ({"config_kwargs": {"retries": {"mode": "hopeful"}}}, SettingsError, "hopeful"),
    ):
        keys = {"login": "key", "password": "secret"} if "profile_name" not in extra else {}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", connection("aws", **keys, extra={"region_name": "us-east-1", **extra}))
        with pytest.raises(kind) as raised:
            list(QuiltHook(timeout=2).registry().packages())
        assert says in str(raised.value), extra
        ok, text = QuiltHook().test_connection()
        assert not ok
        assert says in text
