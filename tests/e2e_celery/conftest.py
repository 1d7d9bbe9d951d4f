"""The figures of a run under CeleryExecutor, printed as those of the long tests are."""

from tests.chaos.conftest import figures, pytest_terminal_summary

__all__ = ["figures", "pytest_terminal_summary"]
