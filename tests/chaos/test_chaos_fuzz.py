"""The properties of tests/property/test_fuzz.py, on many more inputs."""

import functools
import itertools
import time
from typing import Any, Final

import pytest
from hypothesis import settings

from tests.chaos.conftest import Figures
from tests.property import test_fuzz

INPUTS: Final = 15_000
PROPERTIES: Final = [check for check in vars(test_fuzz).values() if hasattr(check, "hypothesis")]


@pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__.removeprefix("test_"))
def test_many_inputs_are_handled(check: Any, figures: Figures) -> None:
    tried = itertools.count()
    once = check.hypothesis.inner_test

    @functools.wraps(once)
    def counted(*args: Any, **kwargs: Any) -> None:
        next(tried)
        once(*args, **kwargs)

    check.hypothesis.inner_test = counted
    try:
        began = time.monotonic()
        settings(max_examples=INPUTS, deadline=None)(check)()
    finally:
        check.hypothesis.inner_test = once
        inputs = next(tried)
        figures(f"{inputs:,} inputs in {time.monotonic() - began:.0f} s")

    assert inputs >= INPUTS
