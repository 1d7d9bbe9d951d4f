"""Packages as assets: URIs, outlets, events, and the link to the catalog."""

from typing import Any

import pytest
from airflow.sdk import DAG, Asset, AssetAlias, task, task_group
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_quilt._compat import AirflowFailException
from airflow_quilt.assets import quilt_alias, quilt_asset
from airflow_quilt.assets.uri import from_quilt_uri, package_of, to_quilt_uri
from airflow_quilt.core.errors import InputError, LocationError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.core.registry.attempt import RollbackTag
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.decorators import quilt_push
from airflow_quilt.operators import QuiltBuildOperator, QuiltPushOperator, QuiltRollbackOperator, entry
from airflow_quilt.operators.shards import QuiltPlanPushOperator
from airflow_quilt.task_groups import quilt_push_group
from airflow_quilt.triggers.package import QuiltPackageTrigger
from tests.airflow.support import events, instance, late, needs_airflow, result, run_data, run_here, until_airflow

HASH = "0123456789abcdef" * 4


def test_asset_uri_is_canonical() -> None:
    asset = quilt_asset("team/data", "s3://bucket")

    assert (asset.name, asset.uri) == ("quilt+s3://bucket/team/data",) * 2
    assert asset == quilt_asset("quilt+s3://bucket#package=team/data") == quilt_asset("team/data", registry="s3://bucket/")
    assert asset.watchers == []
    assert quilt_asset("team/*", "s3://bucket").uri == "quilt+s3://bucket/team/*"
    assert quilt_asset("team/data", "s3://bucket", group="ours", extra={"a": 1}).extra == {"a": 1}


def test_watch_adds_a_trigger() -> None:
    asset = quilt_asset("team/data", "s3://bucket", watch={"poll_interval": 5})

    [watcher] = asset.watchers
    assert watcher.name == "watch quilt+s3://bucket/team/data"
    assert asset.uri == quilt_asset("team/data", "s3://bucket").uri
    expected = QuiltPackageTrigger("team/data", "s3://bucket", poll_interval=5)
    assert watcher.trigger.serialize() == expected.serialize()


@pytest.mark.parametrize(
    ("package", "registry"),
    [
        ("team/data", None),
        ("team", "s3://bucket"),
        ("team/data", "bucket"),
        ("team/data", "s3://bucket/prefix"),
        ("team/data", "file:///registry"),
        ("quilt+s3://bucket#package=team/data", "s3://bucket"),
        ("quilt+s3://bucket#path=a", None),
    ],
)
def test_invalid_package_is_refused(package: str, registry: str | None) -> None:
    with pytest.raises(InputError):
        quilt_asset(package, registry)


@pytest.mark.parametrize(
    "uri",
    [
        "quilt+s3://bucket#package=team/data",
        "quilt+s3://bucket",
        "quilt+s3://bucket/team",
        "quilt+s3://bucket/team/data/more",
        "quilt+s3://bucket/team/da ta",
        "quilt+s3://bucket/team/data?versionId=1",
        "quilt+s3:///team/data",
    ],
)
def test_bad_uri_names_right_form(uri: str) -> None:
    with pytest.raises(ValueError, match=r"written quilt\+s3://bucket/namespace/name"):
        Asset(uri)


def test_uri_keeps_its_case() -> None:
    assert Asset("quilt+s3://bucket/team/data/").uri == "quilt+s3://bucket/team/data"
    assert Asset("quilt+s3://Bucket/team/Data").uri == "quilt+s3://Bucket/team/Data"


def test_asset_uri_round_trips() -> None:
    uri = "quilt+s3://bucket/team/data"
    assert package_of(uri) == ("s3://bucket", "team/data")
    assert to_quilt_uri(uri) == "quilt+s3://bucket#package=team/data"
    assert to_quilt_uri(uri, HASH) == f"quilt+s3://bucket#package=team/data@{HASH}"
    assert from_quilt_uri(to_quilt_uri(uri, HASH)) == uri
    for wrong in ("s3://bucket/team/data", "quilt+s3://bucket/team/*"):
        with pytest.raises(LocationError):
            to_quilt_uri(wrong)


def test_rollback_has_an_event(connected: str, s3_registry: Registry) -> None:
    """A retry of a rollback that was killed after it moved ``latest`` emits the event; a rollback to the latest emits none."""
    hashes = []
    for text in "ab":
        push = QuiltPushOperator(task_id="push", package="team/data", entries={"a.txt": entry(content=text)})
        hashes.append(push.execute({})["top_hash"])
    asset = quilt_asset("team/data", connected)
    common = {"task_id": "back", "package": "team/data", "registry": connected, "revision": hashes[0]}

    for context, emits in (
        (instance(), True),
        (instance(tries=2), True),
        (instance(tries=3, cleared=1), False),
        (instance(task_id="other"), False),
    ):
        told = OutletEventAccessors()
        back = QuiltRollbackOperator(**common)
        outcome = back.execute({**context, "outlet_events": told})
        assert outcome["previous"] == hashes[emits]
        assert back.outlets == ([asset] if emits else [])
        if emits:
            values = {name: outcome[name] for name in ("top_hash", "previous", "quilt_uri", "catalog_url")}
            assert told[asset].extra == {**values, "message": None}

    tag = s3_registry.latest("team/data").rollback_tag  # type: ignore[union-attr]
    assert (tag.previous, tag.task) == (hashes[1], "dag/run/push/-1")
    assert RollbackTag.parse(str(tag)) == tag
    newest = QuiltPushOperator(task_id="push", package="team/data", entries={"a.txt": entry(content="c")}).execute({})
    assert (newest["previous"], s3_registry.latest("team/data").rollback_tag) == (hashes[0], None)  # type: ignore[union-attr]


@pytest.mark.parametrize("operator", [QuiltPushOperator, QuiltBuildOperator])
def test_known_package_is_an_outlet(operator: Any) -> None:
    asset = quilt_asset("team/data", "s3://bucket")
    other = Asset("s3://bucket/other")

    def outlets(**arguments: Any) -> list[Any]:
        return list(
            operator(
                **{"task_id": "t", "package": "team/data", "registry": "s3://bucket", "entries": "/data/", **arguments}
            ).outlets
        )

    assert outlets() == [asset]
    assert outlets(outlets=[other]) == [other, asset]
    assert outlets(outlets=[asset]) == [asset]
    for unknown in (
        {"registry": None},
        {"registry": "{{ params.registry }}"},
        {"package": "team/{{ ds_nodash }}"},
    ):
        assert outlets(**unknown) == []


def test_event_carries_top_hash(connected: str) -> None:
    told = OutletEventAccessors()
    alias = AssetAlias("whatever the run publishes")
    push = QuiltPushOperator(
        task_id="push", package="team/data", registry=connected, entries={"a.txt": entry(content="a")}, outlets=[alias]
    )

    result = push.execute({"outlet_events": told})

    asset = quilt_asset("team/data", connected)
    [of_alias] = told[alias].asset_alias_events
    assert of_alias.extra["top_hash"] == result["top_hash"]
    assert of_alias.dest_asset_key.uri == asset.uri
    assert push.outlets == [alias]  # Airflow makes another event of each asset among them.


def test_asset_and_alias_make_one_event(dag: DAG, connected: str, caplog: pytest.LogCaptureFixture) -> None:
    """An alias beside the known asset, also one of the task's own name, has the event; mapped tasks with both have one each."""
    common = {"registry": connected, "entries": {"a.txt": entry(content="a")}}
    with dag:
        QuiltPushOperator(task_id="push", package="team/a", outlets=[quilt_alias(dag.dag_id, "push")], **common)
        QuiltPushOperator.partial(task_id="mapped", **common).expand_kwargs(
            [{"package": "team/b"}, {"package": "{{ 'team/c' }}"}]
        )

    with caplog.at_level("INFO", "airflow_quilt"):
        run = run_here(dag)

    assert str(run.state) == "success"
    for name, task_id in (("a", "push"), ("b", "mapped"), ("c", "mapped")):
        uri = quilt_asset(f"team/{name}", connected).uri
        [event] = events(uri)
        assert event.source_task_id == task_id
        assert f"Event of the asset {uri}, by the alias {quilt_alias(dag.dag_id, task_id).name!r}" in caplog.text


@until_airflow("3.3")
def test_partition_needs_airflow_3_3(connected: str, s3_registry: Registry) -> None:
    given = {"package": "team/data", "registry": connected, "entries": {"a.txt": entry(content="a")}}
    message = "partition_key '2026-11-23': .* 3.3 or newer"

    with pytest.raises(InputError, match=message):
        QuiltPushOperator(task_id="push", partition_key="2026-11-23", **given)
    with pytest.raises(AirflowFailException, match=message):
        late(QuiltPushOperator, task_id="push", partition_key="2026-11-23", **given).execute(
            {"outlet_events": OutletEventAccessors()}
        )
    assert list(s3_registry.packages()) == []


def test_unchanged_push_emits_no_event(dag: DAG, connected: str, s3_registry: Registry) -> None:
    QuiltPushOperator(
        task_id="push",
        package="team/data",
        registry=connected,
        entries={"a.txt": entry(content="{{ params.text }}")},
        message="by {{ params.text }}",
        dag=dag,
    )
    uri = quilt_asset("team/data", connected).uri

    runs = [run_here(dag, run_conf={"text": text}) for text in ("one", "one", "two")]

    assert [str(run.state) for run in runs] == ["success"] * 3
    newest, oldest = s3_registry.revisions(PackageName.parse("team/data"))
    assert [event.extra for event in events(uri)] == [
        {
            "top_hash": revision.top_hash,
            "previous": previous,
            "quilt_uri": f"quilt+{connected}#package=team/data@{revision.top_hash}",
            "catalog_url": None,
            "message": message,
            "entries": 1,
            "bytes": 3,
            "added": int(previous is None),
            "modified": int(previous is not None),
            "removed": 0,
        }
        for revision, previous, message in ((oldest, None, "by one"), (newest, oldest.top_hash, "by two"))
    ]


def test_unknown_package_brings_alias(database: None) -> None:
    """Tasks whose package or registry is unknown at parse time have one alias, in every way to write them."""
    asset, given, other = quilt_asset("team/data", "s3://b"), AssetAlias("given"), Asset("s3://bucket/other")
    entries = {"a.txt": entry(content="a")}
    with DAG("ünknown", schedule=None, default_args={"registry": "s3://b"}) as dag:

        @task
        def found() -> list[dict[str, str]]:
            return []

        @quilt_push(package="{{ ds }}/x", task_id="function")
        def make(text: str) -> dict[str, Any]:
            return {text: entry(content=text)}

        quilt_push_group("group", package="team/data", registry=None, entries=entries)
        QuiltPushOperator(task_id="template", package="team/{{ ds }}", entries=entries)
        QuiltPushOperator(task_id="connection", package="team/data", registry=None, entries=entries)
        QuiltPushOperator(task_id="xcom", package=found()["package"], entries=entries, outlets=other)
        QuiltPushOperator.partial(task_id="mapped", entries=entries).expand(package=found())
        QuiltPushOperator.partial(task_id="kwargs", entries=entries, outlets=None).expand_kwargs(
            [{"package": "team/data"}, found()]
        )
        make.expand(text=["a", "b"])
        QuiltRollbackOperator(task_id="back", package="team/{{ ds }}", revision="abcdef")
        QuiltRollbackOperator(task_id="back_known", package="team/data", revision="abcdef")
        QuiltPushOperator(task_id="named", package="team/{{ ds }}", entries=entries, outlets=[asset])
        QuiltPushOperator(task_id="alias", package="team/{{ ds }}", entries=entries, outlets=given)
        QuiltBuildOperator(task_id="local", package="team/data", registry="/a/directory", entries="/data/")
    later = QuiltPushOperator(task_id="later", package="team/data", entries=entries)
    assert later.outlets == []
    dag.add_task(later)

    own = {"template", "connection", "mapped", "function", "group.commit", "back", "later"}
    expected: dict[str, list[Any]] = {name: [quilt_alias("ünknown", name)] for name in own}
    expected |= {"xcom": [other, quilt_alias("ünknown", "xcom")], "kwargs": [asset, quilt_alias("ünknown", "kwargs")]}
    expected |= {"named": [asset], "back_known": [asset], "alias": [given], "local": []}
    assert {name: dag.get_task(name).outlets for name in expected} == expected
    assert quilt_alias("ünknown", "later").name == "quilt:%C3%BCnknown.later"
    assert quilt_alias("etl", "group.push").name == "quilt:etl.group.push"


@pytest.mark.filterwarnings("ignore:Using Connection.get_connection_from_secrets")  # Airflow 3.0 itself, in dag.test().
def test_readme_push_has_an_event(dag: DAG, connected: str, caplog: pytest.LogCaptureFixture) -> None:
    """The registry is in the connection alone; each run is that of a DAG that Airflow has stored."""
    QuiltPushOperator(task_id="push", package="team/data", entries={"a.txt": entry(content="{{ params.text }}")}, dag=dag)
    uri = quilt_asset("team/data", connected).uri

    with caplog.at_level("INFO", "airflow_quilt"):
        runs = [run_data(dag, run_conf={"text": text}) for text in ("one", "one", "two")]

    assert [str(run.state) for run in runs] == ["success"] * 3
    first, _, third = (result(run, "push") for run in runs)
    assert [event.extra["top_hash"] for event in events(uri)] == [first["top_hash"], third["top_hash"]]
    alias = quilt_alias(dag.dag_id, "push").name
    [told, nothing, again] = [record.getMessage() for record in caplog.records if record.name.endswith("operators._events")]
    assert told == again == f"Event of the asset {uri}, by the alias {alias!r}"
    assert nothing == f"No event of the asset {uri}: nothing has changed"


def test_alias_gets_runtime_package(dag: DAG, connected: str) -> None:
    QuiltPushOperator(
        task_id="push",
        package="team/{{ params.name }}",
        entries={"a.txt": entry(content="a")},
        outlets=[AssetAlias("whatever the run publishes")],
        dag=dag,
    )

    run = run_here(dag, run_conf={"name": "late"})

    assert str(run.state) == "success"
    [event] = events(quilt_asset("team/late", connected).uri)
    assert event.extra["quilt_uri"].startswith(f"quilt+{connected}#package=team/late@")


def test_mapped_pushes_emit_events(dag: DAG, connected: str, s3_registry: Registry) -> None:
    """Each instance that makes a revision emits the event of its own package, however the package is given."""
    named = {"registry": connected, "entries": {"a.txt": entry(content="a")}, "dedupe": False}
    dag.default_args = {"registry": connected}
    with dag:

        @task
        def packages() -> list[dict[str, str]]:
            return [{"package": "late/one"}, {"package": "late/two"}]

        @quilt_push(package="dec/orated", dedupe=False)
        def make(text: str, more: str = "") -> dict[str, Any]:
            return {f"{text}.txt": entry(content=text + more)}

        @task_group
        def group(text: str) -> None:
            QuiltPushOperator(task_id="push", package="grou/ped", entries={"a.txt": entry(content=text)}, dedupe=False)

        group.expand(text=["one", "two"])
        QuiltPushOperator.partial(task_id="entries", package="same/same").expand(
            entries=[{"a.txt": entry(content=text)} for text in ("one", "two")]
        )
        QuiltPushOperator.partial(task_id="packages", **named).expand(package=["each/one", "each/two"])
        QuiltPushOperator.partial(task_id="kwargs", entries={"a.txt": entry(content="a")}).expand_kwargs(
            [{"package": "kwargs/one"}, {"package": "kwargs/two", "registry": f"{connected}/"}]
        )
        QuiltPushOperator.partial(task_id="declared", outlets=[quilt_asset("late/one", connected)], **named).expand_kwargs(
            packages()
        )
        QuiltPushOperator.partial(task_id="alias", outlets=[AssetAlias("late ones")], **named).expand_kwargs(packages())
        QuiltPushOperator.partial(task_id="own", **named).expand_kwargs(
            [{"package": "known/one"}, {"package": "{{ 'late/two' }}"}]
        )
        QuiltPushOperator.partial(task_id="own_late", **named).expand_kwargs(packages())
        make.override(package="dec/other").expand(text=["one", "two"])
        make.override(task_id="again").partial(more="x").expand_kwargs([{"text": "three"}])
        QuiltPlanPushOperator.partial(task_id="plan", package="plan/ned").expand(entries=["/nowhere"])

    run = run_here(dag)

    assert {ti.task_id for ti in run.get_task_instances() if str(ti.state) != "success"} == {"plan"}
    expected = {
        "same/same": [("entries", 0), ("entries", 1)],
        "each/one": [("packages", 0)],
        "each/two": [("packages", 1)],
        "kwargs/one": [("kwargs", 0)],
        "kwargs/two": [("kwargs", 1)],
        "known/one": [("own", 0)],
        "late/one": [("alias", 0), ("declared", 0), ("own_late", 0)],
        "late/two": [("alias", 1), ("own", 1), ("own_late", 1)],
        "grou/ped": [("group.push", 0), ("group.push", 1)],
        "dec/orated": [("again", 0)],
        "dec/other": [("make", 0), ("make", 1)],
        "plan/ned": [],
    }
    for package, instances in expected.items():
        found = events(quilt_asset(package, connected).uri)
        assert sorted((event.source_task_id, event.source_map_index) for event in found) == instances, package
        made = {revision.top_hash for revision in s3_registry.revisions(PackageName.parse(package))} if instances else set()
        assert {event.extra["top_hash"] for event in found} == made


def test_mapped_task_has_outlets() -> None:
    asset, other = quilt_asset("team/data", "s3://bucket"), Asset("s3://bucket/other")
    number = iter(range(9))

    def outlets(**arguments: Any) -> list[Any]:
        given = {"package": "team/data", "registry": "s3://bucket", **arguments}
        return list(QuiltBuildOperator.partial(task_id=f"t{next(number)}", **given).expand(entries=["/data/"]).outlets)

    with DAG("mapped", schedule=None):
        assert outlets() == outlets(outlets=None) == outlets(outlets=[asset]) == [asset]
        assert outlets(outlets=other) == outlets(outlets=[other]) == [other, asset]
        assert outlets(registry="/a/directory") == []


def test_unchanged_mapped_emits_nothing(dag: DAG, connected: str) -> None:
    """A mapped build that makes no revision emits no event, neither of its package nor of that of another instance."""
    with dag:
        for name in ("first", "again"):
            QuiltBuildOperator.partial(task_id=name, registry=connected, allow_empty=True, mode="update").expand(
                package=["team/one", "team/two"]
            )
        dag.get_task("first") >> dag.get_task("again")

    run = run_here(dag)

    assert str(run.state) == "success"
    for package in ("team/one", "team/two"):
        [event] = events(quilt_asset(package, connected).uri)
        assert event.source_task_id == "first"


def test_missing_outlet_is_logged(connected: str, caplog: pytest.LogCaptureFixture) -> None:
    push = QuiltPushOperator(task_id="push", package="team/data", entries={"a.txt": entry(content="a")})
    with caplog.at_level("INFO", "airflow_quilt"):
        push.execute({"outlet_events": OutletEventAccessors()})
    assert f"No event of the asset quilt+{connected}/team/data: it is no outlet of the task; add outlets=[" in caplog.text


@needs_airflow("3.3")
def test_event_has_task_partition(dag: DAG, connected: str, caplog: pytest.LogCaptureFixture) -> None:
    QuiltPushOperator(
        task_id="push",
        package="team/data",
        registry=connected,
        entries={"a.txt": entry(content="a")},
        partition_key="{{ params.week }}",
        dag=dag,
    )
    QuiltPushOperator(
        task_id="late", package="team/late", entries={"a.txt": entry(content="a")}, partition_key="{{ params.week }}", dag=dag
    )

    run = run_here(dag, run_conf={"week": "2026-11-23"})

    assert str(run.state) == "success"
    late = quilt_asset("team/late", connected).uri
    assert [event.partition_key for event in events(late)] == [None]
    cure = f"add outlets=[quilt_asset('team/late', '{connected}')]"
    assert f"The partition '2026-11-23' is lost, as the events of an alias have none: {cure}" in caplog.text
    assert [event.partition_key for event in events(quilt_asset("team/data", connected).uri)] == ["2026-11-23"]
