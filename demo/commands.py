"""Commands of Airflow, one after the other in one process, which imports Airflow once: ``python -m demo.commands``.

Reads one JSON list of arguments a line. After the output of a command comes a line with `END` and its exit code.
"""

import json
import sys
from typing import Final

END: Final = "end of the command:"


def main() -> None:
    """Run the commands of the standard input."""
    from airflow.__main__ import main as airflow

    for line in sys.stdin:
        sys.argv = ["airflow", *json.loads(line)]
        code: object = 0
        try:
            airflow()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
            if code != error.code:
                print(error.code)
        print(END, code, flush=True)


if __name__ == "__main__":
    main()
