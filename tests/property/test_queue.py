"""Messages of a queue: each body is an event of a package, of another kind, or refused in one short line."""

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_quilt.core.errors import InputError
from airflow_quilt.core.format.names import PackageName
from airflow_quilt.hooks._queue import PackageEvent
from tests.property.strategies import JSON

DETAIL = {"bucket": "b", "handle": "team/data", "topHash": "f" * 64}
EVENT = {"detail-type": "package-revision", "detail": DETAIL}
ODD = JSON | st.text()
DETAILS = st.dictionaries(st.sampled_from([*DETAIL, "other"]), ODD) | ODD
EVENTS = st.fixed_dictionaries({}, optional={"detail-type": st.just("package-revision") | ODD, "detail": DETAILS, "Message": ODD})
DEPTHS = st.integers(0, 70_000)
NESTED = st.builds(
    lambda opening, depth: opening * depth, st.sampled_from(["[", '{"a":', '{"detail":[', '{"Message":"{']), DEPTHS
)
BODIES = st.text() | EVENTS.map(json.dumps) | EVENTS.map(lambda event: json.dumps({"Message": json.dumps(event)})) | NESTED | ODD


def parsed(body: object) -> PackageEvent | str | None:
    """Return the event, or the message of the error."""
    try:
        return PackageEvent.parse(body)
    except InputError as error:
        return str(error)


@given(BODIES)
@example("[" * 60_000)
@example('{"detail-type":"package-revision","detail":{"bucket":' + "[" * 60_000)
@example('{"detail":' + "9" * 60_000 + "}")
@example('{"detail":NaN}')
@example("x" * 2**20)
@example("\ud800")
@example('{"Message":"\\ud800"}')
@example(json.dumps({**EVENT, "detail": {**DETAIL, "handle": "a/b/c"}}))
@example(json.dumps({**EVENT, "detail": {**DETAIL, "handle": "a/b\n[ERROR] forged"}}))
@settings(max_examples=50)
def test_bodies_are_events_or_refused(body: Any) -> None:
    found = parsed(body)
    if isinstance(found, str):
        assert found.isprintable()
        assert len(found) <= 300
    else:
        assert found is None or PackageName.parse_existing(found.package)
