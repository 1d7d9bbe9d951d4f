import pytest

from airflow_quilt.core.errors import PackageNameError
from airflow_quilt.core.format.names import check_pattern, is_pattern, matches


@pytest.mark.parametrize("pattern", ["team/data", "team/*", "*/data", "*/*", "te*m/d*-*", "Ünï/cödé"])
def test_patterns_are_recognised(pattern: str) -> None:
    assert check_pattern(pattern) == pattern
    assert is_pattern(pattern) == ("*" in pattern)


@pytest.mark.parametrize("pattern", ["team", "*", "", "team/", "/data", "a/b/c", "team/da ta", "team/?", "team/[a]", "**"])
def test_bad_pattern_refused(pattern: str) -> None:
    with pytest.raises(PackageNameError, match="expected namespace/name, in which"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("package", "pattern", "expected"),
    [
        ("team/data", "team/data", True),
        ("team/data2", "team/data", False),
        ("team/data", "team/*", True),
        ("teams/data", "team/*", False),
        ("team/data", "*/data", True),
        ("team/raw-1", "team/raw-*", True),
        ("team/raw", "t*/r*w", True),
        ("team/data", "*/*", True),
    ],
)
def test_star_matches_in_one_part(package: str, pattern: str, expected: bool) -> None:  # noqa: FBT001
    assert matches(package, pattern) is expected
