"""Publish the return values of functions: mapped tasks add their files to one package, and a release names its latest revision.

Needs a connection `quilt_default` with a registry, and on the workers `pip install palmerpenguins pandas pyarrow`.
"""

import pendulum
from airflow.sdk import dag, task

from airflow_quilt.operators import entry


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1),
    params={"package": "penguins/years", "release": "penguins/release"},
    doc_md=__doc__,
    tags=["example", "quilt"],
)
def example_quilt_taskflow() -> None:
    """Publish the penguins of each year, and release them together."""

    # [START howto_decorator_quilt_push]
    @task.quilt_push(
        package="{{ params.package }}",
        mode="update",
        conflict="rebase",  # The tasks of the other years publish at the same time.
        message="A year of penguins",
        retries=3,
    )
    def publish(year: int) -> dict[str, object]:
        """Return files of the package: a data frame as Parquet, a `str` with metadata."""
        from pathlib import Path

        import palmerpenguins
        import pandas as pd

        raw = pd.read_csv(Path(palmerpenguins.__file__).parent / "data" / "penguins.csv")
        penguins = raw[raw["year"] == year]
        counted = entry(content=f"{len(penguins)} penguins\n", meta={"year": year})
        return {f"{year}/penguins.parquet": penguins, f"{year}/README.txt": counted}

    # [END howto_decorator_quilt_push]

    # [START howto_decorator_quilt_build]
    @task.quilt_build(package="{{ params.release }}", message="All years")
    def release(published: list[dict[str, str]]) -> str:
        """Return one source for the whole package: another package, whose files stay where they are."""
        return max(published, key=lambda each: each["published_at"])["quilt_uri"]

    # [END howto_decorator_quilt_build]

    release(publish.expand(year=[2007, 2008, 2009]))


example_quilt_taskflow()
