"""The filter language of MLflow's searches, parsed into typed comparisons.

    name ILIKE 'churn%' AND tags.`team.name` = "growth" AND version_number > 3 AND run_id IN ('a')

Comparisons are joined by AND alone; there is no OR and no parenthesis around them. A key of an
entity may stand in back-ticks or quotes; strings stand in quotes, numbers don't. A `Grammar` tells
which entities, attributes and operators a search knows; whatever it doesn't know is refused with
`InvalidInput`, no clause is ever ignored. `compare` makes SQL of one comparison.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from modelfleet.core.errors import InvalidInput

TEXT_OPERATORS = frozenset({"=", "!=", "LIKE", "ILIKE"})
NUMBER_OPERATORS = frozenset({"=", "!=", "<", "<=", ">", ">="})
LIST_OPERATORS = frozenset({"IN", "NOT IN"})
NULL_OPERATORS = frozenset({"IS NULL", "IS NOT NULL"})
MAX_LENGTH = 20_000
Value = str | int | float | tuple[str, ...] | None

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<operator> <= | >= | != | <> | = | < | >
        | (?:NOT\s+)?(?:LIKE|ILIKE|IN)\b | IS\s+NOT\s+NULL\b | IS\s+NULL\b )
    | (?P<and> AND\b )
    | (?P<number> [-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]) )
    | (?P<name> [A-Za-z_]\w*\s*\.\s*(?:`[^`]+`|"[^"]+"|'[^']+'|[\w./:-]+)
        | `[^`]+` | run\ name | [A-Za-z_]\w* )
    | (?P<text> '[^']*' | "[^"]*" )
    | (?P<open> \( ) | (?P<close> \) ) | (?P<comma> , ) | (?P<end> ; )
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_ORDER = re.compile(
    r"""\s*( (?:\w+\s*\.\s*)? (?: `[^`]+` | "[^"]+" | '[^']+' | [^\s`'"]+ | \w+\ name ) )
    (?:\s+(ASC|DESC))?\s*""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True)
class Comparison:
    entity: str
    """attribute, tag, metric, parameter or dataset"""
    key: str
    operator: str
    """=, !=, <, <=, >, >=, LIKE, ILIKE, IN, NOT IN, IS NULL or IS NOT NULL"""
    value: Value
    """a number where the key is one, a tuple for lists, None for NULL"""


@dataclass(frozen=True)
class Grammar:
    """What one search knows."""

    texts: frozenset[str]
    """attributes that are text"""
    numbers: frozenset[str] = frozenset()
    """attributes that are numbers"""
    listed: frozenset[str] = frozenset()
    """attributes that IN and NOT IN may ask for"""
    entities: Mapping[str, str] = field(
        default_factory=lambda: {"tag": "tag", "tags": "tag", "attribute": "attribute"}
    )
    """prefixes, and the entities that they stand for"""
    entity_keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """of entities whose keys are fixed (dataset)"""
    nullable: frozenset[str] = frozenset()
    """entities that may be compared with NULL"""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """other names of attributes"""

    def key(self, text: str) -> tuple[str, str]:
        """Entity and key of a written name. Raises `InvalidInput`."""
        prefix, dot, rest = text.partition(".")
        prefix = _bare(prefix.strip())
        if not dot or text.startswith("`"):
            entity, key = "attribute", _bare(text)
        elif prefix not in self.entities:
            known = sorted(set(self.entities))
            raise InvalidInput(f"Invalid entity type '{prefix}'. Valid entity types are {known}")
        else:
            entity, key = self.entities[prefix], _bare(rest.strip())
        if entity == "attribute":
            key = self.aliases.get(key, key)
            if key not in self.texts | self.numbers:
                raise InvalidInput(
                    f"Invalid attribute key '{key}' specified. Valid keys are "
                    f"'{sorted(self.texts | self.numbers)}'"
                )
        elif entity in self.entity_keys and key not in self.entity_keys[entity]:
            raise InvalidInput(
                f"Invalid {entity} key '{key}' specified. Valid keys are "
                f"'{sorted(self.entity_keys[entity])}'"
            )
        return entity, key

    def operators(self, entity: str, key: str) -> frozenset[str]:
        if entity == "metric" or (entity == "attribute" and key in self.numbers):
            return NUMBER_OPERATORS
        if entity == "attribute":
            return TEXT_OPERATORS | (LIST_OPERATORS if key in self.listed else frozenset())
        found = TEXT_OPERATORS | (LIST_OPERATORS if entity in self.entity_keys else frozenset())
        return found | (NULL_OPERATORS if entity in self.nullable else frozenset())


def parse(text: str | None, grammar: Grammar) -> tuple[Comparison, ...]:
    """All comparisons of a filter; none if it is empty. Raises `InvalidInput`."""
    if text is None or not text.strip():
        return ()
    if len(text) > MAX_LENGTH:
        raise InvalidInput(f"The filter has more than {MAX_LENGTH} characters.")
    tokens = list(_tokens(text))
    found: list[Comparison] = []
    position = 0
    while True:
        comparison, position = _comparison(text, tokens, position, grammar)
        found.append(comparison)
        if position == len(tokens):
            return tuple(found)
        if tokens[position][0] != "and":
            raise _invalid(tokens[position][1])
        position += 1


def _tokens(text: str) -> Iterable[tuple[str, str]]:
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position, end)
        if match is None or match.lastgroup is None:
            raise _invalid(text[position:].strip())
        yield match.lastgroup, match[match.lastgroup].strip()
        position = match.end()


def _comparison(
    text: str, tokens: list[tuple[str, str]], position: int, grammar: Grammar
) -> tuple[Comparison, int]:
    if position >= len(tokens) or tokens[position][0] not in ("name", "text"):
        raise _invalid(_rest(tokens, position) or text)
    entity, key = grammar.key(tokens[position][1])
    if position + 1 >= len(tokens) or tokens[position + 1][0] != "operator":
        raise _invalid(_rest(tokens, position))
    operator = re.sub(r"\s+", " ", tokens[position + 1][1].upper()).replace("<>", "!=")
    allowed = grammar.operators(entity, key)
    if operator in LIST_OPERATORS and operator not in allowed and entity == "attribute":
        raise InvalidInput(
            f"Only {sorted(grammar.listed)} attributes support comparison with a list of quoted "
            "string values."
        )
    if operator not in allowed:
        raise InvalidInput(
            f"Invalid comparator for {entity}: {operator}. '{key}' may be compared by "
            f"{sorted(allowed)}"
        )
    position += 2
    if operator in NULL_OPERATORS:
        return Comparison(entity, key, operator, None), position
    if operator in LIST_OPERATORS:
        values, position = _list(tokens, position)
        return Comparison(entity, key, operator, values), position
    if position >= len(tokens):
        raise _invalid(text)
    kind, raw = tokens[position]
    if allowed == NUMBER_OPERATORS:
        if kind != "number":
            numeric = "metric" if entity == "metric" else f"numeric attribute: {key}"
            raise InvalidInput(f"Expected numeric value type for {numeric}. Found {raw}")
        return Comparison(entity, key, operator, _number(raw)), position + 1
    if kind != "text":
        if kind == "name":
            raise InvalidInput(
                "Parameter value is either not quoted or unidentified quote types used for string "
                f"value {raw}. Use either single or double quotes."
            )
        what = "attributes" if entity == "attribute" else f"{entity} (e.g. 'my-value')"
        raise InvalidInput(f"Expected a quoted string value for {what}. Got value {raw}")
    return Comparison(entity, key, operator, raw[1:-1]), position + 1


def _list(tokens: list[tuple[str, str]], position: int) -> tuple[tuple[str, ...], int]:
    values: list[str] = []
    expected: Collection[str] = ("open",)
    while position < len(tokens) and tokens[position][0] in expected:
        kind, raw = tokens[position]
        position += 1
        if kind == "close":
            return tuple(values), position
        if kind == "text":
            values.append(raw[1:-1])
        expected = ("comma", "close") if kind == "text" else ("text",)
    raise InvalidInput(
        "While parsing a list in the query, expected a non-empty list of quoted string values, "
        f"but got {_rest(tokens, position) or 'its end'}."
    )


def _number(raw: str) -> int | float:
    try:
        return int(raw)
    except ValueError:
        return float(raw)


def _bare(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "`'\"":
        return text[1:-1]
    return text


def _rest(tokens: list[tuple[str, str]], position: int) -> str:
    return " ".join(raw for _, raw in tokens[position : position + 6])


def _invalid(clause: str) -> InvalidInput:
    return InvalidInput(f"Invalid clause(s) in filter string: {clause[:200]}")


def parse_order(
    entries: Iterable[str], grammar: Grammar, keys: frozenset[str]
) -> list[tuple[str, str, bool]]:
    """Entity, key and whether ascending, of `key [ASC|DESC]`. keys: attributes that can order."""
    found: list[tuple[str, str, bool]] = []
    for entry in entries:
        match = _ORDER.fullmatch(entry)
        if match is None:
            raise InvalidInput(f"Invalid order_by clause '{entry[:200]}'. Could not be parsed.")
        name = match[1]
        if "." not in name or name.startswith("`"):
            key = grammar.aliases.get(_bare(name), _bare(name))
            entity = "attribute"
        else:
            prefix, _, rest = name.partition(".")
            if _bare(prefix) not in grammar.entities:
                raise InvalidInput(f"Invalid order_by entity '{prefix[:100]}'.")
            entity, key = grammar.entities[_bare(prefix)], _bare(rest)
            key = grammar.aliases.get(key, key) if entity == "attribute" else key
        if entity == "attribute" and key not in keys:
            raise InvalidInput(
                f"Invalid order by key '{key[:100]}' specified. Valid keys are '{sorted(keys)}'"
            )
        if any(known[:2] == (entity, key) for known in found):
            raise InvalidInput(f"`order_by` contains duplicate fields: {list(entries)}")
        found.append((entity, key, (match[2] or "ASC").upper() == "ASC"))
    return found


def compare(
    column: sa.ColumnElement[object], operator: str, value: Value
) -> sa.ColumnElement[bool]:
    """SQL of a comparison whose column is known."""
    if operator == "LIKE":
        return column.like(value)
    if operator == "ILIKE":
        return column.ilike(value)
    if operator in LIST_OPERATORS and isinstance(value, tuple):
        return column.in_(value) if operator == "IN" else column.not_in(value)
    return {
        "=": column.__eq__,
        "!=": column.__ne__,
        "<": column.__lt__,
        "<=": column.__le__,
        ">": column.__gt__,
        ">=": column.__ge__,
    }[operator](value)


def owners(
    table: sa.Table, key: str, operator: str, value: Value, prefix: int | None = None
) -> sa.Select[tuple[str]]:
    """Ids of those whose row in an owner, key, value table compares.

    prefix: length of the indexed beginning of the value, if it is indexed that way.
    """
    owner = next(iter(table.primary_key))
    query = sa.select(owner).where(table.c.key == key)
    if operator in NULL_OPERATORS:
        return query
    if prefix is not None and operator == "=" and isinstance(value, str):
        start = sa.literal_column("1", sa.Integer)
        length = sa.literal_column(str(prefix), sa.Integer)
        query = query.where(sa.func.substr(table.c.value, start, length) == value[:prefix])
        # Compared bare, SQLite would put the value into the expression above and lose its index.
        return query.where(table.c.value.concat("") == value)
    return query.where(compare(table.c.value, operator, value))
