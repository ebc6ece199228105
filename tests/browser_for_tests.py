"""A headless browser for tests, and what it complains of."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MISSING = (
    "no Chromium: install it by `sudo apt-get install chromium`,"
    " or by `.venv/bin/playwright install --with-deps chromium`"
)
REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy violated: ${event.effectiveDirective} by ${event.blockedURI}`));
"""


@contextmanager
def headless_browser() -> Generator[Browser]:
    """Chromium; skips the test where there is none."""
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, NAMES)), playwright.chromium.executable_path)
        if not Path(found).exists():
            pytest.skip(MISSING)
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def gather_complaints(page: Page) -> list[str]:
    """A list that grows by each error of the page: thrown, logged, or a violated policy.

    That an answer had an error's status isn't one: the page is there to say so itself.
    """
    complaints: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        is_status = message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not is_status:
            complaints.append(f"{message.type}: {message.text}")

    page.add_init_script(REPORT_VIOLATIONS)
    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(f"thrown: {error}"))
    return complaints
