"""Credentials are fetched when they are due, once for everybody, and kept while the service fails for now."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_quilt.core.catalog.client import TemporaryCredentials
from airflow_quilt.core.catalog.credentials import CredentialSource
from airflow_quilt.core.errors import CatalogError, CatalogUnavailableError, LoginError
from tests.support import Clock

HOUR = 3600.0


class Service:
    """Hands out credentials that live for a while, or fails."""

    def __init__(self, lifetime: float = HOUR) -> None:
        self.lifetime = lifetime
        self.calls = 0
        self.error: CatalogError | None = None

    def __call__(self) -> TemporaryCredentials:
        self.calls += 1
        if self.error:
            raise self.error
        return TemporaryCredentials(f"AK{self.calls}", "secret", "token", self.lifetime)


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


def make(service: Callable[[], TemporaryCredentials], clock: Clock) -> CredentialSource:
    return CredentialSource(service, clock=clock)


def test_fetch_waits_for_first_use(clock: Clock) -> None:
    service = Service()
    source = make(service, clock)
    assert service.calls == 0

    assert source.current().access_key == source.current().access_key == "AK1"
    assert service.calls == 1


@pytest.mark.parametrize(
    ("lifetime", "due"),
    [(HOUR, HOUR - 600), (12 * HOUR, 12 * HOUR - 600), (900.0, 675.0), (4.0, 3.0)],
    ids=["an hour", "half a day", "a quarter of an hour", "seconds"],
)
def test_refresh_before_expiry(clock: Clock, lifetime: float, due: float) -> None:
    source = make(Service(lifetime), clock)
    source.current()

    clock.now += due - 0.5
    assert source.current().access_key == "AK1"
    clock.now += 0.5
    assert source.current().access_key == "AK2"


def test_short_lived_are_cached(clock: Clock) -> None:
    service = Service(lifetime=4.0)
    source = make(service, clock)
    for _ in range(120):
        source.current()
        clock.now += 0.1

    assert service.calls == 4


def test_threads_fetch_once(clock: Clock) -> None:
    service = Service()
    source = make(service, clock)
    start = threading.Barrier(16)

    def use(_: int) -> str:
        start.wait(10)
        return source.current().access_key

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(use, range(16))) == {"AK1"}
    assert service.calls == 1


def test_rejected_replaced_once(clock: Clock) -> None:
    service = Service()
    source = make(service, clock)
    refused = source.current().access_key
    for _ in range(16):
        source.reject(refused)
        assert source.current().access_key == "AK2"

    assert service.calls == 2


def test_old_kept_while_service_down(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    source = make(service, clock)
    source.current()
    service.error = CatalogUnavailableError("down")
    clock.now += HOUR - 300

    assert source.current().access_key == "AK1"
    assert source.current().access_key == "AK1"
    assert service.calls == 2
    assert "they live for 300 seconds more: down" in caplog.text
    clock.now += 30
    service.error = None
    assert source.current().access_key == "AK3"


@pytest.mark.parametrize("error", [CatalogUnavailableError("down"), LoginError("revoked")], ids=["down", "revoked"])
def test_expired_raises_the_failure(clock: Clock, error: CatalogError) -> None:
    service = Service()
    source = make(service, clock)
    source.current()
    service.error = error
    clock.now += HOUR

    with pytest.raises(type(error), match=str(error)):
        source.current()


def test_login_error_is_not_deferred(clock: Clock) -> None:
    """Raise a rejected login at once, although the old credentials are still valid."""
    service = Service()
    source = make(service, clock)
    source.current()
    service.error = LoginError("revoked")
    clock.now += HOUR - 300

    with pytest.raises(LoginError, match="revoked"):
        source.current()


def test_already_expired_is_refused(clock: Clock) -> None:
    with pytest.raises(CatalogError, match="expired 60 seconds ago"):
        make(Service(lifetime=-60.0), clock).current()


def test_repr_hides_secrets() -> None:
    printed = repr(TemporaryCredentials("AK", "the-secret", "the-token", HOUR))

    assert "AK" in printed
    assert "the-" not in printed
