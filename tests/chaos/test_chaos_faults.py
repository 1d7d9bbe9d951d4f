"""Many pushes and installs while requests go wrong: each ends right, or fails cleanly with nothing visible."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

from testbed.faults import KINDS, Kind, RandomFaults
from testbed.proxy import running_proxy
from testbed.server import S3Server
from tests.chaos.conftest import Figures
from tests.chaos.faults import Publisher, Weather, World, copies, objects_in_place, publish_through, update

MIXES: dict[str, Sequence[Kind]] = {**{kind: (kind,) for kind in KINDS}, "all of them": KINDS}
WORKERS = 4
ROUNDS = {0.01: 20, 0.05: 10, 0.2: 8}


@pytest.fixture(scope="module")
def world(s3: S3Server) -> World:
    return World(s3, s3.make_bucket("chaos-faults-registry"), s3.make_bucket("chaos-faults-source"))


@pytest.fixture
def old_world(s3: S3Server) -> World:
    """A registry and sources whose objects were put before their buckets kept versions, so that their version is ``null``."""
    world = World(s3, *(s3.make_bucket(f"chaos-old-{name}", versioned=False) for name in ("registry", "source")))
    for bucket in (world.bucket, world.source) if world.objects else ():
        s3.set_versioning(bucket, "Enabled")
    return world


@pytest.mark.parametrize("rate", ROUNDS, ids=lambda rate: f"{rate:.0%}")
@pytest.mark.parametrize("mix", MIXES)
def test_faults_end_cleanly(world: World, tmp_path: Path, figures: Figures, mix: str, rate: float) -> None:
    tally = publish_through(world, Weather(MIXES[mix], rate), tmp_path, WORKERS, ROUNDS[rate])
    figures(str(tally))

    assert tally.wrong == []
    assert tally.pushed + tally.failed == tally.installed + tally.refused == WORKERS * ROUNDS[rate]
    assert rate < 0.05 or tally.faults.total() > 10


@pytest.mark.parametrize("rate", [0.0, 0.05], ids=lambda rate: f"{rate:.0%}")
@pytest.mark.parametrize("store", ["no conditions", "lost versions"])
def test_poor_stores_end_cleanly(
    world: World, tmp_path: Path, figures: Figures, store: Literal["no conditions", "lost versions"], rate: float
) -> None:
    tally = publish_through(world, Weather(KINDS, rate, store=store), tmp_path, WORKERS, rounds=10)
    figures(str(tally))

    assert tally.wrong == []
    assert tally.pushed + tally.failed == tally.installed + tally.refused == WORKERS * 10
    assert bool(tally.destroyed) == (store == "lost versions")


def test_null_versions_stay_named(old_world: World, tmp_path: Path, figures: Figures) -> None:
    """Overwrite the objects in the end: the versions that the packages name are there still."""
    with running_proxy(old_world.s3) as proxy:
        publisher = Publisher(old_world, "faults/old", proxy, tmp_path, random.Random(0))  # noqa: S311
        with proxy.disturbed(RandomFaults(random.Random(0), 0.05)):  # noqa: S311
            for make in [copies, objects_in_place, update] * 5:
                publisher.push(make)
                publisher.install()
        publisher.tally.faults = proxy.count_faults()
    for bucket, key in itertools.product((old_world.bucket, old_world.source), old_world.objects):
        old_world.client.put_object(Bucket=bucket, Key=f"data/{key}", Body=b"other bytes")
    publisher.check_history()
    figures(str(publisher.tally))

    assert publisher.tally.wrong == []
    assert publisher.tally.faults.total() > 10
