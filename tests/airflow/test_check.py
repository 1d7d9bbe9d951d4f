"""Testing a connection: success or failure, part by part, and nothing is left behind."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_quilt.core.errors import SettingsError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.publish.draft import Draft
from airflow_quilt.core.push import push
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.hooks.quilt import QuiltHook
from testbed.airflow_home import connections
from testbed.proxy import S3Proxy
from testbed.server import Identity, S3Server
from tests.airflow.support import has_common_runtime

Use = Callable[..., None]


@pytest.fixture
def use(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Use:
    """A function that puts a bucket's connection into the environment, for a user of the store, with more extras."""

    def use(bucket: str, identity: Identity | None = None, server: S3Server | None = None, **extra: Any) -> None:
        made = connections(server or s3, f"s3://{bucket}", identity)
        quilt = json.loads(made["AIRFLOW_CONN_QUILT_DEFAULT"])
        quilt["extra"] |= extra
        for name, value in {**made, "AIRFLOW_CONN_QUILT_DEFAULT": json.dumps(quilt)}.items():
            monkeypatch.setenv(name, value)

    return use


def found() -> tuple[bool, dict[str, str]]:
    """Test the default connection; return the verdict, and each part with its result."""
    ok, text = QuiltHook().test_connection()
    parts = {}
    for line in text.splitlines():
        mark, _, rest = line.removesuffix(";").partition(" ")
        part, _, detail = rest.partition(": ")
        parts[part] = f"{mark} {detail}"
    return ok, parts


def everything_in(s3: S3Server, bucket: str) -> tuple[object, object]:
    client = s3.client()
    return (
        client.list_object_versions(Bucket=bucket).get("Versions"),
        client.list_multipart_uploads(Bucket=bucket).get("Uploads"),
    )


def test_full_access_passes(use: Use, s3: S3Server, bucket: str) -> None:
    use(bucket)
    ok, parts = found()

    assert ok
    assert list(parts) == ["connection", "identity", "list", "read", "write", "versions", "workflows"]
    assert {detail.partition(" ")[0] for detail in parts.values()} == {"OK"}
    assert parts["identity"] == f"OK access key …{s3.admin.access_key[-4:]} at {s3.endpoint}"
    assert parts["list"] == f"OK s3://{bucket} has no package yet"
    assert everything_in(s3, bucket) == (None, None)


def test_read_only_is_a_warning(use: Use, s3: S3Server, bucket: str) -> None:
    use(bucket, s3.reader)
    ok, parts = found()

    assert ok
    assert parts["read"] == "OK may read .quilt/"
    assert parts["write"].startswith("WARNING ")
    assert "access denied" in parts["write"]


def test_missing_bucket_stops_checks(use: Use) -> None:
    use("no-such-bucket")
    ok, parts = found()

    assert not ok
    assert list(parts) == ["list", "connection", "identity"]
    assert parts["list"].startswith("FAILED ")
    assert "there is no such bucket" in parts["list"]


def test_wrong_secret_is_not_shown(use: Use, s3: S3Server, bucket: str) -> None:
    use(bucket, Identity(s3.admin.access_key, "not-the-secret"))
    ok, parts = found()

    assert not ok
    assert "does not match" in parts["list"]
    assert "not-the-secret" not in str(parts)


def test_unreachable_store_fails(use: Use, bucket: str) -> None:
    nobody = S3Server("http://127.0.0.1:9", Identity.make(), Identity.make())
    use(bucket, nobody.admin, nobody)
    ok, parts = found()

    assert not ok
    assert "Could not connect" in parts["list"]


def test_unversioned_bucket_warns(use: Use, plain_bucket: str) -> None:
    use(plain_bucket)
    ok, parts = found()

    assert ok
    assert parts["versions"].startswith("WARNING ")
    assert "keeps no versions" in parts["versions"]


@pytest.mark.parametrize(
    ("config", "verdict"),
    [
        (b"version: '1'\nworkflows: {alpha: {name: Alpha}}\n", "OK 'alpha'"),
        (b"version: '1'\nworkflows: {alpha: {name: Alpha, metadata_schema: gone}}\n", "FAILED workflows config"),
        (b"version: '1'\nworkflows: {alpha: {name: Alpha, handle_pattern: '('}}\n", "FAILED workflows config"),
        (b"not: a config", "FAILED workflows config"),
    ],
    ids=["good", "missing schema", "bad pattern", "no config"],
)
def test_workflows_config_is_read(use: Use, s3: S3Server, bucket: str, config: bytes, verdict: str) -> None:
    s3.client().put_object(Bucket=bucket, Key=".quilt/workflows/config.yml", Body=config)
    use(bucket)
    ok, parts = found()

    assert ok is verdict.startswith("OK")
    assert parts["workflows"].startswith(verdict)


def test_anonymous_has_no_identity(use: Use, bucket: str) -> None:
    use(bucket, anonymous=True)
    ok, parts = found()

    assert not ok
    assert parts["identity"] == "OK anonymous, public buckets"
    assert "access denied" in parts["list"].lower()


def test_warnings_are_shown(use: Use, s3: S3Server, plain_bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They come first in Airflow's page, and are logged; the command line, which logs nothing, prints them."""
    use(plain_bucket, s3.reader, regsitry="s3://typo")
    ok, text = QuiltHook().test_connection()

    warnings = [line.removesuffix(";") for line in text.splitlines()[:3]]
    assert ok
    assert warnings[0] == "WARNING extra: 'regsitry' is unknown; did you mean 'registry'?"
    assert [line.partition(":")[0] for line in warnings] == ["WARNING extra", "WARNING write", "WARNING versions"]
    logged = capsys.readouterr().out
    assert all(f" {line.partition(' ')[2]}" in logged for line in warnings)

    logging.disable(logging.CRITICAL)  # As the command line does.
    try:
        QuiltHook().test_connection()
    finally:
        logging.disable(logging.NOTSET)
    assert capsys.readouterr().out.splitlines()[-3:] == warnings


def test_misspelled_extra_is_named(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    """Once for each hook of the work, and where it is the reason for an error."""
    use("nowhere", registry=None, regsitry="s3://typo")
    hook = QuiltHook()

    for _ in range(2):
        with pytest.raises(SettingsError, match=r"no registry: .*; its extra 'regsitry' is unknown; did you mean 'registry'\?$"):
            hook.registry()
    QuiltHook(timeout=1).settings  # noqa: B018  (a trigger reads the connection again and again)
    assert capsys.readouterr().out.count("connection 'quilt_default': the extra 'regsitry' is unknown; did you mean") == 1


def test_no_registry_is_a_warning(use: Use, bucket: str) -> None:
    use(bucket, registry=None)
    ok, parts = found()

    assert ok
    assert parts["registry"].startswith("WARNING there is none")


def test_local_registry_is_checked(use: Use, bucket: str, tmp_path: Path) -> None:
    use(bucket, registry=str(tmp_path), aws_conn_id="nowhere")
    ok, parts = found()

    assert ok
    assert list(parts) == ["connection", "registry"]
    assert "a directory of this machine with no package yet" in parts["registry"]


@pytest.mark.parametrize(
    ("connection", "says"),
    [
        ({"conn_type": "quilt", "extra": {"timeout": "soon"}}, "FAILED connection"),
        ({"conn_type": "quilt", "password": "qk_abc"}, "FAILED connection"),
    ],
    ids=["bad extra", "login without a catalog"],
)
def test_bad_connection_fails_first(monkeypatch: pytest.MonkeyPatch, connection: dict[str, Any], says: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_QUILT_DEFAULT", json.dumps(connection))
    ok, parts = found()

    assert not ok
    assert list(parts) == ["connection"]
    assert parts["connection"].startswith(says)


def test_missing_connection_fails() -> None:
    ok, text = QuiltHook("nowhere").test_connection()

    assert not ok
    assert "AIRFLOW_CONN_NOWHERE" in text


@pytest.mark.parametrize(
    ("extra", "part", "says"),
    [
        ({"registry": "s3://reg/path"}, "registry", "a registry is a whole bucket"),
        ({"dest": "nonsense"}, "dest", "give a prefix in the registry's bucket"),
        ({"workflow": "alpha"}, "workflow", "no workflows config"),
    ],
)
def test_each_bad_extra_fails(use: Use, bucket: str, extra: dict[str, str], part: str, says: str) -> None:
    use(bucket, **extra)
    ok, parts = found()

    assert not ok
    assert parts[part].startswith("FAILED ")
    assert says in parts[part]


def test_good_extras_are_reported(use: Use, s3: S3Server, bucket: str) -> None:
    s3.client().put_object(
        Bucket=bucket, Key=".quilt/workflows/config.yml", Body=b"version: '1'\nworkflows: {alpha: {name: Alpha}}\n"
    )
    use(bucket, dest=f"s3://{bucket}/landing", workflow="alpha")
    ok, parts = found()

    assert ok
    assert parts["dest"] == f"OK files land below s3://{bucket}/landing"
    assert parts["workflow"] == "OK 'alpha' is in the registry's config"


def test_missing_aws_conn_is_named(use: Use, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(bucket, aws_conn_id="nowhere")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    ok, parts = found()

    assert not ok
    assert "there is no AWS connection 'nowhere'" in parts["identity"]


def test_public_bucket_is_readable(use: Use, s3: S3Server, s3_registry: Registry, bucket: str) -> None:
    push(s3_registry, Draft(package="team/data", entries={"a.txt": b"a"}))
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:GetBucketVersioning"],
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }
    s3.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    use(bucket, anonymous=True)
    hook = QuiltHook()

    registry = hook.registry()
    assert registry.read_bytes(registry.entry(PackageName("team", "data"), "a.txt")) == b"a"
    assert hook.test_connection()[0]


def aws(monkeypatch: pytest.MonkeyPatch, who: Identity | None, **extra: Any) -> None:
    """Put an AWS connection in the environment, with the keys of a user unless a profile has them."""
    keys = {"login": who.access_key, "password": who.secret_key} if who else {}
    made = {"conn_type": "aws", **keys, "extra": {"region_name": "us-east-1", **extra}}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(made))


def test_endpoint_of_s3_alone(use: Use, s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to name an endpoint leads the test where it leads the work; none asks AWS about another store's keys."""
    (tmp_path / "config").write_text(
        f"[profile ours]\nregion = us-east-1\nservices = ours\n[services ours]\ns3 =\n  endpoint_url = {s3.endpoint}\n"
    )
    (tmp_path / "credentials").write_text(
        f"[ours]\naws_access_key_id = {s3.admin.access_key}\naws_secret_access_key = {s3.admin.secret_key}\n"
    )
    extras: dict[str, dict[str, Any]] = {
        "service_config": {"service_config": {"s3": {"endpoint_url": s3.endpoint}}},
        "AWS_ENDPOINT_URL_S3": {},
        "AWS_ENDPOINT_URL": {},
        "profile": {"profile_name": "ours"},
    }
    use(bucket)
    for way, extra in extras.items():
        with monkeypatch.context() as patch:
            aws(patch, None if way == "profile" else s3.admin, **extra)
            patch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
            patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
            if way.isupper():
                patch.setenv(way, s3.endpoint)
            push(QuiltHook().registry(), Draft(package="team/data", entries={"a.txt": way.encode()}))
            ok, parts = found()
            assert ok, (way, parts)
            assert parts["identity"] == f"OK access key …{s3.admin.access_key[-4:]} at {s3.endpoint}"
            assert parts["list"] == f"OK s3://{bucket} has packages, team/data among them"


def test_requests_go_the_same_way(use: Use, proxy: S3Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of botocore decide the way of requests, in the test as in the work."""
    use(bucket)
    agents = {}
    for mode in ("standard", "adaptive"):
        aws(monkeypatch, proxy.store.admin, endpoint_url=proxy.store.endpoint, config_kwargs={"retries": {"mode": mode}})
        for name, work in (("test", found), ("work", lambda: list(QuiltHook().registry().packages()))):
            proxy.requests.clear()
            work()
            agents[mode, name] = any("CRTS3NativeClient" in request.headers["User-Agent"] for request in proxy.requests)
    assert agents == {
        ("standard", "test"): has_common_runtime(),
        ("standard", "work"): has_common_runtime(),
        ("adaptive", "test"): False,
        ("adaptive", "work"): False,
    }


def test_unsigned_client_is_anonymous(use: Use, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(bucket)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    aws(monkeypatch, None, endpoint_url=s3.endpoint, config_kwargs={"signature_version": "unsigned"})
    ok, parts = found()

    assert not ok
    assert parts["identity"] == "OK anonymous, public buckets"
    assert "access denied" in parts["list"].lower()


def test_sts_is_not_needed(use: Use, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that reaches S3 alone is enough: STS serves for a name, and goes through the connection's proxies."""
    use(bucket)
    nobody = "http://127.0.0.1:9"
    proxies = {"proxies": {"http": nobody, "https": nobody}}
    aws(monkeypatch, s3.admin, endpoint_url="https://s3.us-east-1.amazonaws.com", config_kwargs=proxies)

    who = QuiltHook(timeout=2).identify()

    assert who.startswith(
        f"access key …{s3.admin.access_key[-4:]} at https://s3.us-east-1.amazonaws.com; STS does not name its owner ("
    )
    assert "proxy" in who.lower()


def test_catalog_of_links_is_optional(use: Use, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a login no work depends on the catalog."""
    use(bucket)
    quilt = json.loads(os.environ["AIRFLOW_CONN_QUILT_DEFAULT"])
    monkeypatch.setenv("AIRFLOW_CONN_QUILT_DEFAULT", json.dumps({**quilt, "host": "http://127.0.0.1", "port": 9}))
    ok, parts = found()

    assert ok
    assert parts["catalog"].startswith("WARNING ")
    assert parts["workflows"] == "OK none"


def test_dest_is_tried(use: Use, s3: S3Server, bucket: str) -> None:
    use(bucket, s3.reader, dest=f"s3://{bucket}/landing")
    ok, parts = found()

    assert ok
    assert parts["dest"].startswith(f"WARNING s3://{bucket}/landing/")
    assert "access denied" in parts["dest"]
    assert everything_in(s3, bucket) == (None, None)
