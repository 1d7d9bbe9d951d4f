"""Many pushes and installs while requests go wrong: each ends right, or fails cleanly with nothing visible."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from testbed.faults import KINDS, Kind
from testbed.server import S3Server
from tests.chaos.conftest import Figures
from tests.chaos.faults import Weather, World, publish_through

MIXES: dict[str, Sequence[Kind]] = {**{kind: (kind,) for kind in KINDS}, "all of them": KINDS}
WORKERS = 4
ROUNDS = {0.01: 20, 0.05: 10, 0.2: 8}


@pytest.fixture(scope="module")
def world(s3: S3Server) -> World:
    return World(s3, s3.make_bucket("chaos-faults-registry"), s3.make_bucket("chaos-faults-source"))


@pytest.mark.parametrize("rate", ROUNDS, ids=lambda rate: f"{rate:.0%}")
@pytest.mark.parametrize("mix", MIXES)
def test_faults_end_cleanly(world: World, tmp_path: Path, figures: Figures, mix: str, rate: float) -> None:
    tally = publish_through(world, Weather(MIXES[mix], rate), tmp_path, WORKERS, ROUNDS[rate])
    figures(str(tally))

    assert tally.wrong == []
    assert tally.pushed + tally.failed == tally.installed + tally.refused == WORKERS * ROUNDS[rate]
    assert rate < 0.05 or tally.faults.total() > 10
