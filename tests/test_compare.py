"""Compare: rows of the same image stand together, whatever their order, and nothing else does."""

import pytest

from caption.compare import main
from caption.report.comparison import comparison_content
from caption.report.folder import Folder
from tests.reports import SCRIPT, Job, failure, hostile_job, row
from tests.test_report import Elements


def content_of(a, b, samples=50):
    return comparison_content(Folder(a.out), Folder(b.out), samples, None)


def jobs(tmp_path, **settings):
    return Job(tmp_path, "one").run(), Job(tmp_path, "two").run(settings)


def test_pairs_are_of_the_same_image_and_the_rest_is_counted(tmp_path):
    a, b = jobs(tmp_path, model="other", temperature=0.5)
    a.add([row("1", "a red dog"), row("2", "a cat"), row("3", "same words"), row("only a"), row("fails in b")],
          [failure("fails in a"), failure("fails in both")])  # fmt: skip
    b.add([row("3", "same words"), row("1", "a blue dog", flags=["loop"]), row("fails in a"), row("2", "nothing"),
           row("only b"), row("only b 2")], [failure("fails in b"), failure("fails in both")])  # fmt: skip
    found = content_of(a, b)
    pairs = found["pairs"]
    assert (pairs.both, pairs.same, pairs.only_a, pairs.only_b) == (3, 1, 1, 2)
    assert (pairs.failed_a, pairs.failed_b) == (1, 1)
    assert dict(pairs.flags_b) == {"loop": 1} and not pairs.flags_a
    shown = {card.id: card for card in found["cards"](100)}
    assert set(shown) == {"1", "2", "3", "fails in a", "fails in b"}
    assert [card.difference for card in shown.values()] == sorted((c.difference for c in shown.values()), reverse=True)
    assert shown["1"].difference == 0.5 and shown["2"].difference == 1 and shown["3"].difference == 0
    assert shown["1"].a.text == [("a ", False), ("red", True), (" dog", False)]
    assert shown["1"].b.text == [("a ", False), ("blue", True), (" dog", False)]
    assert shown["fails in a"].a.failed and not shown["fails in a"].b.failed
    assert ("model", "shapes", "other") in found["settings"] and ("temperature", "–", "0.5") in found["settings"]


def test_many_rows_in_another_order_are_matched(tmp_path):
    a, b = jobs(tmp_path)
    ids = [f"{place:04}.jpg" for place in range(500)]
    a.add([row(id, f"caption {id}") for id in ids])
    b.add([row(id, f"caption {id}") for id in reversed(ids)])
    pairs = content_of(a, b)["pairs"]
    assert pairs.both == pairs.same == 500


def test_jobs_with_other_prompts_are_matched_by_image(tmp_path):
    a, b = jobs(tmp_path)
    a.add([row("a.jpg"), row("b.jpg")])
    b.add([row("a.jpg#short", prompt_name="short"), row("a.jpg#tags", prompt_name="tags"), row("b.jpg#short")])
    found = content_of(a, b)
    assert found["pairs"].by == "image" and found["pairs"].both == 2


def test_two_prompts_of_one_job_are_compared_on_each_image(tmp_path):
    job = Job(tmp_path).run(fingerprint={"prompts": {"short": "Briefly?", "tags": "Which tags?", "long": "In full?"}})
    names = ("short", "long", "tags")
    rows = [row(f"{id}.jpg#{name}", f"{name} {id}", prompt_name=name) for id in "abc" for name in names]
    rows.append(row("c.jpg#tags~2", "tags again", prompt_name="tags"))
    job.add(rows, [failure("d.jpg#tags") | {"image": "d.jpg"}]).score(("b.jpg#tags", 2), ("b.jpg#short", 1))
    found = comparison_content(Folder(job.out, "short"), Folder(job.out, "tags"), 50, None)
    pairs = found["pairs"]
    assert (pairs.both, pairs.scored, pairs.higher_b, pairs.only_a, pairs.only_b) == (3, 1, 1, 0, 1)
    assert (found["a"].captioned, found["b"].failed, found["a"].prompt, found["one_job"]) == (3, 1, "Briefly?", True)
    texts = {card.id: ("".join(text for text, _ in card.b.text)) for card in found["cards"](100)}
    assert texts == {f"{id}.jpg#short": f"tags {id}" for id in "abc"}
    page = tmp_path / "page.html"
    assert main([str(job.out), "--prompts", "short,tags", "--to", str(page)]) == 0
    assert "Two prompts on the same images" in page.read_text(encoding="utf-8")


def test_scores_stand_beside_each_other_and_say_who_is_ahead(tmp_path):
    a, b = jobs(tmp_path)
    ids = [f"{place}.jpg" for place in range(6)]
    a.add([row(id, f"a {id}") for id in ids], [failure("x.jpg")]).score(*[(id, 0.5) for id in ids[:5]])
    b.add([row(id, f"b {id}") for id in [*reversed(ids), "x.jpg"]])
    b.score(("0.jpg", 0.75), ("1.jpg", 0.25), ("2.jpg", 0.5), ("3.jpg", 0), ("5.jpg", 1), ("x.jpg", 1))
    found = content_of(a, b)
    pairs = found["pairs"]
    assert (pairs.scored, pairs.higher_a, pairs.higher_b) == (4, 2, 1)
    assert ("mean", "0.500", "0.583") in found["score_figures"]
    shown = {card.id: card for card in found["cards"](100)}
    assert {id: card.ahead for id, card in shown.items() if card.ahead} == {"0.jpg": -0.25, "1.jpg": 0.25, "3.jpg": 0.5}
    assert (shown["0.jpg"].a.score, shown["0.jpg"].b.score, shown["4.jpg"].b.score) == ("0.500", "0.750", "")
    assert "higher score in A" in shown["3.jpg"].sets and "higher score in B" in shown["0.jpg"].sets
    page = tmp_path / "page.html"
    assert main([str(a.out), str(b.out), "--to", str(page)]) == 0
    assert "on <strong>50 %</strong>" in page.read_text(encoding="utf-8")


def test_hostile_names_and_captions_are_text_on_this_page_too(tmp_path):
    a, b = hostile_job(tmp_path), hostile_job(tmp_path, "two")
    page = tmp_path / "page.html"
    assert main([str(a.out), str(b.out), "--to", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    elements = Elements(text)
    assert SCRIPT not in text and [tag for tag, _ in elements.found].count("script") == 1
    assert not [key for _, attributes in elements.found for key in attributes if key.startswith("on")]


@pytest.mark.parametrize(
    "words, said",
    [
        (("one", "one"), "are the same folder"),
        (("one",), "there is one thing to compare"),
        (("one", "two", "--prompts", "a,b"), "--prompts is for one OUT"),
        (("one", "--prompts", "a,a"), "is not two names"),
        (("one", "--prompts", "a,b"), "has no captions under a prompt 'a'"),
        (("one", "nowhere"), "is no output folder of a job"),
        (("one", "two"), "have no image in common"),
        (("one", "two", "--samples", "999"), "--samples"),
    ],
)
def test_wrong_use_is_one_sentence(tmp_path, capsys, monkeypatch, words, said):
    a, b = jobs(tmp_path)
    a.add([row("a.jpg")])
    b.add([row("b.jpg")])
    monkeypatch.chdir(tmp_path)
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error and not (tmp_path / "compare.html").exists()
