"""The depth of the code between an operator and its first request: a push reads as one story."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from airflow_quilt.operators import QuiltPushOperator

MOST = 8
ROOT = str(Path(__file__).parents[2] / "airflow_quilt")


@contextmanager
def first_request() -> Iterator[list[list[str]]]:
    """Collect, at each call that makes a request of S3, our frames below ``execute``, outermost first."""
    found: list[list[str]] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        # A request of boto3 is made by a thread of its own, for which call_apart() waits.
        makes = code.co_name == "call_apart" or (code.co_name == "make_request" and "awscrt" in code.co_filename)
        if event == "call" and makes and threading.current_thread() is threading.main_thread():
            stack, at = [], frame.f_back
            while at and at.f_code.co_name != "execute":
                if at.f_code.co_filename.startswith(ROOT):
                    stack.append(at.f_code.co_qualname)
                at = at.f_back
            found.append(stack[::-1])

    sys.setprofile(profile)
    try:
        yield found
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("transport", ["auto", "boto3"])
def test_push_is_a_shallow_stack(transport: str, connected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_QUILT_DEFAULT",
        f'{{"conn_type": "quilt", "extra": {{"registry": "{connected}", "transport": "{transport}"}}}}',
    )
    task = QuiltPushOperator(task_id="push", package="team/data", entries={"a.bin": {"content": b"a"}})

    with first_request() as requests:
        task.execute({})

    assert 0 < len(requests[0]) <= MOST, requests[0]
