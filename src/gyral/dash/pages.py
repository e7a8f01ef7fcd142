"""The ASGI application: page data → HTML or JSON. It only reads, and it can be mounted anywhere.

All links are relative, computed from the depth of the page, so the same pages work at `/`, below a mount and (with a
suffix) as files. A name in an address has to match a pattern before it is looked up; nothing else of a request reaches
the file system. There is no script on any page, and the content security policy says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from gyral import __version__
from gyral.dash import faults, figures, formats, gather, live, load, planning, scaling, serving
from gyral.dash.gather import Data, LakeOverview
from gyral.dash.records import NAME, NUMBER
from gyral.errors import NotFound

TEMPLATES = Path(__file__).parent / "templates"
TABS = (
    ("", "Loop"),
    ("runs", "Runs"),
    ("models", "Models"),
    ("datasets", "Datasets"),
    ("lake", "Lake"),
    ("scaling", "Scaling"),
    ("plan", "Plan"),
)
VERB = re.compile(r"[a-z]{1,20}")
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
FORM = "plan.html"
"""The one page that asks: by a form that is a link to itself."""
POLICY = "content-security-policy"
FORM_HEADERS = {**HEADERS, POLICY: HEADERS[POLICY].replace("form-action 'none'", "form-action 'self'")}


class Site(NamedTuple):
    """What every page needs: where to read, and whether pages become files (links end in `.html`, times are absolute)."""

    root: Path
    lake_overview: LakeOverview
    as_files: bool
    templates: jinja2.Environment


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
        "metric_name",
        "words",
        "ticked",
        "plural",
    ):
        environment.filters[name] = getattr(formats, name)
    environment.globals.update(faults=faults, live=live, load=load, planning=planning, scaling=scaling, serving=serving)
    environment.globals.update(figures=figures, rate=formats.rate, value_of=formats.value_of, version=__version__, tabs=TABS)
    site = Site(root, lake_overview, as_files, environment)

    def page(template: str, data: Callable[[str], Data]) -> Callable[[Request], Response]:
        return lambda request: _answer(site, request, template, data)

    lists = {
        "index": page("home.html", lambda _: gather.home(root, lake_overview)),
        "runs": page("runs.html", lambda _: gather.runs(root)),
        "models": page("models.html", lambda _: gather.models(root)),
        "datasets": page("datasets.html", lambda _: gather.datasets(root)),
        "faults": page("faults.html", lambda _: faults.page(root)),
        "live": page("live.html", lambda _: live.page(root)),
        "serving": page("serving.html", lambda _: serving.page(root)),
        "scaling": page("scaling.html", lambda _: scaling.page(root)),
        "lake": page("lake.html", lambda _: gather.lake(root, lake_overview)),
        "plan": lambda request: _answer(site, request, FORM, lambda _: planning.page(root, request.query_params)),
    }
    run, runs = (
        page("run.html", lambda name: gather.run(root, int(name))),
        page("runs.html", lambda verb: gather.runs(root, verb)),
    )

    def run_or_verb(request: Request) -> Response:
        return (run if NUMBER.fullmatch(_name(request)) else runs)(request)

    return Starlette(
        routes=[
            Route("/", lists["index"]),
            *(Route(f"/{name}", endpoint) for name, endpoint in lists.items() if name != "index"),
            *(Route(f"/{name}.json", endpoint) for name, endpoint in lists.items()),
            Route("/runs/{name}", run_or_verb),
            Route("/models/{name}", page("model.html", lambda name: gather.model(root, name))),
            Route("/datasets/{name}", page("dataset.html", lambda name: gather.dataset(root, name))),
        ],
        exception_handlers={404: _missing(site), NotFound: _missing(site)},
    )


def _answer(site: Site, request: Request, template: str, gather_page: Callable[[str], Data]) -> Response:
    name = _name(request)
    if name and not (NAME.fullmatch(name) or NUMBER.fullmatch(name) or VERB.fullmatch(name)):
        raise HTTPException(404)
    data = gather_page(name)
    if request.url.path.endswith(".json"):
        return _json(data)
    return HTMLResponse(_render(site, request, template, data), headers=HEADERS if template != FORM else FORM_HEADERS)


def _missing(site: Site) -> Callable[[Request, Exception], Response]:
    def missing(request: Request, error: Exception) -> Response:
        what, hint = f"there is no page `{_address(request)}`", "start at the loop"
        if isinstance(error, NotFound):
            what, hint = error.what, error.hint
        data: Data = {"what": what, "hint": hint, "running": False}
        if request.url.path.endswith(".json"):
            return _json(data, 404)
        return HTMLResponse(_render(site, request, "missing.html", data), 404, headers=HEADERS)

    return missing


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
        "tab": here.partition("/")[0],
        "as_files": site.as_files,
        "refreshes": bool(data.get("running")) and not site.as_files,
        "written": f"{datetime.now(UTC):%-d %b %Y, %H:%M} UTC",
    }
    return site.templates.get_template(template).render(context)


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
