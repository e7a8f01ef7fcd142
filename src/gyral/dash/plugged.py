"""Pages of others: the hook `page`, and how the pages of gyral keep them from doing harm.

A package says what a page is called, what it tells and how that is drawn. Its address is `/pages/NAME`, its twin
`/pages/NAME.json`, and it stands in the navigation. What it tells goes through JSON before it is drawn, so a page shows
nothing that its twin does not say; texts are escaped, and it has the headers of every page, so no script of its own runs. What
fails in it, from the import to the last line of the template, is told on that page and in its twin with status 500.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gyral import plugins
from gyral.errors import GyralError

KIND = "page"
PREFIX = "pages"


class Page(NamedTuple):
    """A page of a package.

    Attributes
    ----------
    title : in the navigation and above the page, a word or two.
    gather : the project folder → what the page tells: a mapping that JSON can hold. Called for each request, in a thread; it
        only reads, and what it raises is told on the page.
    template : Jinja, of what stands below the title. `page` is what was gathered; `link(ADDRESS)` leads to another page;
        `parts` has the macros of `gyral/dash/templates/parts.html`, and filters write values: `count`, `metric`, `size`, ….
    """

    title: str
    gather: Callable[[Path], Mapping[str, Any]]
    template: str


class Plugged(NamedTuple):
    """A page that was found, or why it cannot be had."""

    name: str
    page: Page | None
    error: Exception | None = None

    @property
    def address(self) -> str:
        """Where it is, below the first page; what an address cannot hold is a dash."""
        return f"{PREFIX}/{re.sub(r'[^A-Za-z0-9_-]+', '-', self.name)}"

    @property
    def title(self) -> str:
        """What it is called; one that cannot be loaded, by its name."""
        return str(self.page.title) if self.page is not None else self.name

    def told(self, root: Path) -> dict[str, Any]:
        """What it tells, as its twin has it; whatever it raises."""
        if self.page is None:
            raise self.error or LookupError(self.name)
        found = msgspec.json.decode(msgspec.json.encode(self.page.gather(root), enc_hook=_plain))
        if not isinstance(found, dict):
            raise TypeError(f"it tells a {type(found).__name__}, not a mapping")
        return found


def found() -> list[Plugged]:
    """All pages of packages, by name, loaded; what cannot be loaded is kept with its error."""
    return [_load(name) for name in plugins.names(KIND)]


def trouble(each: Plugged, error: BaseException) -> dict[str, Any]:
    """What is told instead of a page: the parts of an error."""
    what = f"the page `{each.name}` of a plug-in failed"
    if isinstance(error, GyralError):
        return {"what": error.what, "where": error.where or what, "why": error.why, "hint": error.hint}
    return {
        "what": what,
        "where": "",
        "why": f"{type(error).__name__}: {error}",
        "hint": "the package that brings it has to be mended",
    }


def _load(name: str) -> Plugged:
    try:
        page = plugins.find(KIND, name)
    except Exception as error:  # whatever happens while somebody's module is imported
        return Plugged(name, None, error)
    if not isinstance(page, Page):
        return Plugged(name, None, TypeError(f"it is a {type(page).__name__}, not a `gyral.dash.plugged.Page`"))
    return Plugged(name, page)


def _plain(value: Any) -> Any:
    """What JSON has for a kind of text (`Markup`, which is escaped like any other), a path, or a number or array of numpy."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"JSON cannot hold a {type(value).__name__}")
