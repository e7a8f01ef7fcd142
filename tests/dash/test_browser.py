"""A real browser walks from home to a run and compares what it sees with the files. Needs Chromium and its driver."""

import json
import urllib.request

import pytest

from .. import chromium as browsers

if not browsers.IS_HERE:
    pytest.skip(browsers.WHY_NOT, allow_module_level=True)

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from gyral.dash import changes
from gyral.dash.pages import app
from gyral.errors import GyralError
from gyral.packages.archives import read_member
from gyral.packages.fetch import fetch

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]
PAGES = [
    "",
    "live",
    "params",
    "serving",
    "compare?a=4&b=8",
    "search?q=int8",
    "runs",
    "runs/1",
    "runs/3",
    "runs/24",
    "models",
    "models/online_retail-int8@6",
    "datasets",
    "datasets/online_retail@6",
    "lake",
    "scaling",
    "plan",
    "plan?verb=serve&model=online_retail&users=1e9",
    "plan?verb=nothing",
    "nothing",
]

AXE = "npm:axe-core@4.10.3!/axe.min.js"
"""Fetched by npm through gyral's own package source and kept in its cache; never a part of this project."""
RUN = """
const [rules, done] = arguments;
axe.run(document, {resultTypes: ['violations'], ...(rules && {runOnly: rules})}).then(
    told => done(told.violations.map(each => [each.id, each.nodes[0].html])), error => done([['failed', String(error)]]));
"""
COLOURS = ["color-contrast", "link-in-text-block"]
"""Rules that a dark page can break where the light one does not."""


@pytest.fixture(scope="module")
def address(shop, overview, serve_pages):
    """The pages of a project that stays as it is."""
    with serve_pages(app(shop, overview)) as (_, at, _):
        yield at


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """One headless Chromium for all tests, with a profile of its own."""
    driver = browsers.started(tmp_path_factory.mktemp("chromium") / "profile", logs=True)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium):
    """The Chromium, on no page and with nothing said yet."""
    chromium.get("about:blank")
    chromium.get_log("browser")
    yield chromium
    chromium.get("about:blank")  # or the page would follow a server that ends


def set_size(browser, width, height=900, scheme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})


def complaints(browser):
    """What the console says, without the 404 that was asked for."""
    return [entry["message"] for entry in browser.get_log("browser") if "/nothing" not in entry["message"]]


def test_a_person_goes_from_home_to_a_run_and_sees_the_numbers_of_its_file(shop, address, browser):
    set_size(browser, 1280)
    browser.get(address)
    assert "+52.4 %" in browser.find_element(By.TAG_NAME, "h1").text
    browser.find_element(By.PARTIAL_LINK_TEXT, "loop #1").click()
    assert browser.current_url == f"{address}runs/1"
    chart = next(
        figure for figure in browser.find_elements(By.TAG_NAME, "figure") if "NDCG@10, all that was asked" in figure.text
    )
    dots = chart.find_elements(By.CSS_SELECTOR, "circle[data-series]")
    seen = {
        (dot.get_attribute("data-series"), int(dot.get_attribute("data-x")), float(dot.get_attribute("data-y"))) for dot in dots
    }
    lines = [json.loads(line) for line in (shop / "runs/1/metrics.jsonl").read_text().splitlines()]
    assert seen == {
        (name, row["turn"], value) for row in lines if row["type"] == "turn" for name, value in row["ndcg_at_10"].items()
    }
    places = {dot.get_attribute("data-series"): dot.rect for dot in dots if dot.get_attribute("data-x") == "6"}
    assert places["looped"]["y"] < places["frozen"]["y"] < places["popularity"]["y"], "higher values are drawn higher"
    assert complaints(browser) == []


def test_the_ring_leads_to_the_last_run_of_a_verb(address, browser):
    set_size(browser, 1280)
    browser.get(address)
    browser.find_element(By.CSS_SELECTOR, "svg.ring a[href='runs/24'] text.name").click()
    assert browser.current_url == f"{address}runs/24"
    assert "train #24" in browser.find_element(By.TAG_NAME, "h1").text


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_scrolls_sideways_or_cuts_a_label(address, browser, width, scheme):
    set_size(browser, width, scheme=scheme)
    outside = """
        const out = [];
        for (const text of document.querySelectorAll('svg text')) {
            const box = text.getBoundingClientRect();
            if (box.width && (box.left < -0.5 || box.right > innerWidth + 0.5)) out.push(text.textContent);
        }
        return out;
    """
    overlap = """
        const out = [];
        for (const svg of document.querySelectorAll('svg')) {
            const texts = [...svg.querySelectorAll('text')].map(one => [one.textContent, one.getBoundingClientRect()]);
            const boxes = texts.filter(one => one[1].width);
            for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
                const a = boxes[i][1], b = boxes[j][1];
                const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
                const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
                if (across > 1 && down > 4) out.push(boxes[i][0] + ' / ' + boxes[j][0]);
            }
        }
        return out;
    """
    for page in PAGES:
        browser.get(address + page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, page
        assert browser.execute_script(outside) == [], page
        assert browser.execute_script(overlap) == [], page
        back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in back[4:-1].split(",")) < 200) == (scheme == "dark")
    assert complaints(browser) == []


WALK = """
window.walked = [];
document.addEventListener('focusin', ({target}) => {
    const style = getComputedStyle(target), box = target.getBoundingClientRect();
    const shown = style.outlineStyle === 'solid' && parseFloat(style.outlineWidth) >= 2;
    walked.push([target, shown && box.bottom > 0 && box.top < innerHeight]);
});
window.controls = [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex="0"]')]
    .filter(each => each.checkVisibility());
return controls.length;
"""
WALKED = """
const told = each => each.outerHTML.slice(0, 120), met = walked.map(each => each[0]);
return {
    order: met.length === controls.length && met.every((each, at) => each === controls[at]),
    unseen: walked.filter(each => !each[1]).map(each => told(each[0])),
    missed: controls.filter(each => !met.includes(each)).map(told),
    more: met.filter(each => !controls.includes(each)).map(told),
};
"""


@pytest.mark.parametrize("width", [400, 1280])
def test_the_tab_key_meets_every_control_of_every_page_in_order_and_shows_where_it_is(address, browser, width):
    set_size(browser, width)
    for page in PAGES:
        browser.get(address + page)
        number = browser.execute_script(WALK)
        ActionChains(browser, duration=0).send_keys(Keys.TAB * number).perform()
        assert browser.execute_script(WALKED) == {"order": True, "unseen": [], "missed": [], "more": []}, page
        assert number > 14, page


def test_enter_space_and_escape_do_what_they_say(address, browser):
    set_size(browser, 1280)
    browser.get(address)
    press = lambda *keys: ActionChains(browser, duration=0).send_keys(*keys).perform()  # noqa: E731
    press(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to content"
    press(Keys.ENTER, Keys.TAB)
    assert browser.execute_script("return document.querySelector('main').contains(document.activeElement)")
    ring = browser.execute_script("return [...document.querySelectorAll('svg.ring a')].map(each => each.getAttribute('href'))")
    browser.execute_script("document.querySelector('svg.ring a').focus()")
    press(Keys.TAB, Keys.ENTER)
    assert browser.current_url == address + ring[1]
    folded, summary = browser.find_element(By.TAG_NAME, "details"), browser.find_element(By.TAG_NAME, "summary")
    browser.execute_script("arguments[0].focus()", summary)
    press(Keys.ENTER)
    assert folded.get_property("open")
    press(Keys.TAB, Keys.ESCAPE)
    assert not folded.get_property("open") and browser.switch_to.active_element == summary
    press(Keys.SPACE)
    assert folded.get_property("open")
    pause = browser.find_element(By.CSS_SELECTOR, "#live button")
    browser.execute_script("arguments[0].focus()", pause)
    press(Keys.SPACE)
    assert pause.text == "Go on" and browser.find_element(By.CSS_SELECTOR, "#live [role=status]").text == "Paused"
    press(Keys.ENTER)
    assert pause.text == "Pause"
    assert complaints(browser) == []


@pytest.fixture
def followed(project, overview, serve_pages, monkeypatch):
    """The pages of a project that changes, looked at often."""
    monkeypatch.setattr(changes.Changes.__init__, "__defaults__", (0.02,))
    with serve_pages(app(project, overview)) as (_, at, _):
        yield at


def test_a_page_swaps_what_changed_and_keeps_focus_scroll_and_selection(project, followed, browser):
    def add(number, status="done"):
        record = json.loads((project / "runs/25/lineage.json").read_text()) | {"run": number, "status": status}
        (project / f"runs/{number}").mkdir(exist_ok=True)
        (project / f"runs/{number}/lineage.json").write_text(json.dumps(record))

    def says(text):
        WebDriverWait(browser, 20).until(lambda _: text in browser.find_element(By.TAG_NAME, "main").text)

    set_size(browser, 1000, 500)
    browser.get(f"{followed}runs")
    browser.execute_script("""
        const link = document.querySelector("main a[href='runs/20']");
        const words = document.querySelector("caption span").firstChild;
        link.mine = true;
        link.focus();
        getSelection().setBaseAndExtent(words, 0, words, 7);
        scrollTo(0, 300);
        window.flashes = 0;
        Element.prototype.animate = () => { flashes += 1; };
    """)
    assert browser.execute_script("return String(getSelection())") == "25 runs"
    add(26)
    says("26 runs, newest first")
    seen = browser.execute_script("""
        const at = document.activeElement;
        return [at.mine, at.textContent, scrollY, String(getSelection()), flashes > 0];
    """)
    assert seen == [True, "#20", 300, "26 runs", True]
    assert [each.text for each in browser.find_elements(By.CSS_SELECTOR, "tbody th a")][:2] == ["#26", "#25"]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]})
    browser.execute_script("flashes = 0")
    add(26, "failed")
    says("failed")
    assert browser.execute_script("return flashes") == 0
    pause = browser.find_element(By.CSS_SELECTOR, "#live button")
    pause.click()
    add(27)
    browser.get(f"{followed}runs")  # by hand there is always what is new, and the pause is kept
    says("27 runs, newest first")
    add(28)
    browser.execute_async_script("setTimeout(arguments[0], 500)")
    assert "27 runs, newest first" in browser.find_element(By.TAG_NAME, "main").text
    browser.find_element(By.CSS_SELECTOR, "#live button").click()
    says("28 runs, newest first")
    assert complaints(browser) == []


def test_a_page_whose_stream_is_refused_says_so_and_shows_its_numbers(followed, browser, monkeypatch):
    monkeypatch.setattr(changes, "MAX_STREAMS", 0)
    browser.get(f"{followed}runs/1")
    told = browser.find_element(By.CSS_SELECTOR, "#live [role=status]")
    WebDriverWait(browser, 20).until(lambda _: told.text == "Not live: reload to see what is new")
    assert "Closing the loop" in browser.find_element(By.TAG_NAME, "main").text


def test_a_form_plans_by_the_keyboard_alone(address, browser):
    set_size(browser, 1280)
    browser.get(address)
    browser.find_element(By.LINK_TEXT, "Plan").send_keys(Keys.ENTER)
    browser.find_element(By.NAME, "verb").send_keys("serve")
    users = browser.find_element(By.NAME, "users")
    users.clear()
    users.send_keys("2e9", Keys.ENTER)
    WebDriverWait(browser, 20).until(lambda _: "verb=serve" in browser.current_url)  # a plan of serving takes a second
    assert "users=2e9" in browser.current_url
    rows = {row.find_element(By.TAG_NAME, "th").text: row.text for row in browser.find_elements(By.CSS_SELECTOR, "tbody tr")}
    assert "40G a day" in rows["requests"] and "assumed" in rows["requests"]
    swings = browser.find_elements(By.CSS_SELECTOR, "rect[data-series=swing]")
    widths = [swing.rect["width"] for swing in swings]
    assert len(widths) == 5 and widths == sorted(widths, reverse=True)
    assert "gyral serve online_retail --users 2e9 --p99-ms 100 --plan" in browser.find_element(By.TAG_NAME, "main").text
    assert complaints(browser) == []


@pytest.fixture(scope="module")
def axe():
    """The script of axe-core."""
    try:
        package = fetch(AXE, lambda _: None)
    except GyralError as error:
        pytest.skip(f"axe-core cannot be fetched by npm here: {error.why}")
    return read_member(package.path, "axe.min.js").decode()


def test_axe_finds_nothing_on_any_page(address, browser, axe):
    set_size(browser, 1200)
    for page in PAGES:
        browser.get(address + page)
        browser.execute_script(axe)
        for width, scheme in ((1200, "light"), (1200, "dark"), (400, "light"), (400, "dark")):
            set_size(browser, width, scheme=scheme)
            assert browser.execute_async_script(RUN, COLOURS if scheme == "dark" else None) == [], (page, width, scheme)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, page


def test_axe_finds_nothing_on_a_page_of_what_runs(followed, browser, axe, edit_lineage, this_process):
    edit_lineage(23, status="running", ended=None, **this_process)
    set_size(browser, 400)
    browser.get(f"{followed}runs/23")
    browser.execute_script(axe)
    assert browser.find_elements(By.CSS_SELECTOR, "progress")
    assert browser.execute_async_script(RUN, None) == []


def test_each_page_of_the_navigation_is_clicked_and_shows_the_numbers_of_its_twin(address, browser):
    set_size(browser, 1200)
    browser.get(address)
    names = [link.text for link in browser.find_elements(By.CSS_SELECTOR, "header nav a")]
    assert len(names) >= 10
    marks = "return [...document.querySelectorAll('main [data-y]')].map(each => [each.dataset.x, each.dataset.y])"
    shown = 0
    for name in names:
        browser.find_element(By.LINK_TEXT, name).click()
        assert browser.find_element(By.CSS_SELECTOR, "header nav [aria-current=page]").text == name
        twin = browser.find_element(By.LINK_TEXT, "These numbers as JSON").get_attribute("href")
        with urllib.request.urlopen(twin, timeout=10) as answer:
            numbers = set(_numbers(json.load(answer)))
        if name in ("Loop", "Models", "Lake"):
            drawn = {float(y) for x, y in browser.execute_script(marks) if y and not x.endswith(" more")}  # a sum of others
            assert drawn and drawn <= numbers, name
            shown += len(drawn)
    assert shown > 30
    assert complaints(browser) == []


def test_the_search_works_by_the_keyboard_from_any_page(address, browser):
    set_size(browser, 400)
    browser.get(f"{address}runs/24")
    browser.find_element(By.NAME, "q").send_keys("int8 @6", Keys.ENTER)
    WebDriverWait(browser, 20).until(lambda _: browser.current_url.startswith(f"{address}search?q="))
    browser.find_element(By.LINK_TEXT, "online_retail-int8@6").click()
    assert browser.current_url == f"{address}models/online_retail-int8@6"
    assert complaints(browser) == []


def _numbers(value):
    """All numbers of a JSON document."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _numbers(each)
    elif isinstance(value, int | float):
        yield float(value)
