"""The page of a study: what it contains, and how it works in a real browser."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from browser import HEIGHT, check_fits, opened, requests_of
from controls import must_fail
from drawn import ARTISTS, CONDITIONS, draw, draw_folder
from playwright.sync_api import Browser, Page

from diffusers_esd.study import Study, make_study, read_ratings

ITEMS = len(ARTISTS) * (sum(CONDITIONS.values()) - CONDITIONS["references"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("study") / "pictures")


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return make_study(folder, folder.parent / "study.html")


def data_of(study: Study) -> dict[str, Any]:
    """What the page's script reads."""
    text = study.page.read_text(encoding="utf-8")
    return json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]


# The files.


def test_a_page_and_its_key_are_made(folder: Path, study: Study) -> None:
    data = data_of(study)
    assert (study.page.name, study.key_file.name) == ("study.html", "study-key.csv")
    assert study.key_file.read_text(encoding="utf-8") == study.key.to_csv()
    assert {name: len(ids) for name, ids in study.key.conditions.items()} == {
        name: 2 * number for name, number in CONDITIONS.items() if name != "references"
    }
    for candidate in study.key.candidates.values():
        assert candidate.picture.startswith(f"{candidate.artist}/{candidate.condition}/")
        assert (folder / candidate.picture).is_file()
    assert [len(group) for group in data["references"]] == [5, 5]
    assert [item["id"] for item in data["items"]] == list(study.key.candidates)
    assert [ARTISTS[item["group"]] for item in data["items"]] == [one.artist for one in study.key.candidates.values()]


def check_blind(text: str, study: Study) -> None:
    """No name of an artist, a condition or a file is in a text."""
    names = {*ARTISTS, *study.key.conditions, *(one.picture for one in study.key.candidates.values()), ".png"}
    assert not [name for name in names if name.lower() in text.lower()]


def test_nothing_of_the_key_is_in_the_page(study: Study) -> None:
    text = study.page.read_text(encoding="utf-8")
    check_blind(re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", text), study)
    with must_fail("the key names them"):
        check_blind(study.key_file.read_text(encoding="utf-8"), study)
    assert {tuple(item) for item in data_of(study)["items"]} == {("id", "group", "picture")}
    order = [item["id"] for item in data_of(study)["items"]]
    assert order == sorted(order), "the order does not follow conditions"


def test_the_same_pictures_are_the_same_study(folder: Path, study: Study, tmp_path: Path) -> None:
    page = make_study(folder, tmp_path / "study.html").page
    before = page.read_text(encoding="utf-8")
    assert make_study(folder, page, title="Another", question="Alike?", blur=True).key == study.key
    assert page.read_text(encoding="utf-8") != before
    assert make_study(folder, page).page.read_text(encoding="utf-8") == before
    other = make_study(folder, tmp_path / "other.html", seed=1).key
    assert other.study != study.key.study
    assert not set(other.candidates) & set(study.key.candidates)
    assert make_study(folder, tmp_path / "fewer.html", references=4).key.study != study.key.study


def test_the_key_of_another_study_is_kept(folder: Path, study: Study, tmp_path: Path) -> None:
    before = study.key_file.read_bytes(), study.page.read_bytes()
    with pytest.raises(
        FileExistsError, match=r"study-key\.csv is the key of another study; give another name, or remo"
    ):
        make_study(folder, study.page, seed=1)
    assert (study.key_file.read_bytes(), study.page.read_bytes()) == before
    (tmp_path / "mine-key.csv").write_text("not a key")
    with pytest.raises(FileExistsError, match=r"mine-key\.csv is the key of another study"):
        make_study(folder, tmp_path / "mine.html")
    assert [path.name for path in tmp_path.iterdir()] == ["mine-key.csv"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"output": "study.htm"}, ValueError, r"^`output` must end in \.html, got study\.htm\.$"),
        ({"references": 0}, ValueError, r"^`references` must be 1 or more, got 0\.$"),
        ({"references": 7}, ValueError, r"references must contain 7 pictures or more, got 6; "),
        ({"seed": -1}, ValueError, r"^`seed` must be 0 or more, got -1\.$"),
        ({"title": " "}, ValueError, r"^`title` is empty: got ' '; give its words\.$"),
        ({"question": 3}, TypeError, r"^`question` must be a string, got 3 of type int\.$"),
        ({"blur": 1}, TypeError, r"^`blur` must be True or False, got 1\.$"),
        ({"folder": "nowhere"}, FileNotFoundError, r"^There is no folder nowhere\.$"),
    ],
)
def test_errors_come_before_anything_is_written(
    options: dict[str, Any], kind: type[Exception], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        make_study(**{"folder": folder, "output": tmp_path / "study.html", **options})
    assert not list(tmp_path.iterdir())


# In a browser.


def current(page: Page, study: Study) -> str:
    """The id of the picture that is shown."""
    source = page.get_attribute("#candidate img", "src")
    [item] = [item for item in data_of(study)["items"] if item["picture"] == source]
    shown = [image.get_attribute("src") for image in page.query_selector_all("#references img")]
    assert shown == data_of(study)["references"][item["group"]]
    return item["id"]


def export(page: Page, file: Path) -> Path:
    """The file that the page gives to download."""
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(file)
    assert download.value.suggested_filename.startswith("ratings-s")
    return file


def order_of(page: Page) -> list[str]:
    return page.evaluate("order.map((item) => item.id)")


def test_a_participant_rates_all_pictures(browser: Browser, study: Study, tmp_path: Path) -> None:
    with opened(browser, study.page) as page:
        urls = requests_of(page)
        page.click("text=Start")
        expected: dict[str, int] = {}
        for i in range(ITEMS):
            assert page.inner_text("#count") == f"{i + 1} of {ITEMS}"
            item, rating = current(page, study), i % 5 + 1
            assert page.is_disabled("#next")
            if i % 2:
                page.keyboard.press(str(rating))
            else:
                page.click(f"#scale button:nth-child({rating})")
            expected[item] = rating
            if i == 4:
                page.reload()
        assert len(expected) == ITEMS
        assert page.is_visible("#end")
        page.keyboard.press("ArrowLeft")
        assert current(page, study) == list(expected)[-1]
        page.click("#back")
        changed = current(page, study)
        assert changed == list(expected)[-2]
        assert page.get_attribute(f"#scale button:nth-child({expected[changed]})", "aria-pressed") == "true"
        expected[changed] = 6 - expected[changed]
        page.keyboard.press(str(expected[changed]))
        page.click("#next")
        file = export(page, tmp_path / "ratings.csv")
        [(participant, ratings)] = read_ratings([file], study.key_file).participants.items()
        assert participant == page.evaluate("state.participant")
        assert ratings == expected
        positions = [line.split(",")[2:4] for line in file.read_text().splitlines()[1:]]
        assert positions == [[str(i + 1), item] for i, item in enumerate(expected)]
        assert set(urls) == {study.page.as_uri()}  # the reload


def check_even(counts: Counter[str]) -> None:
    """Of 6000 participants, each of the 12 pictures is at a position for about 500."""
    assert len(counts) == ITEMS == 12
    assert max(abs(number - 500) for number in counts.values()) < 100


def test_each_participant_has_an_order(browser: Browser, study: Study) -> None:
    with opened(browser, study.page) as first, opened(browser, study.page) as second:
        order = order_of(first)
        assert sorted(order) == sorted(order_of(second)) == list(study.key.candidates)
        assert order != order_of(second)
        first.reload()
        assert order_of(first) == order
        for position in (0, 5, ITEMS - 1):
            check_even(
                Counter(first.evaluate(f"[...Array(6000).keys()].map((i) => shuffled(`a${{i}}`)[{position}].id)"))
            )
        with must_fail("without shuffling, one picture is always first"):
            check_even(Counter(first.evaluate("Array(6000).fill(study.items[0].id)")))


def test_another_participant_starts_again(browser: Browser, study: Study, tmp_path: Path) -> None:
    with opened(browser, study.page) as page:
        page.on("dialog", lambda dialog: dialog.accept())
        files = []
        for i in range(2):
            page.click("#start")
            for _ in range(ITEMS):
                page.keyboard.press("3")
            assert page.is_hidden("#restart")
            files.append(export(page, tmp_path / f"{i}.csv"))
            page.click("#restart")
        assert page.evaluate("state.ratings") == {}
    assert len(read_ratings(files, study.key_file).participants) == 2


def test_a_key_that_is_held_rates_one_picture(browser: Browser, study: Study) -> None:
    with opened(browser, study.page) as page:
        page.keyboard.press("3")
        assert page.is_visible("#welcome")
        page.click("#start")
        for _ in range(3):  # without a release between them
            page.keyboard.down("3")
        assert page.inner_text("#count") == f"2 of {ITEMS}"
        page.keyboard.press("9")
        page.keyboard.press("Control+1")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#count") == f"2 of {ITEMS}"


def test_a_click_enlarges_a_picture(browser: Browser, study: Study) -> None:
    with opened(browser, study.page) as page:
        page.click("#start")
        source = page.get_attribute("#references img", "src")
        page.click("#references button")
        assert page.get_attribute("#enlarged img", "src") == source
        page.keyboard.press("4")
        assert page.evaluate("state.ratings") == {}
        page.click("#enlarged")
        assert page.is_hidden("#enlarged")


@pytest.mark.parametrize("blur", [False, True])
def test_pictures_are_blurred_until_they_are_clicked(
    browser: Browser, blur: bool, folder: Path, tmp_path: Path
) -> None:
    study = make_study(folder, tmp_path / "study.html", blur=blur)

    def blurred(page: Page) -> int:
        images = "[...document.querySelectorAll('.picture img')]"
        return page.evaluate(f"{images}.filter((image) => getComputedStyle(image).filter !== 'none').length")

    with opened(browser, study.page) as page:
        page.click("#start")
        assert blurred(page) == (6 if blur else 0)
        page.click("#candidate")
        assert page.is_visible("#enlarged") != blur
        page.keyboard.press("Escape")
        assert blurred(page) == (5 if blur else 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1300])
def test_it_fits_into_a_window(browser: Browser, width: int, scheme: Any, study: Study) -> None:
    with opened(browser, study.page, width=width, color_scheme=scheme) as page:
        check_fits(page)
        page.click("#start")
        check_fits(page)
        for selector in ("#references button:nth-child(5)", "#candidate", "#scale button:nth-child(5)"):
            box = page.locator(selector).bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= HEIGHT
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(247, 247, 245)", "dark": "rgb(20, 23, 28)"}[scheme]
        for _ in range(ITEMS):
            page.keyboard.press("1")
        check_fits(page)
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"width: 2000px\">wide</p>')")
        with must_fail("something is wider than the window"):
            check_fits(page)


def test_words_of_the_user_are_words(browser: Browser, folder: Path, tmp_path: Path) -> None:
    title, question = "</script><script>alert(1)</script>{{data}}", '<b>"alike"</b> & ü {{title}}'
    study = make_study(folder, tmp_path / "study.html", title=title, question=question)
    with opened(browser, study.page) as page:
        assert page.title() == title
        assert page.inner_text("h1") == title
        page.click("#start")
        assert page.inner_text("legend") == question


def test_a_browser_that_stores_nothing_is_told(browser: Browser, study: Study) -> None:
    script = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('off'); }})"
    with opened(browser, study.page, script=script) as page:
        assert page.is_visible("#warning")
        page.click("#start")
        page.keyboard.press("3")
        assert page.inner_text("#count") == f"2 of {ITEMS}"
    with opened(browser, study.page) as page:
        assert page.is_hidden("#warning")


def test_the_page_cannot_ask_the_network(browser: Browser, study: Study, tmp_path: Path) -> None:
    ask = "fetch('http://127.0.0.1:9/').then(() => 'asked', (error) => error.message)"
    with opened(browser, study.page) as page:
        urls = requests_of(page)
        assert page.evaluate(ask) == "Failed to fetch"
        assert urls == []
    plain = tmp_path / "plain.html"
    plain.write_text("<!doctype html><p>A page without a policy.")
    with opened(browser, plain) as page:
        urls = requests_of(page)
        page.evaluate(ask)
        with must_fail("a request is seen"):
            assert urls == []


def test_one_picture_is_enough(browser: Browser, tmp_path: Path) -> None:
    for group in ("references", "esd-x"):
        draw(tmp_path / "pictures" / "Ada Round" / group / "0.png", f"Ada Round {group}")
    study = make_study(tmp_path / "pictures", tmp_path / "study.html", references=1)
    with opened(browser, study.page) as page:
        assert "You will rate one picture" in page.inner_text("#welcome")
        page.click("#start")
        page.keyboard.press("5")
        assert page.is_visible("#end")
