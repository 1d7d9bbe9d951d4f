"""A whole Airflow: `airflow standalone` in a home of its own, on free ports, and its REST API."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import requests

from testbed.airflow_home import airflow_environment
from testbed.server import free_ports

PROGRAM: Final = Path(sys.executable).with_name("airflow")
"""The `airflow` command."""
_COMPONENTS: Final = ("metadatabase", "scheduler", "triggerer", "dag_processor")
_START_SECONDS: Final = 180
_STOP_SECONDS: Final = 20
_CALL_SECONDS: Final = 60
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Airflow:
    """A running Airflow, in which every user is an administrator.

    Attributes:
        url: of the pages and of the REST API.
        token: for the REST API.
        environment: the variables with which the ``airflow`` command uses this Airflow.
    """

    url: str
    token: str
    environment: Mapping[str, str]

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Call the REST API, such as ``call("GET", "connections")``, and return its answer."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = requests.request(method, f"{self.url}/api/v2/{path}", json=body, headers=headers, timeout=_CALL_SECONDS)
        if not answer.ok:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run the ``airflow`` command; it prints lines of any length."""
        environment = {**self.environment, "COLUMNS": "1000", "NO_COLOR": "1"}
        return subprocess.run([PROGRAM, *arguments], env=environment, capture_output=True, text=True, check=False)


@contextlib.contextmanager
def standalone(home: Path, dags: Path, more: Mapping[str, str] | None = None) -> Iterator[Airflow]:
    """Run an Airflow that uses ``home`` and reads ``dags``, until the block ends or this process dies.

    It continues the state of the last one in this ``home``; ``more`` is added to its environment.

    Two tasks run at a time. Connections may be tested. The API and the pages are on loopback; Airflow's two log servers listen
    on all addresses, as it has no setting for that, and answer only requests signed with the secret of this ``home``.
    """
    home.mkdir(parents=True, exist_ok=True)
    url, environment = environment_on_loopback(home, dags)
    environment |= more or {}
    log = home / "standalone.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [PROGRAM, "standalone"],
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
            preexec_fn=interrupt_with_parent,  # noqa: PLW1509
        )
    try:
        yield when_healthy(url, environment, log, lambda: process.poll() is None)
    finally:
        _stop(process)


def environment_on_loopback(home: Path, dags: Path) -> tuple[str, dict[str, str]]:
    """Return the URL of an Airflow that uses ``home``, and the environment of its parts."""
    port, worker_log, trigger_log = free_ports(3)
    url = f"http://127.0.0.1:{port}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return url, {
        **inherited,
        "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}",  # It starts its parts by their bare name.
        **airflow_environment(home, dags),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_log),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_log),
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
    }


def when_healthy(url: str, environment: Mapping[str, str], log: Path, is_running: Callable[[], bool]) -> Airflow:
    """Wait until all parts of an Airflow are healthy; return it.

    Raises:
        RuntimeError: it ended, or is not healthy after a while.
    """
    deadline = time.monotonic() + _START_SECONDS
    health: Any = None
    while is_running() and time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException, json.JSONDecodeError):
            health = requests.get(f"{url}/api/v2/monitor/health", timeout=_CALL_SECONDS).json()
            if all(health.get(component, {}).get("status") == "healthy" for component in _COMPONENTS):
                token = requests.get(f"{url}/auth/token", timeout=_CALL_SECONDS).json()["access_token"]
                return Airflow(url, token, environment)
        time.sleep(0.2)
    raise RuntimeError(f"Airflow did not start; its health: {health}; {log} ends with:\n{log.read_text()[-2000:]}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt Airflow, which then stops its parts; kill the rest of its process group."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def interrupt_with_parent() -> None:
    """Make Linux interrupt Airflow when this process is killed, even if a shell made it ignore the signal."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
