"""The schema registry: which fields of which schema's props are promoted to typed columns of `events`.

It is a table like any other: its rows come through the log, in order, once. A schema only grows: a field keeps its type for
good, and a column has one type whichever schemas it is filled from; who needs another type takes another column. So any version
of any reader understands any row, and rows that came before their schema are promoted when it arrives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from gyral.errors import ConfigError, did_you_mean
from gyral.event.clock import TIMESTAMP
from gyral.event.schema import MAX_NAME_CHARS, TABLES
from gyral.lake.sql import literal

TYPES: dict[str, pa.DataType] = {
    "text": pa.string(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "time": TIMESTAMP,
}
"""A number is float64: whole ones are exact up to 2^53; larger ones, such as ids, are to be text."""
MAX_COLUMNS = 200
"""Promoted columns of all schemas together: each costs a little in every commit."""
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,62}")


class Field(NamedTuple):
    """A field of the props of a schema, and the column that it is promoted to."""

    schema_id: str
    field: str
    column: str
    type: str


class Registry:
    """The fields known at one moment, in the order in which they came.

    Of fields that contradict an earlier one, which only a race of two registrations can bring, the earlier wins.
    """

    def __init__(self, fields: Iterable[Field] = ()) -> None:
        self.fields: list[Field] = []
        self.by_schema: dict[str, list[Field]] = {}
        self.columns: dict[str, pa.DataType] = {}
        for field in fields:
            if not self._conflict(field):
                self._add(field)

    def missing(self, schema: pa.Schema) -> list[pa.Field]:
        """Promoted columns that a table does not have yet."""
        return [pa.field(name, kind) for name, kind in self.columns.items() if name not in schema.names]

    def described(self) -> dict[str, dict[str, str]]:
        """Schema → field → `column: type`."""
        return {name: {each.field: f"{each.column}: {each.type}" for each in fields} for name, fields in self.by_schema.items()}

    def behind(self, schema_ids: Iterable[str]) -> str:
        """SQL of the rows of these schemas that lack some of their fields."""
        each = (
            f"(schema_id = {literal(name)} AND (promoted IS NULL OR promoted < {len(self.by_schema[name])}))"
            for name in sorted(schema_ids)
        )
        return " OR ".join(each)

    def new_of(self, wanted: Iterable[Field]) -> list[Field]:
        """The fields of `wanted` that are not known yet.

        Raises
        ------
        ConfigError : one contradicts what is known, or cannot be a column.
        """
        grown = Registry(self.fields)
        for field in wanted:
            if why := grown._conflict(field):
                where = f"schema `{field.schema_id}`, field `{field.field}`"
                raise ConfigError("the schema cannot be registered", why=why, where=where, hint=_HINT)
            grown._add(field)
        return grown.fields[len(self.fields) :]

    def _add(self, field: Field) -> None:
        known = self.by_schema.setdefault(field.schema_id, [])
        if field not in known:
            known.append(field)
            self.fields.append(field)
            self.columns[field.column] = TYPES[field.type]

    def _conflict(self, field: Field) -> str:
        if field.type not in TYPES:
            return f"`{field.type}` is no type; {did_you_mean(field.type, list(TYPES))}"
        if field.column in TABLES["events"].names or not _COLUMN.fullmatch(field.column):
            return f"`{field.column}` cannot be the name of a column"
        if not all(0 < len(name) <= MAX_NAME_CHARS for name in (field.schema_id, field.field)):
            return f"names have 1 to {MAX_NAME_CHARS} characters"
        same = [each for each in self.by_schema.get(field.schema_id, ()) if each.field == field.field and each != field]
        if same:
            return f"it is promoted to `{same[0].column}` as {same[0].type} already"
        if self.columns.get(field.column, TYPES[field.type]) != TYPES[field.type]:
            return f"the column `{field.column}` is of another type than {field.type}"
        if field.column not in self.columns and len(self.columns) >= MAX_COLUMNS:
            return f"there are {MAX_COLUMNS} promoted columns already"
        return ""


_HINT = 'a schema only grows; another name or type is another column: `field = { type = "number", column = "amount_2" }`'


def fields_of(tree: Mapping[str, Any], where: str) -> list[Field]:
    """Read what a registration says: schema → field → a type, or a table with `type` and `column`.

    Raises
    ------
    ConfigError : it does not have that form.
    """
    fields = []
    for schema_id, members in tree.items():
        for name, told in members.items() if isinstance(members, Mapping) else ():
            entry = {"type": told} if isinstance(told, str) else told
            if not isinstance(entry, Mapping) or not set(entry) <= {"type", "column"} or not isinstance(entry.get("type"), str):
                raise ConfigError(f"the field `{name}` of `{schema_id}` cannot be read", where=where, hint=_FORM)
            fields.append(Field(schema_id, name, str(entry.get("column", name)), entry["type"]))
    if not fields:
        raise ConfigError("no schema is in it", where=where, hint=_FORM)
    return fields


_FORM = f'`[SCHEMA_ID]`, then lines such as `amount = "number"`; types are {", ".join(TYPES)}'
