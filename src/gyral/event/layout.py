"""Layouts: what is known about a well-known file. Its columns, its number fields, its dirt.

A layout is data. The generic path (`--map`) builds one from the user's map and knows no dirt; rules about product codes and
returns belong to the layout of the shop that has them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from gyral import plugins
from gyral.config.sections import Rule
from gyral.errors import ConfigError, InputError, did_you_mean
from gyral.event.schema import ENVELOPE_NAMES

REQUIRED = ("subject", "object", "time")
MAPPED = "mapped"


class Layout(msgspec.Struct, frozen=True):
    """How the columns of a file become Events.

    Attributes
    ----------
    columns : envelope field (`time` for `event_time`) → column of the file.
    numbers : columns that must hold a number when they hold anything; a row where one does not goes to quarantine.
    kind : kind of the events when no column says it.
    title : column with the object's name for people, or empty.
    repeats : may a subject meet an object again? None: measured by `curate`.
    rules : rows that `curate` drops.
    """

    name: str
    columns: dict[str, str]
    numbers: tuple[str, ...] = ()
    kind: str = "interaction"
    title: str = ""
    time_format: str = ""
    repeats: bool | None = None
    rules: tuple[Rule, ...] = ()

    @property
    def digest(self) -> str:
        """Sixteen hex digits that differ when anything about the layout does."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]

    @property
    def schema_id(self) -> str:
        """What events carry: the name, for a user's own map with its digest, because every user has one."""
        return self.name if self.name != MAPPED else f"{MAPPED}-{self.digest[:8]}"


ONLINE_RETAIL = Layout(
    name="online_retail",
    columns={
        "subject": "CustomerID",
        "object": "StockCode",
        "time": "InvoiceDate",
        "session": "InvoiceNo",
        "country": "Country",
    },
    numbers=("Quantity", "UnitPrice"),
    kind="purchase",
    title="Description",
    repeats=True,
    rules=(
        Rule("return", "session", "matches", "^[Cc]"),
        Rule("return", "props.Quantity", "<=", 0),
        Rule("bad_price", "props.UnitPrice", "<=", 0),
        Rule("non_product", "object", "not matches", r"^\d{5}[A-Za-z]{0,2}$"),
    ),
)
"""UCI Online Retail: one row an invoice line; invoices that start with C are cancellations."""

RECBOLE = Layout(
    name="recbole",
    columns={"subject": "user_id:token", "object": "item_id:token", "time": "timestamp:float"},
    numbers=("rating:float",),
    repeats=False,
)
"""RecBole's atomic `.inter` files: tab-separated, types in the header; every rating is an interaction."""

ENVELOPE = Layout(
    name="envelope",
    columns={"subject": "subject", "object": "object", "time": "event_time"},
)
"""Files whose columns already have the names of the envelope."""


def choose(columns: Iterable[str], name: str, mapping: dict[str, str], time_format: str, where: str) -> Layout:
    """Pick the layout of a file: the user's map, the named layout, or the known one whose columns are all there.

    Raises
    ------
    ConfigError : the map lacks a required field or names one that does not exist.
    InputError : a column is missing, or no layout is known for these columns.
    """
    present = list(columns)
    if mapping:
        layout = _from_map(mapping)
    elif name:
        layout = plugins.find("layout", name)
    else:
        known = (plugins.find("layout", each) for each in plugins.names("layout"))
        fitting = [each for each in known if set(each.columns.values()) <= set(present)]
        if not fitting:
            listed = ", ".join(f"`{column}`" for column in present[:12])
            raise InputError(
                "no known layout has these columns",
                where=where,
                why=f"the file has {listed}",
                hint="say which is which: `--map subject=COLUMN,object=COLUMN,time=COLUMN`",
            )
        layout = max(fitting, key=lambda each: len(each.columns))
    if layout.name == "envelope":
        extra = {field: field for field in ENVELOPE_NAMES if field in present and field != "event_time"}
        layout = msgspec.structs.replace(layout, columns={**layout.columns, **extra})
    stripped = {column.strip(): column for column in present}
    found = {field: column if column in present else stripped.get(column, column) for field, column in layout.columns.items()}
    layout = msgspec.structs.replace(layout, columns=found, title=stripped.get(layout.title, layout.title))
    for field, column in [*layout.columns.items(), *([("title", layout.title)] if mapping and layout.title else [])]:
        if column not in present:
            raise InputError(f"the column `{column}` for `{field}` is missing", where=where, hint=did_you_mean(column, present))
    return msgspec.structs.replace(layout, time_format=time_format) if time_format else layout


def known(schema_id: str | None) -> Layout | None:
    """The layout that events carry as their `schema_id`, None for a user's own map."""
    if schema_id is None or schema_id not in plugins.names("layout"):
        return None
    layout: Layout = plugins.find("layout", schema_id)
    return layout


def _from_map(mapping: dict[str, str]) -> Layout:
    allowed = ["time", "title", "event_id", *(name for name in ENVELOPE_NAMES if name != "event_time")]
    fields = {("time" if field == "event_time" else field): column for field, column in mapping.items()}
    title = fields.pop("title", "")
    for field in fields:
        if field not in allowed:
            raise ConfigError(
                f"`{field}` in the map is not a field of an event", where="--map", hint=did_you_mean(field, allowed)
            )
    missing = [field for field in REQUIRED if field not in fields]
    if missing:
        raise ConfigError(
            f"the map lacks `{'`, `'.join(missing)}`",
            where="--map",
            hint="`--map subject=COLUMN,object=COLUMN,time=COLUMN` names the three that every event needs",
        )
    return Layout(name=MAPPED, columns=fields, title=title)
