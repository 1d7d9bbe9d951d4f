"""What the clients have in common: a piece of work and its arguments come in, what it took goes out.

``python -m benchmarks.ours push_directory '{"registry": "s3://bucket", …}'`` prints one line of JSON.
"""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any


def main(works: Mapping[str, Any]) -> None:
    """Do the piece of work that the command line names; print the seconds that it took, and what it says of it."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    began, cpu = time.perf_counter(), time.process_time()
    facts = works[name](**arguments)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu": cpu, **facts}))
