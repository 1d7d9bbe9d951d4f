"""The rules of .quiltignore leave out the same files as in quilt3."""

from pathlib import Path

import pytest

from airflow_quilt.core.format.manifest_reader import Manifest
from airflow_quilt.core.plan.actions import Source
from airflow_quilt.core.registry.registry import Registry
from airflow_quilt.core.runtime.spool import Spool
from airflow_quilt.core.sources.discover import FindOptions, SourceFinder
from airflow_quilt.core.sources.parse import parse_entries
from tests.oracle.quilt3_client import Quilt3, place

TREE = [
    "README.md",
    "a.txt",
    "b.TXT",
    "a",
    "build/out/x.o",
    "build/x.txt",
    "builds/x.txt",
    "src/build",
    "src/a.txt",
    "src/deep/er/a.txt",
    "src/deep/b.csv",
    "src/.quiltignore",
    ".hidden",
    ".git/config",
    "docs/.hidden/x",
    "docs/[1].md",
    "docs/1.md",
    "docs/# notes.md",
    "docs/!keep.md",
    "docs/a b.md",
    "docs/trailing ",
    "docs/\u00e9.md",
    "docs/e\u0301.md",
    "docs/\U0001f427.md",
    "docs/back\\slash",
    "docs/line\nbreak",
]
RULES = {
    "no rule": "",
    "only blank lines": "\n\n\n",
    "a name": "a.txt\n",
    "a name that files and directories have": "build",
    "a directory": "build/",
    "a directory that a pattern names": "b*ld/\n",
    "a directory inside": "src/deep/",
    "a directory inside a directory that is left out": "src\nsrc/deep/er/\n",
    "a directory without its slash": "deep",
    "a path": "src/a.txt",
    "a path from the root": "/a.txt",
    "a path that starts with a dot": "./a.txt",
    "a suffix": "*.txt",
    "a suffix in a directory": "src/*.txt",
    "all that a directory holds": "build/*",
    "two stars": "**/a.txt\nsrc/**",
    "a question mark": "?.txt",
    "a set": "[ab].*",
    "a set that excludes": "docs/[!0-9]*.md",
    "brackets that are a set, not a name": "docs/[1].md",
    "an escaped bracket": "docs/[[]1].md",
    "a bracket that is not closed": "docs/[1",
    "a backslash": "docs/back\\slash",
    "a comment is a rule": "# notes.md",
    "a negation is a rule": "*.md\n!keep.md",
    "a space inside": "a b.md",
    "a space at the end of a rule that no name has": "a.txt ",
    "a space at the end of a name": "trailing ",
    "hidden files": ".*",
    "one hidden directory": ".git",
    "the rules themselves": ".quiltignore",
    "composed Unicode": "\u00e9.md",
    "decomposed Unicode": "e\u0301.md",
    "beyond 16 bits": "\U0001f427.*",
    "another case": "B.txt\nreadme.MD",
    "everything": "*",
    "many rules and no newline at the end": "*.o\n\n.git/\n*.csv",
    "Windows line ends": "a.txt\r\nbuild/\r\n\r\n*.csv\r\n",
    "old Macintosh line ends": "a.txt\rbuild/",
    "a byte order mark": "\ufeffa.txt\n*.csv",
    "a form feed and a line separator end no rule": "a.txt\x0c*.csv\n\u2028a.txt\n",
    "a name of the directory above": "above\nabov*",
    "a pattern that reaches above the directory": "above/*.csv",
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_rules_match_quilt3s(rules: str, quilt3: Quilt3, local_registry: Registry, tmp_path: Path) -> None:
    directory = tmp_path / "above"
    place(directory, dict.fromkeys(TREE, b"") | {".quiltignore": rules.encode()})
    assert packed(directory, local_registry) == quilt3.directory_keys(directory)


def test_no_rules_pack_every_file(quilt3: Quilt3, local_registry: Registry, tmp_path: Path) -> None:
    place(tmp_path / "above", dict.fromkeys(TREE, b""))
    assert sorted(packed(tmp_path / "above", local_registry)) == sorted(TREE)
    assert packed(tmp_path / "above", local_registry) == quilt3.directory_keys(tmp_path / "above")


def test_rules_apply_behind_a_link(quilt3: Quilt3, local_registry: Registry, tmp_path: Path) -> None:
    place(tmp_path / "above", dict.fromkeys(TREE, b"") | {".quiltignore": b"link/*.csv\n*.txt"})
    (tmp_path / "link").symlink_to("above")
    assert packed(tmp_path / "link", local_registry) == quilt3.directory_keys(tmp_path / "link")


def test_links_match_by_own_name(quilt3: Quilt3, local_registry: Registry, tmp_path: Path) -> None:
    directory = tmp_path / "above"
    place(directory, dict.fromkeys(TREE, b"") | {".quiltignore": b"left-out*\nbuild/"})
    for link, target in {"left-out.md": "README.md", "kept.md": "README.md", "to-build": "build", "to-x": "build/x.txt"}.items():
        (directory / link).symlink_to(target)
    (directory / "left-out-broken").symlink_to("nowhere")
    assert packed(directory, local_registry) == quilt3.directory_keys(directory)


def packed(directory: Path, registry: Registry) -> list[str]:
    """Return the keys that our engine packs of a directory."""
    finder = SourceFinder(registry.stores, lambda _uri: Manifest({}, iter(())), FindOptions(allow_empty=True))
    found: Spool[Source] = Spool(Source, 1000)
    finder.find(parse_entries(str(directory)), found)
    return [source.logical_key for source in found]
