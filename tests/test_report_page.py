"""Report page: in a real browser it opens from disk, runs nothing but its own script, and is usable by keyboard."""

import pytest

from caption.compare import main as compare
from caption.report.__main__ import main as report
from tests.browser import browser
from tests.reports import HOSTILE, SCRIPT, Job, failure, hostile_job, row

SIZES = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports of a hostile job and of a plain one with 70 captions, and the comparison of the hostile with itself."""
    hostile = tmp_path_factory.mktemp("hostile")
    job, twin = hostile_job(hostile), hostile_job(hostile, "two")
    for one in (job, twin):
        scores = [(f"{place} {text[:200]}.png", place, {text: 1}) for place, text in enumerate(HOSTILE)]
        one.score(*scores, scorer=SCRIPT)
    plain = Job(tmp_path_factory.mktemp("plain")).run()
    plain.picture("000.png")
    rows = [row(f"{place:03}.png", f"The image shows {place} apples.") for place in range(70)]
    plain.score(*[(f"{place:03}.png", place * 3 % 70 / 7) for place in range(70)])
    plain.add([*rows, row("loop.png", "no no no no", flags=["loop"])], [failure("bad.png")])
    both = hostile / "compare.html"
    assert report([str(job.out)]) == report([str(plain.out)]) == 0
    assert compare([str(job.out), str(twin.out), "--to", str(both)]) == 0
    return {"hostile": job.out / "report.html", "plain": plain.out / "report.html", "compare": both}


@pytest.fixture
def opened(chromium, pages):
    """Opens one of the pages; at the end no error was logged and nothing but the page itself was asked for."""
    problems, context = [], []

    def open_page(name, size="desktop", **options):
        context.append(chromium.new_context(viewport=SIZES[size], **options))
        page = context[-1].new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on("request", lambda request: request.url.startswith("data:") or requests.append(request.url))
        requests = []
        page.goto(pages[name].as_uri())
        assert requests == [pages[name].as_uri()]
        return page

    yield open_page
    for one in context:
        one.close()
    assert problems == []


def test_the_gallery_goes_by_score_from_either_end(opened):
    page = opened("plain")
    page.locator("#scores button", has_text="lowest").click()
    assert shown(page) == 24
    for end, scores in (("low", ["0", "0.143", "0.286"]), ("high", ["3.29", "3.14", "3"])):
        page.locator("#order").select_option(end)
        chips = page.locator(".card:visible .chip", has_text="score").all_text_contents()
        assert chips[:3] == [f"score {score}" for score in scores]


def shown(page):
    return page.locator(".card:visible").count()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["hostile", "plain", "compare"])
def test_nothing_from_outside_runs_and_nothing_is_wider_than_the_screen(opened, name, size):
    page = opened(name, size)
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]
    wide = "[...document.querySelectorAll('p, h1, h2, h3, dd, .card')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    assert page.evaluate(f"{wide}.map(e => e.className + e.textContent.slice(0, 40))") == []
    page.evaluate("document.querySelectorAll('.card')[0].click()")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("typeof hacked") == "undefined"


def test_the_policy_of_the_page_stops_a_script_that_got_in(opened, pages, tmp_path, chromium):
    broken = tmp_path / "broken.html"
    text = pages["plain"].read_text(encoding="utf-8")
    broken.write_text(text.replace("<main>", "<main><script>hacked = 1</script><img src=x onerror='hacked = 1'>"))
    page = chromium.new_page()
    page.goto(broken.as_uri())
    assert page.evaluate("typeof hacked") == "undefined"
    page.close()


def test_filter_search_and_the_rest_on_demand(opened):
    page = opened("plain")
    assert shown(page) == 48 and page.locator("#all").text_content() == "Show all 72"
    page.press("#all", "Enter")  # a slow machine still moves the cards when a click comes, which then hits nothing
    assert shown(page) == 72
    page.click(".filters button[data-set='loop']")
    assert shown(page) == 1 and page.locator("#shown").text_content() == "1 of 72 fit"
    page.click(".filters button[data-set='']")
    page.fill("#search", "APPLES 12")
    assert shown(page) == 1
    page.fill("#search", "no such thing")
    assert shown(page) == 0 and page.locator("#none").is_visible()
    page.fill("#search", "")
    page.click("#doubts button[data-set='Truncated']")
    assert page.locator(".card:visible").all_text_contents()[0].count("its data are broken") == 1


def test_the_gallery_can_be_used_by_keyboard_alone(opened):
    page = opened("plain")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("apples 1")
    page.keyboard.press("Escape")
    count = shown(page)
    page.keyboard.press("j")
    first = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.textContent")
    assert first != second
    page.keyboard.press("Enter")
    assert page.locator("#viewer-place").text_content() == f"2 of {count}"
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-place").text_content() == f"3 of {count}"
    assert page.locator("#viewer-body .facts").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible() and page.evaluate("document.activeElement.className") == "card"


def test_pictures_stand_in_the_page_itself(opened):
    page = opened("plain")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.images.length") == 1
    assert "not where it was" in page.locator(".card").nth(1).text_content()


def test_colours_follow_the_system_until_one_chooses(opened):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = opened("plain", color_scheme="light").evaluate(ground)
    page = opened("plain", color_scheme="dark")
    dark = page.evaluate(ground)
    assert light != dark
    page.click("#theme")
    assert page.evaluate(ground) == light and page.locator("#theme").text_content() == "Light"
    page.reload()
    assert page.evaluate(ground) == light
    page.keyboard.press("t")
    assert page.evaluate(ground) == dark


def test_a_chart_says_what_one_points_at(opened):
    page = opened("plain")
    plot = page.locator("#captions .plot").first
    plot.scroll_into_view_if_needed()
    plot.hover()
    assert "words: " in page.locator("#captions .said").first.text_content()


def test_pairs_can_be_ordered(opened):
    page = opened("compare")
    first = page.locator(".card .id").first.text_content()
    page.select_option("#order", "length")
    assert page.locator(".card .id").first.text_content() != first
