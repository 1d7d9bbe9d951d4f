"""An Airflow of many processes: CeleryExecutor, two workers, PostgreSQL and Redis, all on free ports of loopback."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from testbed.server import free_ports, running_process
from testbed.standalone import PROGRAM, Airflow, environment_on_loopback, interrupt_with_parent, when_healthy

_PARTS: Final = ("api-server", "scheduler", "dag-processor", "triggerer")
_WORKERS: Final = ("one", "two")
_CONCURRENCY: Final = 2
_STOP_SECONDS: Final = 20
_POSTGRES_USER: Final = "postgres"
_POSTGRES_BINARIES: Final = "/usr/lib/postgresql/*/bin"
_LOST_SECONDS: Final = 30
"""After so many seconds without a sign of life a task is lost: Airflow's own default is 300."""


@dataclass(frozen=True, slots=True)
class Part:
    """A running part of Airflow, in a session of its own."""

    process: "subprocess.Popen[bytes]"

    def processes(self) -> set[int]:
        """Return its processes, also those of tasks, each in a process group of its own."""
        return {number for number, session in _sessions() if session == self.process.pid}

    def kill(self) -> set[int]:
        """Kill it with all its processes, as if its machine failed; return them when none of them runs."""
        killed: set[int] = set()
        while numbers := self.processes():
            killed |= numbers
            for number in sorted(numbers):  # The worker comes before the processes that it would restart.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.01)
        self.process.wait()
        return killed

    def stop(self) -> None:
        """Wait until it ends after its signal; kill its remaining processes."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_SECONDS)
        self.kill()


@dataclass(frozen=True, slots=True)
class CeleryAirflow:
    """A running Airflow and its workers, each of which runs two tasks at a time."""

    airflow: Airflow
    workers: Sequence[Part]


@contextlib.contextmanager
def celery_airflow(home: Path, dags: Path, more: Mapping[str, str]) -> Iterator[CeleryAirflow]:
    """Run an Airflow with CeleryExecutor that uses ``home`` and reads ``dags``, until the block ends or this process dies.

    Its environment is that of :func:`testbed.standalone.standalone`, with ``more``. A task whose worker is gone is lost after
    half a minute, and retried.
    """
    home.mkdir()
    with running_postgres(home) as database, running_redis(home) as broker:
        url, environment = environment_on_loopback(home, dags)
        environment |= {**_settings(database, broker), **more}
        log = home / "airflow.log"
        with log.open("ab") as out:
            subprocess.run([PROGRAM, "db", "migrate"], env=environment, stdout=out, stderr=out, check=True)
        with _running(home, log, environment) as parts:
            airflow = when_healthy(url, environment, log, lambda: all(part.process.poll() is None for part in parts))
            yield CeleryAirflow(airflow, parts[len(_PARTS) :])


@contextlib.contextmanager
def running_postgres(home: Path) -> Iterator[str]:
    """Run a PostgreSQL whose data are deleted when the block ends; return its URL. Its log is in ``home``."""
    [port], password = free_ports(1), secrets.token_hex(20)
    with tempfile.TemporaryDirectory(prefix="quilt-postgres-") as directory:
        data, secret, address = Path(directory, "data"), Path(directory, "password"), f"127.0.0.1:{port}"
        secret.write_text(password, encoding="ascii")
        user = _given_to_postgres(Path(directory), secret)
        made = [*user, _postgres("initdb"), f"--pgdata={data}", "--username=airflow", f"--pwfile={secret}"]
        subprocess.run([*made, "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"], check=True, capture_output=True)
        settings = ("listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", "max_connections=200", "fsync=off")
        command = [*user, _postgres("postgres"), "-D", str(data), *(word for each in settings for word in ("-c", each))]
        ready = [_postgres("pg_isready"), "--host=127.0.0.1", f"--port={port}", "--quiet"]
        with running_process(
            command, home / "postgres.log", lambda: subprocess.run(ready, check=True), (subprocess.CalledProcessError,)
        ):
            yield f"postgresql+psycopg2://airflow:{password}@{address}/postgres"


@contextlib.contextmanager
def running_redis(home: Path) -> Iterator[str]:
    """Run a Redis without persistence; return its URL. Its log is in ``home``."""
    [port], password, settings = free_ports(1), secrets.token_hex(20), home / "redis.conf"
    settings.touch(mode=0o600)
    settings.write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ""\nappendonly no\ndir {home}\n', encoding="utf-8"
    )
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        command = [_program("redis-server"), str(settings)]
        with running_process(command, home / "redis.log", client.ping, (redis.RedisError,)):
            yield url


def _settings(database: str, broker: str) -> dict[str, str]:
    """Return the settings of an Airflow of many processes; tasks are queued for both workers at once."""
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__PARALLELISM": str(len(_WORKERS) * _CONCURRENCY),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
        "AIRFLOW__CELERY__BROKER_URL": broker,
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database}",
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(_CONCURRENCY),
        "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "120",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(_LOST_SECONDS),
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    }


@contextlib.contextmanager
def _running(home: Path, log: Path, environment: Mapping[str, str]) -> Iterator[Sequence[Part]]:
    """Run the parts, the workers last."""
    parts: list[Part] = []
    try:
        with log.open("ab") as out:
            parts.extend(_started(arguments, out.fileno(), environment) for arguments in _commands(home))
        yield parts
    finally:
        for part in parts:
            part.process.send_signal(signal.SIGINT)
        for part in parts:
            part.stop()


def _commands(home: Path) -> Iterator[Sequence[str]]:
    yield from ((name,) for name in _PARTS)
    for name in _WORKERS:
        yield "celery", "worker", "--celery-hostname", f"{name}@loopback", "--pid", str(home / f"{name}.pid"), "--skip-serve-logs"


def _started(arguments: Sequence[str], out: int, environment: Mapping[str, str]) -> Part:
    return Part(
        subprocess.Popen(
            [PROGRAM, *arguments],
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
            preexec_fn=interrupt_with_parent,  # noqa: PLW1509
        )
    )


def _sessions() -> Iterator[tuple[int, int]]:
    """Return the number and the session of each process that has not ended."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # It has ended meanwhile.
            state, _parent, _group, session, *_ = path.read_text().rpartition(")")[2].split()
            if state != "Z":
                yield int(path.parent.name), int(session)


def _given_to_postgres(*paths: Path) -> Sequence[str]:
    """Return the prefix of a command of PostgreSQL, which refuses to run as root: then the paths get another owner."""
    if os.geteuid():
        return ()
    owner = pwd.getpwnam(_POSTGRES_USER)
    for path in paths:
        os.chown(path, owner.pw_uid, owner.pw_gid)
    who = (f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups")
    return (_program("setpriv"), *who, "--pdeathsig=TERM")  # A change of user would reset the death signal.


def _postgres(name: str) -> str:
    """Return the path of a program of PostgreSQL; Debian has a directory for each version."""
    folders = sorted(map(str, Path("/").glob(_POSTGRES_BINARIES.lstrip("/"))), reverse=True)
    return _program(name, os.pathsep.join([os.environ["PATH"], *folders]))


def _program(name: str, path: str | None = None) -> str:
    found = shutil.which(name, path=path)
    if found is None:
        raise RuntimeError(f"{name} is not there: install Debian's postgresql and redis-server (make celery-services)")
    return found
