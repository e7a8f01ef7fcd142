"""A headless Chromium for tests, of Debian's chromium and chromium-driver."""

import logging
import os
from pathlib import Path

BINARY, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
IS_HERE = BINARY.exists() and DRIVER.exists()
WHY_NOT = f"no {BINARY} with {DRIVER} on this machine"
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)


def started(profile, *flags, logs=False, page_s=30):
    """A driver of a browser that has this folder for itself; `logs`: what pages say on the console is kept."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    logging.getLogger("selenium").setLevel(logging.WARNING)
    options = webdriver.ChromeOptions()
    options.binary_location = str(BINARY)
    for flag in (*FLAGS.split(), *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    if logs:
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER), log_output=os.devnull))
    driver.set_page_load_timeout(page_s)
    return driver
