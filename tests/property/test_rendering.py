"""Rendering of arguments: never of the output of a task."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_quilt.sensors import QuiltPackageSensor
from tests.airflow.test_arguments import DAG, OPERATORS, BaseOperator


class Outputs(SimpleNamespace):
    """A task instance to which one task returned a value."""

    map_index = 0

    def xcom_pull(self, **_: object) -> Any:
        return self.value

    def get_relevant_upstream_map_indexes(self, **_: object) -> None:
        return None


TEXTS = st.sampled_from(["{{ conn.vault.password }}", "{% x", "{{", "{# ", "{{ missing.x }}", "plain", "{{ 1 + 1 }}", "12e4", ""])
VALUES = st.recursive(
    TEXTS | st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
)
FIELDS = [(operator, name) for operator, _ in OPERATORS for name in sorted(operator.template_fields)]


@settings(max_examples=60, deadline=None)
@given(
    field=st.sampled_from(FIELDS), value=VALUES, is_native=st.booleans(), way=st.sampled_from(["direct", "expand", "keywords"])
)
def test_data_is_never_rendered(field: tuple[Any, str], value: Any, way: str, *, is_native: bool) -> None:
    """Leave each argument of each operator as a task returned it, by whichever way it comes."""
    operator, name = field
    required = next(required for kind, required in OPERATORS if kind is operator)
    arguments = {"task_id": "t", "package": "team/data", **required}
    arguments.pop(name, None)
    with DAG("native" if is_native else "plain", schedule=None, render_template_as_native_obj=is_native) as dag:
        output = BaseOperator(task_id="upstream").output
        made: Any
        if way == "direct":
            made, returned = operator(**arguments, **{name: output}), value
        elif way == "expand":
            made, returned = operator.partial(**arguments).expand(**{name: output}), [value]
        else:
            made, returned = operator.partial(**arguments).expand_kwargs(output), [{name: value}]
    context: dict[str, Any] = {"ti": Outputs(value=returned), "dag": dag, "dag_run": SimpleNamespace(conf={}), "params": {}}
    made.render_template_fields(context)
    rendered = context.get("task", made)
    assert getattr(rendered, name) == value


@given(st.text(max_size=500), st.text(max_size=500))
def test_what_a_sensor_logs_is_one_line(package: str, path: str) -> None:
    sensor = QuiltPackageSensor(task_id="t", package="team/data")
    sensor.package, sensor.path, sensor.newer_than = package, path, path  # As templates may render them.
    assert sensor._condition.isprintable()  # noqa: SLF001  (the line that it logs at each poll)
    assert len(sensor._condition) < 700  # noqa: SLF001
