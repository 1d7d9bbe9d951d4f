"""Publish the output of a pipeline: a table, plots from mapped tasks, and a summary.

Needs a connection `quilt_default` with a registry, and on the workers `pip install matplotlib palmerpenguins pandas pyarrow`. The
tasks exchange files in the directory of the parameter `workdir`; workers on several machines need a shared one. The DAG begins
paused: unpause it to run it each week.
"""

import tempfile
from pathlib import Path

import pendulum
from airflow.sdk import dag, task

from airflow_quilt.operators import QuiltPushOperator


@dag(
    schedule="@weekly",
    start_date=pendulum.datetime(2007, 1, 1),
    catchup=False,
    is_paused_upon_creation=True,
    params={"workdir": str(Path(tempfile.gettempdir(), "penguins"))},
    doc_md=__doc__,
    tags=["example", "quilt"],
)
def example_quilt_push() -> None:
    """Publish the penguins that were known in a week."""

    @task
    def clean(logical_date: pendulum.DateTime, params: dict[str, str]) -> str:
        """Keep the penguins that were measured up to the year of the run and that have all measurements."""
        import palmerpenguins
        import pandas as pd

        raw = pd.read_csv(Path(palmerpenguins.__file__).parent / "data" / "penguins.csv")
        known = raw[raw["year"] <= logical_date.year].dropna()
        path = Path(params["workdir"], str(logical_date.date()), "penguins.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        known.to_parquet(path)
        return str(path)

    @task
    def species(table: str) -> list[str]:
        """List the species, one plot each."""
        import pandas as pd

        return sorted(pd.read_parquet(table)["species"].unique())

    @task
    def plot(name: str, table: str) -> str:
        """Plot the bills of one species."""
        import pandas as pd
        from matplotlib.figure import Figure

        penguins = pd.read_parquet(table).query("species == @name")
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        axes.scatter(penguins["bill_length_mm"], penguins["bill_depth_mm"])
        axes.set(title=name, xlabel="bill length (mm)", ylabel="bill depth (mm)")
        path = Path(table).with_name(f"{name.lower()}.png")
        figure.savefig(path)
        return str(path)

    @task
    def summarise(table: str) -> dict[str, dict[str, float]]:
        """Return the mean body mass and the number of penguins of each species."""
        import pandas as pd

        penguins = pd.read_parquet(table).groupby("species")["body_mass_g"]
        return {
            name: {"penguins": int(count), "mean_body_mass_g": round(float(mean), 1)}
            for name, count, mean in zip(penguins.groups, penguins.count(), penguins.mean(), strict=True)
        }

    # [START howto_operator_quilt_push]
    table = clean()
    plots = plot.partial(table=table).expand(name=species(table))

    QuiltPushOperator(
        task_id="publish",
        package="penguins/weekly",
        entries={"penguins.parquet": table, "plots/": plots, "summary.json": summarise(table)},
        meta={"week": "{{ ds }}"},
        message="Penguins, week of {{ ds }}",
    )
    # [END howto_operator_quilt_push]


example_quilt_push()
