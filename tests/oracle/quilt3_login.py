"""Runs steps of a login with quilt3, in a process of its own: a JSON list of steps comes in, a JSON list of answers goes out.

The first error ends it, and is its last answer. The home directory, given by the parent process, remembers the login.
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import quilt3
from quilt3 import session


def main() -> None:
    """Do the steps."""
    answers: list[Any] = []
    for step, *arguments in json.load(sys.stdin):
        try:
            answers.append(_STEPS[step](*arguments))
        except Exception as error:  # noqa: BLE001  (whatever quilt3 raises, the test is to hear of it)
            answers.append(f"{type(error).__name__}: {error}")
            break
    json.dump(answers, sys.stdout)


def _s3() -> Any:
    return quilt3.get_boto3_session(fallback=False).client("s3")


def _config(url: str) -> str:
    return str(quilt3.config(url)["registryUrl"])


def _fetch() -> list[str]:
    return sorted(session._refresh_credentials())  # noqa: SLF001  (quilt3 makes the call nowhere else with a key)


def _write(bucket: str, key: str, text: str) -> None:
    _s3().put_object(Bucket=bucket, Key=key, Body=text.encode())


def _read(bucket: str, key: str) -> str:
    return str(_s3().get_object(Bucket=bucket, Key=key)["Body"].read().decode())


def _list(bucket: str) -> list[str]:
    return [item["Key"] for item in _s3().list_objects_v2(Bucket=bucket).get("Contents", [])]


_STEPS: Final[Mapping[str, Callable[..., Any]]] = {
    "config": _config,
    "log in": session.login_with_token,
    "use key": quilt3.login_with_api_key,
    "fetch": _fetch,
    "logged in": quilt3.logged_in,
    "write": _write,
    "read": _read,
    "list": _list,
}

if __name__ == "__main__":
    main()
