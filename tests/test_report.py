"""Report: what stands on it is so, all of it is text, it stays small, and what is bad costs one picture or sentence."""

import html.parser
import os
from pathlib import Path

import orjson
import pytest
from PIL import Image

import checkpoint
from caption.outputs.rows import CAPTIONS
from caption.report import page as page_module
from caption.report import thumbnails as thumbnails_module
from caption.report.__main__ import main
from caption.report.cards import clean, name
from caption.report.content import report_content
from caption.report.folder import Folder
from caption.report.thumbnails import Missing, Thumbnail, thumbnails
from tests.reports import HOSTILE, SCRIPT, Deadly, Job, Slow, failure, hostile_job, row

TEMPLATES = Path(__file__).parents[1] / "caption" / "report" / "templates"


class Elements(html.parser.HTMLParser):
    """What a browser would find in a page: elements with attributes, and the text of each caption."""

    def __init__(self, page):
        super().__init__()
        self.found, self.captions, self._open = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag == "p" and dict(attributes).get("class") == "text":
            self.captions.append("")
            self._open = tag

    def handle_endtag(self, tag):
        self._open = None if tag == self._open else self._open

    def handle_data(self, data):
        if self._open:
            self.captions[-1] += data


def page_of(job, *words):
    assert main([str(job.out), *map(str, words)]) == 0
    return (job.out / "report.html").read_text(encoding="utf-8")


def content_of(job, samples=50):
    return report_content(Folder(job.out), samples, None)


# ---- what comes from outside ----


def test_hostile_names_captions_and_settings_are_text_and_no_more(tmp_path):
    elements = Elements(page_of(hostile_job(tmp_path)))
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == tags.count("style") == 1
    for tag, attributes in elements.found:
        assert not any(key.startswith("on") for key in attributes), (tag, attributes)
        assert attributes.get("src", "data:").startswith("data:image/webp;base64,") or tag != "img"
        assert attributes.get("href", "#").startswith("#")
    assert set(map(clean, HOSTILE)) <= set(elements.captions)


def test_the_page_needs_nothing_and_runs_only_its_own_script(tmp_path):
    page = page_of(hostile_job(tmp_path))
    assert not [tag for tag, _ in Elements(page).found if tag in ("link", "iframe", "object", "base", "form")]
    policy = next(found for tag, found in Elements(page).found if "http-equiv" in found)["content"]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy
    assert (TEMPLATES / "page.js").read_text() in page


def test_control_characters_and_marks_of_direction_do_not_reach_a_name():
    assert name("a\u202egpj.exe\x00") == "a[U+202E]gpj.exe\ufffd"
    assert clean("tab\tline\nstays\x1b") == "tab\tline\nstays\ufffd"
    assert clean("x" * 2001) == "x" * 2000 + "… (2,001 letters)"


# ---- figures ----


def test_the_figures_are_those_of_the_rows(tmp_path):
    job = Job(tmp_path).run()
    rows = [row(f"{place}.jpg", f"The image shows {'a dog ' * place}".strip()) for place in range(1, 8)]
    rows += [row("8.jpg", "The picture of cats.", flags=["cut-off"], finish_reason="length", attempts=2,
                 retries=[{"reason": "cut-off", "changed": "tokens"}])]  # fmt: skip
    rows += [row(f"same {place}.jpg", "I see nothing.", prompt_name="short") for place in range(12)]
    job.add(rows, [failure("x.jpg"), failure("y.jpg"), failure("z.jpg", "EmptyFile")])
    found = content_of(job)
    tally = found["tally"]
    assert (tally.captions, tally.flagged, tally.cut, tally.retried) == (20, 1, 1, 1)
    assert found["job"].errors == {"Truncated": 2, "EmptyFile": 1}
    assert [entry[:2] for entry in found["openings"]] == [("I see", 12), ("The image", 7), ("The picture", 1)]
    assert dict(found["words"])["dog"] == 7 and "the" not in dict(found["words"])
    assert tally.words.quantiles([0, 0.5, 1]) == [3, 3, 17]
    assert tally.captions - tally.texts.different == 11
    assert [(one.text, one.images) for one in found["repeated"]] == [("I see nothing.", 12)]
    assert tally.prompts["short"].total == 12
    assert {name for name, _, _ in found["sets"]} >= {
        "random",
        "longest",
        "shortest",
        "same text",
        "cut-off",
        "EmptyFile",
    }


def test_scores_are_shown_with_the_captions_at_both_ends(tmp_path):
    job = Job(tmp_path).run().add([row(f"{place:03}.jpg", prompt_name="ab"[place % 2]) for place in range(200)])
    job.score(*[(f"{place:03}.jpg", place / 500, {SCRIPT: place}) for place in range(199)], ("gone.jpg", 99))
    found = content_of(job, 0)
    tally = found["tally"]
    assert len(tally.scores) == 199 and tally.scores.mean == pytest.approx(99 / 500)
    assert tally.prompt_scores["a"].mean == pytest.approx(0.198) and len(tally.prompt_scores["b"]) == 99
    assert found["score_shares"][::6] == [0, 198 / 500] and found["scorers"] == ["clip"]
    cards = {card.id: card for card in found["cards"](100)}
    assert {id for id, card in cards.items() if "lowest score" in card.sets} == {f"{n:03}.jpg" for n in range(24)}
    highest = {id for id, card in cards.items() if "highest score" in card.sets}
    assert highest == {f"{place:03}.jpg" for place in range(175, 199)}
    assert cards["010.jpg"].score == "0.0200" and ("score", "0.0200 by clip") in cards["010.jpg"].facts
    page = page_of(job)
    assert "199 captions scored by" in page and "1 have no score" in page and SCRIPT not in page
    assert 'id="scores"' not in page_of(Job(tmp_path, "without").run().add([row("a.jpg")]))


def test_the_same_rows_give_the_same_page(tmp_path):
    job = hostile_job(tmp_path)
    assert page_of(job) == page_of(job)


def test_rows_beyond_the_commit_do_not_count_and_a_run_may_be_at_work(tmp_path):
    job = Job(tmp_path).run(exit_code=None).add([row("a.jpg")])
    with checkpoint.open(job.out, {}) as record:
        record.append(CAPTIONS, [("b.jpg", orjson.dumps(row("b.jpg")))])
        with (job.out / CAPTIONS).open("ab") as file:
            file.write(b'{"id": "torn')
        found = content_of(job)
        assert found["tally"].captions == 1 and found["job"].folder.state == "running"
        os.truncate(job.out / CAPTIONS, (job.out / CAPTIONS).stat().st_size - len(b'{"id": "torn'))
    assert content_of(job)["tally"].captions == 2


@pytest.mark.parametrize("rows, failures", [((), ()), ((), [failure("a.jpg")]), ([row("a.jpg", "")], ())])
def test_a_job_with_hardly_a_row_has_a_report(tmp_path, rows, failures):
    page_of(Job(tmp_path).run().add(rows, failures))


@pytest.mark.parametrize("content", [None, b"{}", b"\x00"])
def test_without_run_json_the_report_says_so(tmp_path, content):
    job = Job(tmp_path).run().add([row("a.jpg")])
    (job.out / "run.json").write_bytes(content) if content else (job.out / "run.json").unlink()
    assert "run.json is missing or damaged" in page_of(job)


# ---- pictures ----


def test_pictures_are_small_and_one_that_crashes_hangs_or_fills_costs_no_other(tmp_path, monkeypatch):
    job = Job(tmp_path)
    good = str(job.picture("good.png", (900, 300)))
    bomb = tmp_path / "bomb.png"
    Image.new("1", (9000, 9000)).save(bomb)
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.setattr(thumbnails_module, "_PATIENCE", 3.0)
    places = {"deadly": Deadly(), "good": good, "slow": Slow(), "again": good, "bomb": str(bomb),
              "gone": str(tmp_path / "gone.png"), "pipe": str(tmp_path / "pipe.png"), "last": good}  # fmt: skip
    found = thumbnails(places, 40_000)
    problems = {key: one.error for key, one in found.items() if isinstance(one, Missing)}
    assert problems == {"deadly": "DecoderCrashed", "slow": "DecoderHung", "bomb": "TooLarge", "gone": "Vanished",
                        "pipe": "NotAFile"}  # fmt: skip
    for key in ("good", "again", "last"):
        assert isinstance(found[key], Thumbnail) and max(found[key][1:]) <= 320 and len(found[key].uri) < 5000


def test_pictures_that_lie_in_a_tar_are_shown(tmp_path):
    job = Job(tmp_path)
    tar = job.tar("000.tar", ["a.png", "b.png"])
    job.run(settings={"input": str(tar)}, fingerprint={"input": str(tar)})
    job.add([row("000.tar/a.png"), row("000.tar/gone.png")])
    shown = {card.id: card.picture for card in content_of(job)["cards"](99)}
    assert isinstance(shown["000.tar/a.png"], Thumbnail) and isinstance(shown["000.tar/gone.png"], Missing)


def test_long_captions_are_cut_until_the_page_is_small_enough(tmp_path, monkeypatch):
    hard = "'\"<&>" * 1000
    rows = [row(f"{place}", hard + str(place), raw=hard, extra={"x": hard}) for place in range(700)]
    job = Job(tmp_path).run().add(rows, [failure(f"f{place}", f"Class{place % 20}", hard) for place in range(400)])
    assert len(page_of(job, "--samples", 500).encode()) < 10_000_000
    monkeypatch.setattr(page_module, "LARGEST", 2_000_000)
    assert len(page_of(job, "--samples", 500).encode()) < 2_000_000


# ---- errors ----


def refused(capsys, *words):
    code, said = main([str(word) for word in words]), capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("caption: ")
    return code, said


def test_wrong_use_is_one_sentence(tmp_path, capsys):
    job = Job(tmp_path).run().add([row("a.jpg")])
    assert refused(capsys, tmp_path / "nowhere") == (
        2, f"caption: {tmp_path / 'nowhere'} is no output folder of a job: give the --output of a run.\n",
    )  # fmt: skip
    assert refused(capsys, job.out, "--samples", "-1")[0] == 2
    assert refused(capsys, job.out, "--to", tmp_path / "no" / "page.html")[0] == 2
    assert refused(capsys, job.out, "--to", tmp_path)[0] == 2
    assert refused(capsys, job.out, "--what")[0] == 2


def test_a_file_that_is_no_page_of_ours_is_never_replaced(tmp_path, capsys):
    job = Job(tmp_path).run().add([row("a.jpg")])
    before = (job.out / CAPTIONS).read_bytes()
    code, said = refused(capsys, job.out, "--to", job.out / CAPTIONS)
    assert code == 2 and "is no page of this program" in said and (job.out / CAPTIONS).read_bytes() == before
    page_of(job)
    page_of(job)


def test_a_damaged_folder_is_one_sentence_that_names_the_byte(tmp_path, capsys):
    job = Job(tmp_path).run().add([row("a.jpg"), row("b.jpg")])
    path = job.out / CAPTIONS
    first = path.read_bytes().index(b"\n") + 1
    path.write_bytes(path.read_bytes()[:first] + b"#" * (path.stat().st_size - first))
    code, said = refused(capsys, job.out)
    assert code == 4 and f"byte {first}" in said and "caption.verify" in said


def test_a_name_with_script_stands_in_the_page_as_text(tmp_path):
    assert SCRIPT not in page_of(hostile_job(tmp_path))
