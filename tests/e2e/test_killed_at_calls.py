"""Processes that work on a real S3 store are killed at their calls of it; `tests/chaos` does it with more kinds of work."""

from collections.abc import Iterator

import pytest

from testbed.server import S3Server
from tests.chaos.crashes import Crashes, crashing


@pytest.fixture(scope="module")
def crashes(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashes]:
    buckets = s3.make_bucket("killed-registry"), s3.make_bucket("killed-source")
    with crashing(s3, buckets, tmp_path_factory.mktemp("killed"), at_once=2) as crashes:
        yield crashes


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("push of all kinds", 6),
        ("push an update that is merged again", 3),
        ("delete the latest revision of an S3 registry", 2),
        ("roll back to the oldest revision of an S3 registry", 2),
        ("install to a directory from an S3 registry", 4),
    ],
)
def test_killed_call_is_harmless(crashes: Crashes, name: str, step: int) -> None:
    """Complete the work in the next process."""
    outcome = crashes.at_every_call(name, step=step)

    assert outcome.kills > 5
    assert not outcome.broken, "\n".join(outcome.broken)
