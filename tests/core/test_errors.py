import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from airflow_quilt.core import errors
from airflow_quilt.core.errors import (
    AuthenticationError,
    CatalogUnavailableError,
    InputError,
    PermanentError,
    QuiltError,
    RevisionConflictError,
    StorageError,
    StorageUnavailableError,
    VerificationError,
    WorkflowError,
)

CLASSES = [item for _, item in inspect.getmembers(errors, inspect.isclass) if item.__module__ == errors.__name__]

TRANSIENT = {
    "RevisionConflictError",
    "ChecksumMismatchError",
    "CancelledError",
    "CatalogUnavailableError",
    "SettingsUnavailableError",
    "StorageUnavailableError",
    "CredentialsExpiredError",
    "DiskError",
    "ThrottledError",
    "UploadVanishedError",
}

INPUT = {
    "InputError",
    "PackageNameError",
    "LogicalKeyError",
    "TopHashError",
    "LocationError",
    "HashTypeError",
    "MetadataError",
    "RecordSizeError",
    "SourceError",
    "EmptyPackageError",
    "WorkflowError",
}

STORAGE = {
    "StorageError",
    "ObjectNotFoundError",
    "ObjectTooLargeError",
    "BucketNotFoundError",
    "AccessDeniedError",
    "PreconditionError",
    "StorageUnavailableError",
    "UnsupportedError",
    "CredentialsExpiredError",
    "DiskError",
    "ThrottledError",
    "UploadVanishedError",
}


def test_errors_share_one_base() -> None:
    assert len(CLASSES) > 30
    assert [kind.__name__ for kind in CLASSES if not issubclass(kind, QuiltError) or not kind.__doc__] == []


def test_transient_errors() -> None:
    assert {kind.__name__ for kind in CLASSES if kind.transient} == TRANSIENT


def test_input_errors_are_value_errors() -> None:
    assert {kind.__name__ for kind in CLASSES if issubclass(kind, InputError)} == INPUT
    assert {kind.__name__ for kind in CLASSES if issubclass(kind, ValueError)} == INPUT


def test_storage_errors() -> None:
    assert {kind.__name__ for kind in CLASSES if issubclass(kind, StorageError)} == STORAGE


def test_storage_error_has_location() -> None:
    error = StorageUnavailableError("the store is asleep", "s3://bucket/key")

    assert error.location == "s3://bucket/key"
    assert str(error) == "s3://bucket/key: the store is asleep"


ARGUMENTS: dict[type[QuiltError], tuple[Any, ...]] = {
    WorkflowError: ("gamma", ["no message", "no name"]),
    RevisionConflictError: ("team/data", None, "b" * 64),
    VerificationError: ("f" * 64, {"missing": ["a"], "extra": []}),
    CatalogUnavailableError: ("asleep", 2.5),
    StorageError: ("the store is asleep", "s3://bucket/key"),
    QuiltError: ("something is wrong",),
}


@pytest.mark.parametrize("protocol", [*range(pickle.HIGHEST_PROTOCOL + 1), None])
def test_errors_can_be_pickled(protocol: int | None) -> None:
    for kind in CLASSES:
        error = kind(*next(arguments for base, arguments in ARGUMENTS.items() if issubclass(kind, base)))
        error.add_note("in entry 5")
        try:
            again = copy.copy(error) if protocol is None else pickle.loads(pickle.dumps(error, protocol))  # noqa: S301
        except (AttributeError, TypeError, pickle.PickleError) as failure:
            pytest.fail(f"{kind.__name__} cannot be made again: {failure!r}")

        assert type(again) is kind
        assert (str(again), again.args, again.transient) == (str(error), error.args, error.transient), kind.__name__
        assert vars(again) == vars(error), kind.__name__


@pytest.mark.parametrize(
    ("expected", "found", "words"),
    [
        pytest.param("a" * 64, "b" * 64, f"from {'a' * 12} to {'b' * 12}", id="moved"),
        pytest.param(None, "b" * 64, f"from none to {'b' * 12}", id="appeared"),
        pytest.param("a" * 64, None, f"from {'a' * 12} to none", id="gone"),
    ],
)
def test_conflict_carries_hashes(expected: str | None, found: str | None, words: str) -> None:
    error = RevisionConflictError("team/data", expected, found)

    assert (error.expected, error.found) == (expected, found)
    assert "team/data" in str(error)
    assert words in str(error)
    assert "conflict='overwrite'" in str(error)


def test_verification_lists_kinds() -> None:
    differences = {"missing": ["a"], "modified": ["b/c", "d"], "extra": []}
    error = VerificationError("f" * 64, differences)

    assert error.differences == differences
    assert str(error) == f"differences from revision {'f' * 12}: 3\n- missing: a\n- modified: b/c\n- modified: d"


MANY = [f"line {number}" for number in range(1234)]


@pytest.mark.parametrize(
    ("make", "beginning"),
    [
        pytest.param(lambda lines: VerificationError("f" * 64, {"extra": lines}), "extra: ", id="verification"),
        pytest.param(lambda lines: WorkflowError("gamma", lines), "", id="workflow"),
    ],
)
@pytest.mark.parametrize(("number", "more"), [(100, []), (101, ["and 1 more"]), (1234, ["and 1,134 more"])])
def test_long_list_is_cut(make: Callable[[list[str]], Exception], beginning: str, number: int, more: list[str]) -> None:
    _, *lines = str(make(MANY[:number])).split("\n")

    assert lines == [f"- {beginning}{line}" for line in MANY[:100]] + more


def test_workflow_error_violations() -> None:
    error = WorkflowError("gamma", MANY)

    assert error.violations == tuple(MANY)
    assert "'gamma'" in str(error)


PARENTS = {"QuiltError", "CatalogError", "StorageError", "PermanentError", "AuthenticationError"}


def test_errors_have_one_kind() -> None:
    for kind in [kind for kind in CLASSES if kind.__name__ not in PARENTS]:
        is_about_who_asks = issubclass(kind, AuthenticationError) and not kind.transient
        assert [kind.transient, issubclass(kind, PermanentError), is_about_who_asks].count(True) == 1, kind.__name__
