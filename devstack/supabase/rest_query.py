"""Turns a REST query string into SQL: identifiers always quoted, values always parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from psycopg import sql

from devstack.supabase.errors import parse_error

NOT_FILTERS = {"select", "order", "limit", "offset", "columns", "on_conflict"}
COMPARISONS = {
    "eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=",
    "like": "like", "ilike": "ilike", "match": "~", "imatch": "~*",
    "cs": "@>", "cd": "<@", "ov": "&&",
}  # fmt: skip
ORDER_WORDS = {
    "asc": "asc", "desc": "desc", "nullsfirst": "nulls first", "nullslast": "nulls last",
}  # fmt: skip
IS_VALUES = {"null", "not_null", "true", "false", "unknown"}
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_NAME = re.compile(
    r'\s*("(?:[^"\\]|\\.)*"|[^\s".,:()>-][^".,:()>-]*?)\s*((?:->>?[^->,:.()]+)*)\s*$'
)
_LOGIC = re.compile(r"^(not\.)?(and|or)(\(.*\))$", re.DOTALL)
_ITEM = re.compile(r'^((?:"(?:[^"\\]|\\.)*"|[^".])+?)\.(.*)$', re.DOTALL)
_CAST = re.compile(r"^[a-z_][a-z0-9_ ]*(\[\])?$", re.IGNORECASE)


@dataclass(slots=True)
class Values:
    """The parameters of one statement; every value gets its own name."""

    params: dict[str, object] = field(default_factory=dict)

    def add(self, value: object) -> sql.Composable:
        name = f"p{len(self.params)}"
        self.params[name] = value
        return sql.Placeholder(name)


class QueryReader:
    """Parses the parts of a query string for one relation, named `alias` in the SQL."""

    def __init__(self, alias: str, values: Values) -> None:
        self._alias = alias
        self._values = values

    def select(self, text: str | None) -> sql.Composable:
        """Return the select list, as it follows `select` or `returning`."""
        if not text or text.strip() == "*":
            return sql.Identifier(self._alias) + sql.SQL(".*")
        return sql.SQL(", ").join([self._selected(item) for item in split_list(text)])

    def where(self, params: Iterable[tuple[str, str]]) -> sql.Composable | None:
        """Return all filters joined by `and`; None if there are none."""
        found = [self._filter(key, value) for key, value in params if key not in NOT_FILTERS]
        return sql.SQL(" and ").join(found) if found else None

    def order(self, text: str | None) -> sql.Composable:
        """Return an order by clause, or nothing."""
        if not text:
            return sql.SQL("")
        terms = [self._ordered(item) for item in split_list(text)]
        return sql.SQL(" order by ") + sql.SQL(", ").join(terms)

    def column(self, text: str) -> tuple[sql.Composable, str]:
        """Return a column or a path into a JSON column, and its name in the answer."""
        found = _NAME.match(text)
        if found is None:
            raise parse_error(f'"failed to parse column ({text})"')
        name = _unquoted(found[1])
        column: sql.Composable = sql.Identifier(self._alias, name)
        steps = re.findall(r"(->>?)([^->]+)", found[2])
        if steps:
            column = sql.SQL("to_jsonb({})").format(column)
        for arrow, key in steps:
            key = _unquoted(key.strip())
            step: sql.Composable = self._values.add(key) + sql.SQL("::text")
            if re.fullmatch(r"-?\d+", key):
                step = self._values.add(int(key)) + sql.SQL("::int")
            else:
                name = key
            column = sql.SQL("({} {} {})").format(column, sql.SQL(arrow), step)
        return column, name

    def _selected(self, item: str) -> sql.Composable:
        if item == "*":
            return sql.Identifier(self._alias) + sql.SQL(".*")
        if "(" in item:
            raise parse_error(
                f'"failed to parse select parameter ({item})"',
                "embedding and aggregates are not part of this local stand-in",
            )
        alias, separator, rest = item.partition(":")
        if not separator or rest.startswith(":"):
            alias, rest = "", item
        rest, _, cast = rest.partition("::")
        expression, name = self.column(rest)
        if cast:
            if not _CAST.match(cast):
                raise parse_error(f'"failed to parse select parameter ({item})"')
            expression = sql.SQL("cast({} as {})").format(expression, sql.SQL(cast))
        return sql.SQL("{} as {}").format(expression, sql.Identifier(_unquoted(alias) or name))

    def _ordered(self, item: str) -> sql.Composable:
        head, *flags = item.split(".")
        term, _ = self.column(head)
        words = {
            "asc": "asc",
            "desc": "desc",
            "nullsfirst": "nulls first",
            "nullslast": "nulls last",
        }
        if len(flags) > 2 or any(flag not in words for flag in flags):
            raise parse_error(f'"failed to parse order ({item})"')
        return sql.SQL(" ").join([term, *(sql.SQL(ORDER_WORDS[flag]) for flag in flags)])

    def _filter(self, key: str, value: str) -> sql.Composable:
        if key in ("and", "or", "not.and", "not.or"):
            return self._logic(f"{key}{value}")
        return self._comparison(key, value)

    def _logic(self, text: str) -> sql.Composable:
        tree = _LOGIC.match(text)
        if tree is None:
            found = _ITEM.match(text)
            if found is None:
                raise parse_error(f'"failed to parse logic tree ({text})"')
            return self._comparison(found[1], found[2], quoted=True)
        parts = [self._logic(item) for item in split_list(tree[3][1:-1])]
        if not parts:
            raise parse_error(f'"failed to parse logic tree ({text})"')
        joined = sql.SQL(f" {tree[2]} ").join(parts)
        return sql.SQL("not ({})" if tree[1] else "({})").format(joined)

    def _comparison(self, name: str, text: str, *, quoted: bool = False) -> sql.Composable:
        negated = text.startswith("not.")
        operator, dot, value = text.removeprefix("not.").partition(".")
        column, _ = self.column(name)
        if not dot:
            raise parse_error(f'"failed to parse filter ({text})"', f"column {name}")
        if operator == "is" and value.lower() in IS_VALUES:
            words = value.lower().replace("not_null", "not null")
            condition = sql.SQL("{} is {}").format(column, sql.SQL(words))
        elif operator == "in" and value.startswith("(") and value.endswith(")"):
            array = array_literal([_unquoted(item) for item in split_list(value[1:-1])])
            condition = sql.SQL("{} = any({})").format(column, self._values.add(array))
        elif operator == "isdistinct":
            condition = sql.SQL("{} is distinct from {}").format(column, self._values.add(value))
        elif operator in COMPARISONS:
            value = _unquoted(value) if quoted else value
            if operator in ("like", "ilike"):
                value = value.replace("*", "%")
            sign = sql.SQL(COMPARISONS[operator])
            condition = sql.SQL("{} {} {}").format(column, sign, self._values.add(value))
        else:
            raise parse_error(f'"failed to parse filter ({text})"', f"column {name}")
        return sql.SQL("not ({})").format(condition) if negated else condition


def split_list(text: str) -> list[str]:
    """Split at commas outside quotes and brackets; `''` is an empty list."""
    parts, depth, start, position = [], 0, 0, 0
    while position < len(text):
        character = text[position]
        if character == '"' and (quoted := _QUOTED.match(text, position)):
            position = quoted.end()
            continue
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
        position += 1
    parts.append(text[start:])
    return [] if parts == [""] else parts


def array_literal(items: Iterable[str]) -> str:
    """Return a Postgres array in text form, with every element quoted."""
    escaped = (item.replace("\\", "\\\\").replace('"', '\\"') for item in items)
    return "{" + ",".join(f'"{item}"' for item in escaped) + "}"


def _unquoted(text: str) -> str:
    found = _QUOTED.fullmatch(text)
    return re.sub(r"\\(.)", r"\1", found[1]) if found else text
