"""The ASGI application: page data → HTML or JSON. It only reads, and it can be mounted anywhere.

All links are relative, computed from the depth of the page, so the same pages work at `/`, below a mount and (with a
suffix) as files. A name in an address has to match a pattern before it is looked up; nothing else of a request reaches
the file system. Every page has a `.json` twin, made of the same data. One script runs, the one that follows changes, and the
content security policy names it by its digest; a form is a link with a question, to a page of the same site.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
import msgspec
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from gyral import __version__
from gyral.dash import (
    changes,
    compare,
    faults,
    figures,
    foretold,
    formats,
    front,
    gather,
    live,
    load,
    params,
    planning,
    plugged,
    scaling,
    search,
    serving,
)
from gyral.dash.gather import Data, LakeOverview
from gyral.dash.plugged import Plugged
from gyral.dash.rationed import Rationed
from gyral.dash.records import NAME, NUMBER
from gyral.errors import NotFound

TEMPLATES = Path(__file__).parent / "templates"
COMMANDS = "gyral ", "python "
"""How a hint begins that is one."""
VERB = re.compile(r"[a-z]{1,20}")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'self'"
"""Of a page that is a file; a served one may run the script besides, and stand in no frame."""
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": f"{POLICY}; script-src '{changes.DIGEST}'; connect-src 'self'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Site(NamedTuple):
    """What every page needs: where to read, and whether pages become files (links end in `.html`, times are absolute)."""

    root: Path
    lake_overview: LakeOverview
    as_files: bool
    templates: jinja2.Environment
    changes: changes.Changes
    plans: Rationed[Data]


class Listed(NamedTuple):
    """A page with an address of its own: `tab` is its name in the navigation, empty where it does not stand there.

    One that answers a question stays as it was asked; all others follow what changes.
    """

    tab: str
    template: str
    data: Callable[[Site, Mapping[str, str]], Data]
    is_answer: bool = False


LISTED = {
    "": Listed("Loop", "home.html", lambda site, _: gather.home(site.root, site.lake_overview)),
    "live": Listed("Live", "live.html", lambda site, _: live.page(site.root)),
    "params": Listed("Params", "params.html", lambda site, _: params.page(site.root)),
    "runs": Listed("Runs", "runs.html", lambda site, _: gather.runs(site.root)),
    "models": Listed("Models", "models.html", lambda site, _: gather.models(site.root)),
    "serving": Listed("Serving", "serving.html", lambda site, _: serving.page(site.root)),
    "datasets": Listed("Datasets", "datasets.html", lambda site, _: gather.datasets(site.root)),
    "lake": Listed("Lake", "lake.html", lambda site, _: gather.lake(site.root, site.lake_overview)),
    "scaling": Listed("Scaling", "scaling.html", lambda site, _: scaling.page(site.root)),
    "faults": Listed("Faults", "faults.html", lambda site, _: faults.page(site.root)),
    "plan": Listed(
        "Plan", "plan.html", lambda site, query: planning.page(site.root, query, site.plans, site.changes.state()), True
    ),
    "compare": Listed("", "compare.html", lambda site, query: compare.page(site.root, query), True),
    "search": Listed("", "search.html", lambda site, query: search.page(site.root, query.get("q", "")), True),
}
"""Address → page, in the order of the navigation, which is made of this."""


def app(root: Path, lake_overview: LakeOverview) -> Starlette:
    """Make the pages of a project folder.

    Parameters
    ----------
    root : the project folder; it may be empty, and nothing is ever written to it.
    lake_overview : returns the lake's numbers, called once for each home and lake page.
    """
    return build(root, lake_overview)


def build(root: Path, lake_overview: LakeOverview, *, as_files: bool = False) -> Starlette:
    """Make the application of `app`; `as_files` writes links and times for pages that are saved."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    for name in (
        "metric",
        "count",
        "compact",
        "size",
        "share",
        "signed_share",
        "duration",
        "milliseconds",
        "moment",
        "day",
        "label",
        "metric_name",
        "money",
        "brief",
        "words",
        "ticked",
        "plural",
    ):
        environment.filters[name] = getattr(formats, name)
    drawing = (compare, figures, faults, foretold, front, live, load, params, planning, scaling, serving)
    environment.globals.update({each.__name__.rpartition(".")[2]: each for each in drawing})
    environment.globals.update(rate=formats.rate, value_of=formats.value_of, version=__version__)
    others = plugged.found()
    tabs = [(address, each.tab) for address, each in LISTED.items() if each.tab]
    environment.globals["tabs"] = (*tabs, *((each.address, each.title) for each in others))
    site = Site(root, lake_overview, as_files, environment, changes.Changes(root), Rationed())

    def page(template: str, data: Callable[[str], Data]) -> Callable[[Request], Response]:
        return lambda request: _answer(site, request, template, data)

    def listed(each: Listed) -> Callable[[Request], Response]:
        return lambda request: _answer(site, request, each.template, lambda _: _or_nothing(site, each, request.query_params))

    run, runs = (
        page("run.html", lambda name: gather.run(root, int(name))),
        page("runs.html", lambda verb: gather.runs(root, verb)),
    )

    def run_or_verb(request: Request) -> Response:
        return (run if NUMBER.fullmatch(_name(request)) else runs)(request)

    def of_others(each: Plugged) -> Callable[[Request], Response]:
        return lambda request: _plugged(site, request, each)

    return Starlette(
        routes=[
            *(Route(f"/{address}", listed(each)) for address, each in LISTED.items()),
            *(Route(f"/{address or 'index'}.json", listed(each)) for address, each in LISTED.items()),
            Route("/runs/{name}", run_or_verb),
            Route("/models/{name}", page("model.html", lambda name: gather.model(root, name))),
            Route("/datasets/{name}", page("dataset.html", lambda name: gather.dataset(root, name))),
            *(Route(f"/{each.address}{end}", of_others(each)) for each in others for end in ("", ".json")),
            *([] if as_files else [Route(f"/{changes.ADDRESS}", site.changes, methods=["GET"])]),
        ],
        exception_handlers={404: _missing(site), NotFound: _missing(site), Exception: _failed(site)},
    )


def _answer(site: Site, request: Request, template: str, gather_page: Callable[[str], Data]) -> Response:
    name = _name(request)
    if name and not (NAME.fullmatch(name) or NUMBER.fullmatch(name) or VERB.fullmatch(name)):
        raise HTTPException(404)
    request.state.seen = site.changes.state()  # before the data: what changes in between is told again
    data = gather_page(name)
    wait_s = data.get("retry_s")
    status = 429 if wait_s else 200
    if request.url.path.endswith(".json"):
        answer = _json(data, status)
    else:
        answer = HTMLResponse(_render(site, request, "nothing.html" if "nothing" in data else template, data), status, HEADERS)
    if wait_s:
        answer.headers["retry-after"] = str(wait_s)
    return answer


def _or_nothing(site: Site, each: Listed, query: Mapping[str, str]) -> Data:
    """A page that the navigation leads to is never missing: where there is nothing yet, it tells what makes it."""
    try:
        return each.data(site, query)
    except NotFound as error:
        if not error.hint.startswith(COMMANDS):
            raise
        return {"nothing": error.what, "hint": error.hint, "running": False}


def _plugged(site: Site, request: Request, each: Plugged) -> Response:
    """The page of a package, its twin, or what went wrong in it."""
    is_twin = request.url.path.endswith(".json")
    try:
        told = each.told(site.root)
        if is_twin:
            return _json(told)
        body = site.templates.from_string(each.page.template if each.page is not None else "")
        data = {"title": each.title, "error": None, "body": body, "told": told, "running": told.get("running")}
        return HTMLResponse(_render(site, request, "plugged.html", data), headers=HEADERS)
    except (Exception, SystemExit) as error:  # somebody else's code: it fails alone
        trouble = plugged.trouble(each, error)
        if is_twin:
            return _json(trouble, 500)
        text = _render(site, request, "plugged.html", {"title": each.title, "error": trouble})
        return HTMLResponse(text, 500, headers=HEADERS)


def _missing(site: Site) -> Callable[[Request, Exception], Response]:
    def missing(request: Request, error: Exception) -> Response:
        what, hint = f"there is no page `{_address(request)}`", "start at the loop"
        if isinstance(error, NotFound):
            what, hint = error.what, error.hint
        data: Data = {"what": what, "hint": hint, "running": False}
        if request.url.path.endswith(".json"):
            return _json(data, 404)
        return HTMLResponse(_render(site, request, "missing.html", {**data, "status": 404}), 404, headers=HEADERS)

    return missing


def _failed(site: Site) -> Callable[[Request, Exception], Response]:
    def failed(request: Request, error: Exception) -> Response:
        what = "this page could not be made"
        if request.url.path.endswith(".json"):
            return _json({"what": what, "hint": "the server's log says why"}, 500)
        data: Data = {"what": what, "hint": "start at the loop", "status": 500, "running": False}
        return HTMLResponse(_render(site, request, "missing.html", data), 500, headers=HEADERS)

    return failed


def _render(site: Site, request: Request, template: str, data: Data) -> str:
    here = _address(request).strip("/").removesuffix(".json")
    up = "../" * _depth(request)

    def link(page: str) -> str:
        if site.as_files:
            return up + quote(page or "index", safe="/@") + ".html"
        return up + quote(page, safe="/@") if page else up or "./"

    def ago(text: str | None) -> str:
        return formats.age(text, None if site.as_files else datetime.now(UTC))

    context: dict[str, Any] = {
        "page": data,
        "link": link,
        "ago": ago,
        "twin": up + quote(here or "index", safe="/@") + ".json" + (f"?{request.url.query}" if request.url.query else ""),
        "tab": here if here.startswith(f"{plugged.PREFIX}/") else here.partition("/")[0],
        "name": LISTED[here].tab or formats.words(here).capitalize() if here in LISTED else "",
        "as_files": site.as_files,
        "policy": POLICY,
        "refreshes": bool(data.get("running")) and not site.as_files,
        "follows": _follows(site, here, data),
        "state": getattr(request.state, "seen", ""),
        "changes": up + changes.ADDRESS,
        "script": Markup(changes.SCRIPT),
        "written": f"{datetime.now(UTC):%-d %b %Y, %H:%M} UTC",
    }
    return site.templates.get_template(template).render(context)


def _follows(site: Site, here: str, data: Data) -> bool:
    """Whether a page is swapped when something changes; a plug-in's page, and one that is not there, only if it says so."""
    if site.as_files or (here in LISTED and LISTED[here].is_answer):
        return False
    return bool(data.get("running")) or not (here.startswith(f"{plugged.PREFIX}/") or "what" in data)


def _json(data: Data, status: int = 200) -> Response:
    body = msgspec.json.format(msgspec.json.encode(data), indent=1)
    return Response(body, status, media_type="application/json", headers=HEADERS)


def _name(request: Request) -> str:
    return str(request.path_params.get("name", "")).removesuffix(".json")


def _depth(request: Request) -> int:
    """How many folders deep a browser sees this page; it does not count an encoded slash, so the raw path tells."""
    raw = request.scope.get("raw_path")
    path = raw.decode("latin-1").partition("?")[0] if raw else str(request.scope["path"])
    return max(path.count("/") - str(request.scope.get("root_path", "")).count("/") - 1, 0)


def _address(request: Request) -> str:
    """The path below the mount point."""
    return str(request.scope["path"]).removeprefix(str(request.scope.get("root_path", "")))
