"""Names, kinds, events, settings, errors and log lines that are script: drawn as text on every page, and run on none."""

import asyncio
from html.parser import HTMLParser

import httpx
import pytest

from gyral.dash import changes, gather
from gyral.dash.export import export
from gyral.dash.pages import LISTED, app

from . import hostile

ASKED = ["plan?verb={}", "plan?verb=serve&model={}", "compare?a={}&b=1", "search?q={}", "runs/{}", "models/{}", "{}", "{}.json"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile") / "shop"
    return root, hostile.write(root)


class _Seen(HTMLParser):
    """What a browser would run, and where links of a page lead."""

    def __init__(self, text):
        super().__init__()
        self.runs, self.links, self._is_script = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._is_script = tag == "script"
        values = dict(attrs)
        self.runs += [f"{tag} {name}" for name in values if name.startswith("on") or name in ("srcdoc", "formaction")]
        for name in ("href", "src", "action", "xlink:href"):
            target = (values.get(name) or "").strip()
            if ":" in target.partition("/")[0] and not (tag == "link" and target.startswith("data:image/svg+xml,")):
                self.runs.append(f"{tag} {name}={target[:40]}")
        if tag in ("iframe", "object", "embed", "base", "img"):
            self.runs.append(tag)
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        if self._is_script and data != changes.SCRIPT:
            self.runs.append(f"script {data[:40]}")
        self._is_script = False


def pages_of(application):
    """Every page that links lead to, and those that answer a question that is script: address → answer."""

    async def walk():
        found = {}
        waiting = [httpx.URL(f"http://dash/{page}") for page in LISTED]
        quoted = httpx.QueryParams({"a": hostile.EVIL}).__str__()[2:]
        waiting += [httpx.URL(f"http://dash/{page.format(quoted, quoted)}") for page in ASKED]
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport) as client:
            while waiting:
                url = waiting.pop()
                if str(url) in found or url.host != "dash":
                    continue
                answer = found[str(url)] = await client.get(url)
                if "html" in answer.headers["content-type"]:
                    waiting += [url.join(link).copy_with(fragment=None) for link in _Seen(answer.text).links]
        return found

    return asyncio.run(walk())


def test_no_page_runs_what_is_in_the_data(made):
    root, overview = made
    found = pages_of(app(root, overview))
    drawn = set()
    for url, answer in found.items():
        assert answer.headers["x-content-type-options"] == "nosniff", url
        policy = answer.headers["content-security-policy"]
        assert f"script-src '{changes.DIGEST}'" in policy and "frame-ancestors 'none'" in policy, url
        if "html" in answer.headers["content-type"]:
            assert answer.status_code in (200, 404), url
            assert _Seen(answer.text).runs == [], url
            assert "7777777" not in answer.text, url
            if "&lt;script&gt;window.ran=1" in answer.text:
                drawn.add(url.removeprefix("http://dash/"))
        else:
            assert answer.headers["content-type"] == "application/json", url
    assert len(found) > 40
    assert {"lake", "runs/1", "runs/5"} <= drawn, "kinds, errors, settings and logs were drawn nowhere"


def test_a_page_that_is_a_file_says_that_no_script_may_run(made, tmp_path):
    root, overview = made
    export(root, overview, tmp_path / "out")
    written = list((tmp_path / "out").rglob("*.html"))
    assert len(written) > 10
    for path in written:
        text = path.read_text()
        assert _Seen(text).runs == [] and "<script" not in text
        head = text.partition("<title>")[0]
        assert (
            '<meta http-equiv="content-security-policy" content="default-src &#39;none&#39;;' in head
            and "script-src" not in head
        )


def test_a_page_that_fails_has_the_policy_and_tells_nothing_of_why(made, monkeypatch):
    root, overview = made

    def broken(*_):
        raise ValueError(hostile.SCRIPT)

    monkeypatch.setattr(gather, "models", broken)
    found = pages_of(app(root, overview))
    failed = {url: each for url, each in found.items() if each.status_code == 500}
    assert set(failed) == {"http://dash/models", "http://dash/models.json"}
    for each in failed.values():
        assert "could not be made" in each.text and "window.ran" not in each.text
        assert "frame-ancestors 'none'" in each.headers["content-security-policy"]
