"""The page for answering in a real headless Chromium: keys in, texts out; skips tests where there is none."""

import shutil

import pytest

pytest.importorskip("selenium", reason='selenium is not installed: pip install "tfsound[test]"')
pytest.importorskip("uvicorn", reason='uvicorn is not installed: pip install "tfsound[label]"')

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

__all__ = ["ActionChains", "Keys", "Page", "browser"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser():
    """A headless one that keeps what pages write to its console; skips the test where there is none."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium or no chromedriver on the PATH (Debian: chromium-driver)")
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    # No sandbox: containers run tests as root, where Chromium has none.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options=options, service=Service(DRIVER))
    yield browser
    browser.quit()


class Page:
    """The page in a browser."""

    def __init__(self, browser):
        self.browser = browser

    def open(self, address):
        self.browser.get(address)
        self.wait(lambda: self.is_ready)

    def wait(self, condition, seconds=30):
        WebDriverWait(self, seconds, 0.02).until(lambda page: condition())

    def script(self, text, *arguments):
        return self.browser.execute_script(f"return {text}", *arguments)

    def text(self, name):
        return self.script("document.getElementById(arguments[0]).innerText", name)

    def is_shown(self, name):
        return self.script("document.getElementById(arguments[0]).offsetParent !== null", name)

    def keys(self, *keys):
        ActionChains(self.browser).send_keys(*keys).perform()

    def click(self, selector):
        self.browser.find_element(By.CSS_SELECTOR, selector).click()

    @property
    def is_ready(self):
        return self.script("document.getElementById('question').getAttribute('aria-busy')") == "false"

    @property
    def number(self):
        """Of the question shown, once it can be answered; None on the last page."""
        state = (
            "[document.getElementById('done').hidden, document.getElementById('question-title').textContent]"
        )
        is_asking, title = self.script(state)
        return int(title.split()[1]) if is_asking else None

    def wait_for_question(self, number, seconds=30):
        self.wait(lambda: self.is_ready and self.number == number, seconds)

    @property
    def chosen(self):
        return self.script(
            "[...document.querySelectorAll('#chosen li:not(.empty) span')].map(e => e.textContent)"
        )

    @property
    def found(self):
        return self.script("[...document.querySelectorAll('#results .result-name')].map(e => e.textContent)")
