"""Tests of the page in a real headless Chromium, as a person with a keyboard uses it."""

import pytest
from labelling_page import ActionChains, Keys, Page, browser
from labelling_sets import HIERARCHY, Server, answer_lines, make_folder

__all__ = ["browser"]  # a fixture

MARKUP = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("label")


@pytest.fixture(scope="module")
def server(folders):
    """Starting one takes seconds, so tests share it; each goes on where the one before ended."""
    make_folder(folders / "shared", 12, num_neighbours=2)
    with Server(folders / "shared", annotator="ann") as server:
        yield server


@pytest.fixture
def page(browser, server, folders):
    """The shared server's page at its first unanswered question."""
    browser.get_log("browser")
    page = Page(browser)
    page.open(server.address)
    page.folder = folders / "shared"
    return page


def last_answer(folder):
    line = answer_lines(folder)[-1]
    return line["question_id"], line["answer"], line["labels"]


def errors_of(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_sound_plays_and_stops_by_key(page):
    position = lambda: page.script("document.querySelector('#sound audio').currentTime")  # noqa: E731
    page.keys(Keys.SPACE)
    page.wait(lambda: position() > 0.2)
    assert page.script("document.querySelector('#sound .playhead').offsetParent !== null")
    assert "Stop" in page.script("document.querySelector('#sound .play').innerText")
    page.keys(Keys.SPACE)
    stopped_at = position()
    assert page.script("document.querySelector('#sound audio').paused")
    assert position() == stopped_at
    page.wait(
        lambda: (
            page.script("document.querySelector('#sound audio').duration") == pytest.approx(2.96, abs=0.01)
        )
    )


def test_the_window_alone_and_a_neighbour_play_by_key(page):
    page.keys("w")
    page.wait(lambda: page.script("!document.querySelector('#sound audio').paused"))
    assert page.script("document.querySelector('#sound audio').currentTime") >= 0.99
    page.wait(lambda: page.script("document.querySelector('#sound audio').paused"))
    assert page.script("document.querySelector('#sound audio').currentTime") == pytest.approx(1.96, abs=0.25)
    ActionChains(page.browser).key_down(Keys.SHIFT).send_keys("2").key_up(Keys.SHIFT).perform()
    page.wait(lambda: page.script("document.querySelectorAll('#neighbours audio')[1].currentTime") > 0.1)
    page.keys(Keys.SPACE)  # one sound at a time
    page.wait(lambda: page.script("!document.querySelector('#sound audio').paused"))
    assert page.script("document.querySelectorAll('#neighbours audio')[1].paused")


def test_the_picture_marks_the_window(page):
    page.wait(lambda: page.script("document.querySelector('#sound img').naturalWidth") == 294)
    box = "(s => document.querySelector(s).getBoundingClientRect().toJSON())(arguments[0])"
    picture, window = page.script(box, "#sound .picture"), page.script(box, "#sound .window")
    assert (window["left"] - picture["left"]) / picture["width"] == pytest.approx(1.0 / 2.96, abs=0.01)
    assert window["width"] / picture["width"] == pytest.approx(0.96 / 2.96, abs=0.01)
    assert page.script("document.querySelector('#sound .times').innerText").split("\n")[:2] == [
        "3 s",
        "3.5 s",
    ]


def test_a_key_chooses_a_class_and_enter_stores_it(page):
    number = page.number
    assert page.text("spread") == f"Your answer is spread over {10 * number} windows."
    page.keys("2")
    assert page.chosen == ["rain"]
    page.keys(Keys.ENTER)
    page.wait_for_question(number + 1)
    assert last_answer(page.folder) == (f"q{number:04d}", "labels", ["rain"])
    assert page.text("progress-text").startswith(f"{number} of 12 answered")
    assert "stored as rain" in page.text("status")


def test_several_classes_may_be_chosen_and_dropped(page):
    number = page.number
    page.keys("1", "3", "4", "3")
    assert page.chosen == ["dog", "engine"]
    page.keys(Keys.ENTER)
    page.wait_for_question(number + 1)
    assert last_answer(page.folder)[1:] == ("labels", ["dog", "engine"])


def test_enter_without_a_class_stores_nothing(page):
    number, before = page.number, answer_lines(page.folder)
    page.keys(Keys.ENTER)
    page.wait(lambda: "Choose a class first" in page.text("status"))
    assert (page.number, answer_lines(page.folder)) == (number, before)


def test_unsure_and_none_of_these_are_answers(page):
    number = page.number
    page.keys("u")
    page.wait_for_question(number + 1)
    assert last_answer(page.folder) == (f"q{number:04d}", "unsure", [])
    page.keys("n")
    page.wait_for_question(number + 2)
    assert last_answer(page.folder) == (f"q{number + 1:04d}", "none", [])


@pytest.mark.parametrize("key", ["z", Keys.BACKSPACE, Keys.ARROW_LEFT])
def test_going_back_shows_the_answer_and_lets_it_be_changed(page, key):
    number = page.number
    page.keys("1", Keys.ENTER)
    page.wait_for_question(number + 1)
    page.keys(key)
    page.wait_for_question(number)
    assert page.chosen == ["dog"]
    stored = len(answer_lines(page.folder))
    page.keys(Keys.ENTER)  # as it was: nothing is stored anew
    page.wait_for_question(number + 1)
    assert len(answer_lines(page.folder)) == stored
    page.keys(key)
    page.wait_for_question(number)
    page.keys("1", "2", Keys.ENTER)
    page.wait_for_question(number + 1)
    assert last_answer(page.folder) == (f"q{number:04d}", "labels", ["rain"])
    page.keys(key)
    page.wait_for_question(number)
    page.keys("x")  # taken back
    page.wait(lambda: "taken back" in page.text("status"))
    assert last_answer(page.folder) == (f"q{number:04d}", "withdrawn", [])
    assert (page.number, page.chosen) == (number, [])


def test_a_reload_goes_on_at_the_first_unanswered_question(page):
    number = page.number
    page.keys(Keys.ARROW_RIGHT)  # skipped
    page.wait_for_question(number + 1)
    page.keys("4", Keys.ENTER)
    page.wait_for_question(number + 2)
    page.browser.refresh()
    page.wait_for_question(number)
    page.keys("4", Keys.ENTER)
    page.wait_for_question(number + 2)  # the one between is answered


def test_what_was_chosen_and_not_stored_is_there_on_coming_back(page):
    number, before = page.number, answer_lines(page.folder)
    page.keys("3", Keys.ARROW_RIGHT)
    page.wait_for_question(number + 1)
    page.keys("z")
    page.wait_for_question(number)
    assert page.chosen == ["siren"]
    assert answer_lines(page.folder) == before


def test_mouse_and_keyboard_mix(page):
    number = page.number
    for selector in ("#autoplay", "#autoplay", "#neighbours .play", "#slots button:nth-child(2)"):
        page.click(selector)
    assert page.chosen == ["rain"]
    page.click(".switch span")
    page.click(".switch span")
    page.keys(Keys.ENTER)  # stores: it does not press a button again
    page.wait_for_question(number + 1)
    assert last_answer(page.folder)[2] == ["rain"]
    page.click("#back")
    page.wait_for_question(number)
    page.keys("x")
    page.wait(lambda: "taken back" in page.text("status"))


def test_the_keys_are_shown_and_can_be_switched_off(page):
    is_open = lambda: page.script("document.getElementById('help').open")  # noqa: E731
    number = page.number
    for is_on in (False, True):
        page.keys("?") if not is_on else page.click("#help-button")
        page.wait(is_open)
        page.keys("1", "u")  # nothing happens behind it
        page.click("#shortcuts")
        page.keys(Keys.ESCAPE)
        page.wait(lambda: not is_open())
        page.keys("1")
        assert (page.number, page.chosen) == (number, ["dog"] if is_on else [])


def test_nothing_is_blocked_or_broken_on_the_way(page):
    page.keys(Keys.SPACE)
    page.wait(
        lambda: page.script("[...document.querySelectorAll('#question img')].every(i => i.naturalWidth)")
    )
    assert errors_of(page.browser) == []


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_it_fits_its_width_and_every_control_has_a_name(page, width):
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert page.script("document.documentElement.scrollWidth <= window.innerWidth")
        unnamed = (
            "[...document.querySelectorAll('button, input')].filter(e => !e.innerText.trim() "
            "&& !e.ariaLabel && !e.labels?.length).length"
        )
        assert page.script(unnamed) == 0
        heights = "[...document.querySelectorAll('button')].map(e => e.offsetHeight).filter(height => height)"
        assert min(page.script(heights)) >= 36
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


_CONTRAST = """(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => channels(color).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if ((channels(color)[3] ?? 1) === 1) return color;
    }
    return "rgb(255,255,255)";
  };
  const low = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.offsetParent || e.closest(":disabled") || e.closest(".picture")) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push([e.tagName, e.className, e.textContent.trim(), ratio]);
  }
  return low;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast_in_both_schemes(page, scheme):
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    try:
        page.keys("1", "2")
        assert page.script("getComputedStyle(document.body).backgroundColor") == (
            "rgb(21, 22, 24)" if scheme == "dark" else "rgb(244, 243, 240)"
        )
        assert page.script(_CONTRAST) == []
        page.keys("/")
        page.wait(lambda: page.is_shown("results"))
        assert page.script(_CONTRAST) == []
    finally:
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.fixture(scope="module")
def odd_server(folders):
    """Classes with a hierarchy, new ones allowed, and names full of markup."""
    make_folder(folders / "<b>odd", 3, classes=HIERARCHY, clip_id=MARKUP + "{}")
    with Server(folders / "<b>odd", allow_new_classes=True) as server:
        yield server


def test_the_search_finds_classes_by_parts_of_their_names(browser, odd_server, folders):
    page = Page(browser)
    page.open(odd_server.address)
    assert page.is_shown("slots-empty")  # too many classes for keys of their own
    page.keys("/", "dog")
    page.wait(lambda: page.found == ["Dog", "Hot dog stand", "Bark"])  # the name, a word of it, its path
    assert page.script("document.querySelector('#results .path').textContent") == "Animal"
    page.keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert page.script("document.querySelector('[aria-selected=true] .result-name').textContent") == "Bark"
    assert page.script("document.querySelector('[aria-selected=true] .path').textContent") == "Animal › Dog"
    assert page.script("document.activeElement.getAttribute('aria-activedescendant')") == "result-2"
    page.keys(Keys.ENTER)
    assert page.chosen == ["Bark"]
    page.keys("/", "CAFE", Keys.ENTER)  # without its accent
    assert page.chosen == ["Bark", "Café"]
    page.keys("/", "ller 29")  # any part
    page.wait(lambda: page.found[0] == "Filler 29")
    page.keys(Keys.BACKSPACE, Keys.BACKSPACE, Keys.ESCAPE)  # edits the text, goes nowhere
    assert not page.is_shown("results")
    page.keys(Keys.ENTER)
    page.wait_for_question(2)
    assert last_answer(folders / "<b>odd")[1:] == ("labels", ["Bark", "Café"])
    page.keys("1")  # they have keys now
    assert page.chosen == ["Bark"]


def test_names_with_markup_are_shown_and_not_run(browser, odd_server, folders):
    page = Page(browser)
    page.open(odd_server.address)
    assert page.script("document.querySelector('#sound .name').textContent") == MARKUP + str(page.number)
    assert page.text("set-name") == "<b>odd"
    number = page.number
    page.keys("/", MARKUP, Keys.ENTER)  # as a new class, too
    assert page.chosen == [MARKUP]
    page.keys(Keys.ENTER)
    page.wait_for_question(number + 1)
    assert last_answer(folders / "<b>odd")[2] == [MARKUP]
    assert MARKUP in page.text("slots")
    page.keys("/", "onerror")
    page.wait(lambda: MARKUP in page.found)
    assert page.script("window.hacked") is None
    assert page.script("document.querySelectorAll('main script, main b, img[src=x]').length") == 0
