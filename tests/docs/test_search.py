"""The search of the documentation's site, in pages that are opened as files. Needs Chromium and its driver."""

from pathlib import Path

import pytest

from .. import chromium as browsers

ROOT = Path(__file__).resolve().parents[2]
if not browsers.IS_HERE:
    pytest.skip(browsers.WHY_NOT, allow_module_level=True)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]
ASK = """
const done = arguments[0];
try {
    const worker = new Worker("twice.js");
    worker.addEventListener("message", told => done(told.data));
    worker.postMessage(21);
} catch (error) {
    done(String(error));
}
"""


@pytest.mark.parametrize("is_with", [True, False])
def test_a_worker_answers_in_a_page_that_is_a_file(tmp_path, is_with):
    """The theme's own one is refused there by the browser: the second case is why there is the first."""
    script = (ROOT / "docs" / "search_worker.js").read_text(encoding="utf-8") if is_with else ""
    (tmp_path / "twice.js").write_text("addEventListener('message', asked => postMessage(2 * asked.data))")
    (tmp_path / "page.html").write_text(f"<!doctype html><html><body><p>page</p><script>{script}</script></body></html>")
    driver = browsers.started(tmp_path / "profile")
    try:
        driver.get(f"file://{tmp_path / 'page.html'}")
        told = driver.execute_async_script(ASK)
    finally:
        driver.quit()
    assert told == 42 if is_with else "SecurityError" in str(told)
