"""A process that publishes, installs, deletes, fails and is stopped for a long time holds no more than after a short time."""

import time
from pathlib import Path
from typing import Final

from testbed.server import S3Server
from tests.chaos.conftest import Figures
from tests.chaos.environment import in_child
from tests.chaos.soak import ENVIRONMENT, grown, soak

ROUNDS: Final = 500


def test_long_soak_leaks_nothing(s3: S3Server, bucket: str, tmp_path: Path, figures: Figures) -> None:
    began = time.monotonic()
    soaked = in_child(soak, s3, bucket, tmp_path, ROUNDS, environment=ENVIRONMENT)
    figures(f"{ROUNDS} rounds in {time.monotonic() - began:.0f} s: {soaked}")
    figures(", ".join(f"{count:,} times {what}" for what, count in sorted(soaked.done.items())))

    assert soaked.problems == []
    assert grown(soaked.samples) == []
    assert len(soaked.samples) == ROUNDS
