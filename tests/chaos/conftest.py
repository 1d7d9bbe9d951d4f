"""Fixtures of the long tests: figures that are printed when all have run, for ``docs/reliability.md``."""

from collections.abc import Callable, Iterator
from typing import Final

import pytest

_FIGURES: Final = pytest.StashKey[list[str]]()

Figures = Callable[[str], None]


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """A function that takes a line of figures, printed under the name of the test, also when the test fails."""
    lines = request.config.stash.setdefault(_FIGURES, [])
    mine: list[str] = []
    yield mine.append
    lines += [f"{request.node.name}: {line}" for line in mine]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures."""
    lines = terminalreporter.config.stash.get(_FIGURES, [])
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)
