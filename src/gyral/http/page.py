"""The document as a page for people: one file, no script, nothing fetched."""

from __future__ import annotations

from html import escape
from typing import Any

import msgspec

from gyral.http import Header

HEADERS: list[Header] = [
    (b"content-type", b"text/html; charset=utf-8"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-cache"),
]
_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font: 13px/1.5 ui-monospace, monospace } pre { overflow: auto; padding: .6rem; background: #8882 }
details { border-top: 1px solid #8884; padding: .5rem 0 } summary { cursor: pointer } table { border-collapse: collapse }
td { padding: .1rem 1rem .1rem 0; vertical-align: top } td:first-child { white-space: nowrap }
summary { overflow-wrap: anywhere }
"""


def page(told: dict[str, Any]) -> str:
    """An OpenAPI document as HTML."""
    info = told["info"]
    parts = [_operation(method, path, each) for path, item in told["paths"].items() for method, each in item.items()]
    parts += [
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code> {escape(_first(schema))}</summary>'
        f"<pre>{_json(schema)}</pre></details>"
        for name, schema in told["components"]["schemas"].items()
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>"
        f'<h1>{escape(info["title"])}</h1><p>gyral {escape(info["version"])}; <a href="openapi.json">openapi.json</a>'
        f"{''.join(parts)}</html>\n"
    )


def _first(schema: dict[str, Any]) -> str:
    """What a type is; how its fields are meant stands in the schema below."""
    return str(schema.get("description", "")).partition("\n\n")[0]


def _operation(method: str, path: str, told: dict[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(each['name'])}</code><td>{each['in']}<td>{escape(each['description'])}"
        for each in told.get("parameters", ())
    ]
    body = told.get("requestBody", {}).get("content", {})
    asked = "".join(
        f"<p>Body, <code>{escape(media)}</code>: {_link(each['schema'])}"
        + (f"<pre>{_json(each['example'])}</pre>" if "example" in each else "")
        for media, each in body.items()
    )
    answers = "".join(
        f"<tr><td>{status}<td>{escape(each['description'])}<td>"
        + ", ".join(f"{_link(one['schema'])} <code>{escape(media)}</code>" for media, one in each.get("content", {}).items())
        for status, each in told["responses"].items()
    )
    return (
        f"<details><summary><code>{method.upper()} {escape(path)}</code> {escape(told['summary'])}</summary>"
        f"<table>{''.join(rows)}</table>{asked}<table>{answers}</table></details>"
    )


def _link(schema: dict[str, Any]) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    return f'<a href="#{escape(name)}">{escape(name)}</a>' if name else f"<code>{_json(schema)}</code>"


def _json(value: Any) -> str:
    return escape(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())
