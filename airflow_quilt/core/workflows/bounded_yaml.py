"""YAML of others, read as PyYAML's safe loader reads it, with bounds that hold before a value is built.

The parser is PyYAML's own. That of libyaml is faster, but takes time with the square of the number of ``%TAG`` directives, and
reads some texts in another way than quilt3 does.
"""

import itertools
from typing import Any, Final

import yaml

_MOST_NODES: Final = 20_000
"""Maximum values: the config of a hundred workflows has a thousand, and PyYAML keeps 2 KB for each."""
_MOST_EVENTS: Final = 2 * _MOST_NODES
"""Maximum events of the parser: a list or a mapping has two."""
_MOST_LEVELS: Final = 100
_LONGEST_NUMBER: Final = 1000
"""Characters: to parse a YAML number of base 60 takes time that grows with the square of its length."""
_NUMBERS: Final = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"})

YAML_ERRORS: Final = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Errors of :func:`parse_yaml`: PyYAML passes on those of int(), of datetime() and of its own lookups."""


def parse_yaml(text: str) -> Any:
    """Return the value of a document; None for an empty one.

    Raises:
        YAML_ERRORS: it is not YAML, has tags of other languages, or is beyond the bounds.
    """
    _check_events(text)
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > _MOST_NODES:
            raise ValueError(f"more than {_MOST_NODES:,} values, aliases counted as their anchors")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_events(text: str) -> None:
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if count > _MOST_EVENTS:
            raise ValueError(f"more than {_MOST_NODES:,} values")
        if depth > _MOST_LEVELS:
            raise ValueError(f"more than {_MOST_LEVELS} lists and mappings inside of each other")


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    if id(node) not in known:
        known[id(node)] = 0  # For an alias inside its own anchor.
        if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
            raise ValueError(f"a number of more than {_LONGEST_NUMBER:,} characters")
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = list(itertools.chain.from_iterable(node.value))
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        known[id(node)] = 1 + sum(_count(child, known) for child in children)
    return known[id(node)]
