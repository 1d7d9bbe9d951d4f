"""Retries of transient errors, and their limit."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from airflow_quilt.core.errors import (
    AccessDeniedError,
    CancelledError,
    CatalogUnavailableError,
    CredentialsExpiredError,
    DiskError,
    QuiltError,
    StorageUnavailableError,
    ThrottledError,
    UploadVanishedError,
)
from airflow_quilt.core.runtime.retry import NO_RETRY, Failures, RetryPolicy, retried
from tests.support import Clock

WHERE = "s3://bucket/key"
DOWN = StorageUnavailableError("down", WHERE)


def policy_of(clock: Clock, chance: float = 1.0, seconds: float = 100.0) -> RetryPolicy:
    def sleep(pause: float) -> None:
        clock.now += pause

    return RetryPolicy(seconds, shortest=1.0, longest=8.0, clock=clock, chance=lambda: chance, sleep=sleep)


def failing(times: int, error: QuiltError = DOWN) -> Callable[[], str]:
    left: Iterator[int] = iter(range(times))

    def call() -> str:
        if next(left, None) is not None:
            raise error
        return "done"

    return call


def test_pauses_double_up_to_limit() -> None:
    policy = policy_of(Clock(0.0))

    assert [policy.pause(DOWN, failures, 0.0) for failures in range(1, 7)] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


@pytest.mark.parametrize("chance", [0.0, 0.25, 1.0])
def test_pause_is_random_fraction(chance: float) -> None:
    assert policy_of(Clock(0.0), chance).pause(DOWN, 3, 0.0) == 4.0 * chance


def test_millionth_pause_is_finite() -> None:
    assert policy_of(Clock(0.0)).pause(DOWN, 1_000_000, 0.0) == 8.0


def test_retry_until_success() -> None:
    clock = Clock(0.0)

    assert policy_of(clock).call(failing(4)) == "done"
    assert clock.now == 1.0 + 2.0 + 4.0 + 8.0


def test_retry_ends_in_time() -> None:
    clock = Clock(50.0)
    calls = itertools.count()

    def call() -> None:
        next(calls)
        raise DOWN

    with pytest.raises(StorageUnavailableError, match="down"):
        policy_of(clock, seconds=20.0).call(call)
    assert clock.now <= 70.0
    assert next(calls) == 5


@pytest.mark.parametrize(
    "error",
    [
        AccessDeniedError("no", WHERE),
        CancelledError("told to stop"),
        CatalogUnavailableError("its own policy ended"),
        DiskError("full", "file:///x"),
        UploadVanishedError("gone", WHERE),
        QuiltError("for good"),
        ValueError("a mistake"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_permanent_is_not_retried(error: Exception) -> None:
    assert policy_of(Clock(0.0)).pause(error, 1, 0.0) is None


@pytest.mark.parametrize("error", [DOWN, ThrottledError("slow down", WHERE), CredentialsExpiredError("old", WHERE)])
def test_transient_is_retried(error: QuiltError) -> None:
    assert policy_of(Clock(0.0)).pause(error, 1, 0.0) == 1.0


def test_expired_credentials_give_up() -> None:
    policy = policy_of(Clock(0.0))
    pauses = [policy.pause(CredentialsExpiredError("old", WHERE), failures, 0.0) for failures in range(1, 6)]

    assert pauses == [1.0, 2.0, 4.0, None, None]


def test_no_retry_fails_at_once() -> None:
    with pytest.raises(StorageUnavailableError):
        NO_RETRY.call(failing(1))


@pytest.mark.parametrize(("asked", "pause"), [(7.0, 7.0), (0.0, 0.0), (-3.0, 0.0), (86400.0, 8.0)])
def test_service_may_ask_for_pause(asked: float, pause: float) -> None:
    policy = replace(policy_of(Clock(0.0), chance=0.5), final=())

    assert policy.pause(CatalogUnavailableError("busy", retry_after=asked), 1, 0.0) == pause


def test_final_errors_are_configurable() -> None:
    assert replace(policy_of(Clock(0.0)), final=()).pause(DiskError("full", "file:///x"), 1, 0.0) == 1.0
    assert replace(policy_of(Clock(0.0)), final=(StorageUnavailableError,)).pause(DOWN, 1, 0.0) is None


def test_attempts_are_bounded() -> None:
    policy = replace(policy_of(Clock(0.0)), attempts=3)

    assert policy.call(failing(2)) == "done"
    with pytest.raises(StorageUnavailableError):
        policy.call(failing(3))


class Store:
    """An object with a policy, whose method fails for a while."""

    def __init__(self, retry: RetryPolicy, failures: int) -> None:
        self._retry = retry
        self._call = failing(failures)

    @retried
    def get(self, key: str, *, suffix: str) -> str:
        """Get it."""
        return f"{self._call()} {key}{suffix}"


def test_method_uses_own_policy() -> None:
    clock = Clock(0.0)

    assert Store(policy_of(clock), 2).get("a", suffix="/") == "done a/"
    assert clock.now == 1.0 + 2.0
    with pytest.raises(StorageUnavailableError):
        Store(NO_RETRY, 1).get("a", suffix="/")
    assert Store.get.__doc__ == "Get it."


def test_progress_begins_new_count() -> None:
    clock = Clock(0.0)
    policy, failures = policy_of(clock, seconds=5.0), Failures()
    waited = [policy.wait(DOWN, failures) for _ in range(3)]
    failures.count = 0

    assert waited == [True, True, False]
    assert policy.wait(DOWN, failures)
    assert clock.now == 1.0 + 2.0 + 1.0
