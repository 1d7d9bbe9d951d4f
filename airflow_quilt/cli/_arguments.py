"""The arguments of the command line; nothing of Airflow or of the core's work is imported to parse them."""

import argparse
from collections.abc import Sequence
from typing import Final

from airflow_quilt import __version__

PROGRAM: Final = "airflow-quilt"
_CONN_ID: Final = "quilt_default"
_PACKAGE: Final = "namespace/name, namespace/name@revision, or a Quilt+ URI"
_EPILOG: Final = """\
exit codes: 0 done · 1 differences (diff, verify) · 2 wrong arguments · 3 failed · 4 failed, and may succeed later ·
130 interrupted · 141 the reader of the output is gone. Each command has --help."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; wrong ones end the program with exit code 2 (``SystemExit``).

    Among them are ``command``, its name; ``conn_id``, None for no connection; and ``package`` without its revision, which is in
    ``revision``.
    """
    parser = _parser()
    found = parser.parse_args(arguments)

    from airflow_quilt.core.format.names import is_quilt_uri  # Not before: --help ends in the line above.

    found.conn_id = found.conn_id or None
    package = getattr(found, "package", None)
    if package and not is_quilt_uri(package) and "@" in package:
        found.package, _, pinned = package.partition("@")
        if found.command == "log":
            parser.error(f"{package!r}: log lists all revisions; write {found.package}")
        if found.revision not in {None, pinned}:
            parser.error(f"{package!r} names one revision, and the other arguments {found.revision!r}; leave one of them out")
        found.revision = pinned
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Read Quilt packages, with the connections of Airflow.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = _common()

    def add(name: str, summary: str, *, package: bool = True, revision: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary, parents=[common])
        if package:
            command.add_argument("package", metavar="PACKAGE", help=_PACKAGE)
        if revision:
            command.add_argument(
                "--revision", metavar="REV", help="a top hash or its beginning, a time, or 'latest' (default: the latest)"
            )
        return command

    command = add("ls", "List packages.", package=False, revision=False)
    command.add_argument("pattern", nargs="?", default="*/*", help="namespace/name, in which '*' stands for any characters")

    command = add("log", "List the revisions of a package, newest first.", revision=False)
    command.add_argument("-n", "--limit", type=_positive, metavar="N", help="at most N revisions")
    command.set_defaults(revision=None)

    command = add("tree", "List the files of a package.")
    command.add_argument("path", nargs="?", metavar="PATH", help="a file or directory of the package (default: all)")

    command = add("diff", "List the files that differ between two revisions; exit with 1 if there are any.", revision=False)
    command.add_argument("from_revision", metavar="FROM", help="the older revision")
    command.add_argument("revision", nargs="?", metavar="TO", help="the newer revision (default: the latest)")

    command = add("cat", "Write a file of a package to standard output, checked against its hash.")
    command.add_argument("path", nargs="?", metavar="KEY", help="the logical key of the file; a Quilt+ URI may name it")

    command = add("install", "Install the files of a package, checked, to a directory or an s3:// prefix.")
    command.add_argument("dest", metavar="DEST", help="the directory or prefix; it need not exist")
    command.add_argument("--path", help="a file or directory of the package (default: all)")

    command = add("verify", "Compare files with those of a package; exit with 1 if they differ.")
    command.add_argument("src", nargs="?", metavar="SRC", help="a directory or s3:// prefix (default: the package's own objects)")
    command.add_argument("--path", help="a file or directory of the package (default: all)")
    command.add_argument("--extra-files-ok", action="store_true", help="files that the package does not name are no difference")
    command.add_argument("--read-all", action="store_true", help="read every byte, also where the store's checksum is proof")
    return parser


def _common() -> argparse.ArgumentParser:
    """Return the options of every command."""
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("common options")
    connection = group.add_mutually_exclusive_group()
    connection.add_argument(
        "--conn-id", default=_CONN_ID, metavar="ID", help="the Quilt connection of Airflow (default: %(default)s)"
    )
    connection.add_argument("--no-conn", action="store_const", const=None, dest="conn_id", help="no Quilt connection")
    group.add_argument("--registry", metavar="URL", help="s3://bucket or a directory (default: the connection's)")
    group.add_argument("-o", "--output", choices=["table", "json", "plain"], default="table", help="(default: %(default)s)")
    group.add_argument("-v", "--verbose", action="store_true", help="show the logs, and of an error its causes and frames")
    return common


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number
