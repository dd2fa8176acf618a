"""Tests of the page in a real headless Chromium while its server is killed and started again."""

from labelling_page import Keys, Page, browser
from labelling_sets import CLASSES, Server, answer_lines, make_folder

__all__ = ["browser"]  # a fixture


def test_a_lost_server_is_said_and_the_page_goes_on_when_it_is_back(browser, tmp_path):
    folder = make_folder(tmp_path / "lost", 3)
    page = Page(browser)
    with Server(folder) as server:
        page.open(server.address)
        page.keys("1", Keys.ENTER)
        page.wait_for_question(2)
        server.kill()
        page.wait(lambda: page.is_shown("gone"))
        assert "All answers given so far are on disk" in page.text("gone")
        page.keys("2", Keys.ENTER)
        page.wait(lambda: "waits on this page" in page.text("gone"))
        assert page.number == 2  # not on disk, so the next one is not shown
        with Server(folder) as again:
            assert again.address == server.address
            page.wait_for_question(3, seconds=60)
            assert not page.is_shown("gone")
            assert [line["labels"] for line in answer_lines(folder)] == [["dog"], ["rain"]]
            again.stop()
        with Server(folder, port=int(server.address.split(":")[2].split("/")[0])):  # another token
            page.wait(lambda: "new address" in page.text("gone"))


def test_an_answer_that_waits_survives_a_reload(browser, tmp_path):
    folder = make_folder(tmp_path / "waits", 3)
    page = Page(browser)
    with Server(folder, die="before:1") as server:
        page.open(server.address)
        page.keys("3", Keys.ENTER)
        page.wait(lambda: page.is_shown("gone"))
        with Server(folder):
            page.browser.refresh()
            page.wait_for_question(2, seconds=60)
    assert [(line["question_id"], line["labels"]) for line in answer_lines(folder)] == [("q0001", ["siren"])]


def test_two_hundred_questions_and_two_kills_lose_nothing_and_double_nothing(browser, tmp_path):
    """One kill comes after an answer is on disk and before its reply, the other just before it is on disk."""
    num_questions, names = 200, [each.name for each in CLASSES]
    folder = make_folder(tmp_path / "many", num_questions, num_neighbours=0, seconds=1.0)
    expected = [names[number % 4 : number % 4 + 1 + number % 2] for number in range(num_questions)]
    page, restarts = Page(browser), []
    server = Server(folder, die="after:70")
    try:
        page.open(server.address)
        page.click("#autoplay")
        for number, labels in enumerate(expected, start=1):
            page.wait_for_question(number)
            page.keys(*(str(names.index(name) + 1) for name in labels), Keys.ENTER)
            if number in (70, 140):
                page.wait(lambda: page.is_shown("gone"))
                assert server.process.wait() == -9
                restarts.append(number)
                # The first answer that it gets is the 70th again, so its 71st is the 140th.
                server = Server(folder, die="before:71" if number == 70 else "")
        page.wait(lambda: page.number is None)
        page.click("#done-back")  # and the last one can still be seen
        page.wait_for_question(num_questions)
        assert page.chosen == expected[-1]
        assert server.stop()[0] == 0
    finally:
        server.__exit__()
        page.script("localStorage.clear()")
    lines = answer_lines(folder)
    assert [line["question_id"] for line in lines] == [
        f"q{number:04d}" for number in range(1, num_questions + 1)
    ]
    assert [line["labels"] for line in lines] == expected
    assert len({line["answer_id"] for line in lines}) == num_questions
    assert restarts == [70, 140]
