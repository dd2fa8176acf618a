"""The page of `tfsound search` in a real browser, opened from the disk."""

import pytest
from labelling_page import browser
from selenium.webdriver.support.ui import WebDriverWait
from test_search_clips import NASTY, sounds

from tfsound import search

__all__ = ["browser", "sounds"]  # fixtures


def test_the_page_opens_from_the_disk_and_its_players_are_ready(browser, sounds, tmp_path):
    path = tmp_path / "page.html"
    result = search.search_clip(str(sounds / "clips"), "b", html=str(path))
    browser.get(path.as_uri())
    script = "return [...document.querySelectorAll('audio')].map(one => one.error ? -1 : one.duration)"
    WebDriverWait(browser, 30, 0.05).until(lambda _: all(browser.execute_script(script)))
    shown = [result.query, *(found.item for found in result.found)]
    expected = [item.end_seconds - item.start_seconds for item in shown]
    assert browser.execute_script(script) == pytest.approx(expected, abs=0.01)
    widths = browser.execute_script("return [...document.images].map(one => one.naturalWidth)")
    assert widths == [int(100 * seconds - 1.5) for seconds in expected]
    text = browser.execute_script("return document.body.innerText")
    assert NASTY in text
    assert [entry["message"] for entry in browser.get_log("browser")] == []
