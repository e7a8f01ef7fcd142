"""A real browser: pages of other sites post to a collector here, and pages here show data that is script."""

import http.client
import http.server
import json
import signal
import subprocess
import sys
import threading

import pytest

from .. import chromium as browsers

if not browsers.IS_HERE:
    pytest.skip(browsers.WHY_NOT, allow_module_level=True)

from gyral.dash.pages import app

from . import hostile

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]
NAMED = "--host-resolver-rules=MAP evil.example 127.0.0.1"
POSTS = """
const [to, who, done] = arguments;
const event = {event_time: 1790000000000, kind: "view", subject: "u", object: "p"};
const body = id => JSON.stringify([{event_id: `${who}-${id}`, ...event}]);
const plain = {"content-type": "text/plain"}, json = {"content-type": "application/json"};
const frame = document.createElement("iframe");
frame.name = "inside";
document.body.append(frame);
const form = document.createElement("form");
Object.assign(form, {method: "post", enctype: "text/plain", target: "inside", action: to});
const field = document.createElement("input");
field.name = body("form").slice(0, -1) + ',{"x":"';
field.value = '"}]';
form.append(field);
document.body.append(form);
const loaded = new Promise(over => { frame.onload = over; setTimeout(over, 3000); });
form.submit();
const sent = navigator.sendBeacon(to, body("beacon"));
Promise.allSettled([
    fetch(to, {method: "POST", mode: "no-cors", headers: plain, body: body("blind")}),
    fetch(to, {method: "POST", headers: json, body: body("asked")}).then(answer => answer.json()),
    loaded,
]).then(all => done(all.map(each => each.status === "fulfilled" && each.value && each.value.accepted)));
"""


class _Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another site</title><body>")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def sites():
    """Addresses of two sites that are not this one's."""
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site) for _ in range(2)]
    for each in servers:
        threading.Thread(target=each.serve_forever, daemon=True).start()
    yield [f"http://localhost:{each.server_port}" for each in servers]
    for each in servers:
        each.shutdown()
        each.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = browsers.started(tmp_path_factory.mktemp("chromium") / "profile", NAMED, page_s=60)
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


def test_a_page_of_another_site_posts_and_nothing_lands_unless_it_may(browser, sites, tmp_path):
    other, allowed = sites
    words = [
        "ingest",
        "--listen",
        "127.0.0.1:0",
        "--root",
        str(tmp_path),
        "--json",
        "--set",
        f"listen.origins={json.dumps([allowed])}",
    ]
    collector = subprocess.Popen([sys.executable, "-m", "gyral", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        port = int(json.loads(collector.stdout.readline())["url"].rpartition(":")[2])
        to = f"http://127.0.0.1:{port}/v1/events"
        browser.get(other)
        assert browser.execute_async_script(POSTS, to, "other")[1] is False
        browser.get(allowed)
        assert browser.execute_async_script(POSTS, to, "allowed")[1] == 1
        browser.get(f"http://evil.example:{port}/openapi.json")  # a name that its owner points here
        assert "not asked by that name" in browser.page_source

        def landed(name):
            event = {"event_id": name, "event_time": 1_790_000_000_000, "kind": "view", "subject": "u", "object": "p"}
            asking = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            asking.request("POST", "/v1/events", json.dumps([event]))
            told = json.loads(asking.getresponse().read())
            asking.close()
            return told["duplicate"] == 1

        ways = ("blind", "asked", "beacon", "form")
        assert [landed(f"other-{way}") for way in ways] == [False] * 4
        assert [landed(f"allowed-{way}") for way in ways] == [True] * 4
    finally:
        collector.send_signal(signal.SIGTERM)
        collector.wait(20)
        collector.stdout.close()


def test_no_page_runs_what_is_in_the_data_even_without_its_policy(browser, serve_pages, tmp_path):
    browser.execute_cdp_cmd("Page.enable", {})
    browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
    ran = "return window.ran || 0"
    browser.get(f"data:text/html,{hostile.SCRIPT}")
    assert browser.execute_script(ran) == 1, "what is looked for would not be seen"
    overview = hostile.write(tmp_path / "shop")
    with serve_pages(app(tmp_path / "shop", overview)) as (_, at, _):
        for page in (
            "",
            "runs",
            "runs/1",
            "runs/2",
            "runs/4",
            "lake",
            "models",
            "datasets",
            "serving",
            "plan?verb=serve",
            "live",
        ):
            browser.get(f"{at}{page}")
            assert browser.execute_script(ran) == 0, page
        for query in ("search?q=", "compare?a=", "runs/", ""):
            browser.get(f"{at}{query}{hostile.SCRIPT}")
            assert browser.execute_script(ran) == 0, query
        browser.get("about:blank")
