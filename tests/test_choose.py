"""Choose: a condition says what it says and no more, the best of each image is the best, what is missing is said."""

import json
import operator
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caption.choose.expression import Expression, parse_field, value_of
from caption.choose.scores import Scores
from caption.choose.selection import Selection
from caption.errors import Damaged, UsageError
from caption.export import main
from tests.reports import Job, row

ROW = row("a.jpg", "A brown Dog runs.", flags=["loop"]) | {
    "score": 0.31, "parts.clip": 0.5, "parts.chrf++": 2.0,
    "extra": {"year": "1991", "nsfw": 0, "my field": {"deep": 3}, "tags": ["x", "Y"], "words": 9, "safe": "True"},
}  # fmt: skip


# ---- the language ----


@pytest.mark.parametrize(
    "text, passes",
    [
        ("score > 0.3 and not flags", False),
        ("score > 0.3 or not flags", True),
        ("not score < .3 and words == 4 and characters == 17", True),
        ("0.3 < score <= 0.31 != 1e-3", True),
        ("tokens >= -4", True),
        ('caption contains "dog"', True),
        ('"dog" in caption', False),
        (r"caption matches '^A \w+ Dog\b'", True),
        (r'caption matches "(?i)dog\b.*\.$"', True),
        ('"loop" in flags and "echo" not in flags', True),
        ('extra.tags contains "y" and "y" not in extra.tags', True),
        ('finish_reason in ("length", "stop")', True),
        ('finish_reason not in ("length")', True),
        ("parts.clip == 0.5 and parts.\"chrf++\" == 2 and extra.'my field'.deep == 3", True),
        ("year > 1990 and nsfw != true and not nsfw and safe == true", True),
        ("words == 9", False),  # that of the caption comes first
        ("extra.words == 9", True),
        ("twin_of is missing and score is not missing", True),
        ('caption == "A \\"brown\\" dog"', False),
        ("true and not (false or not (true))", True),
        ('caption == "=="', False),
    ],
)
def test_a_condition_says_what_it_says(text, passes):
    assert Expression(text, ["year", "nsfw", "words", "safe"]).test(ROW) is passes


@pytest.mark.parametrize(
    "text, passes",
    [
        ("parts.other > 0", None),
        ("not parts.other > 0", None),
        ("parts.other > 0 or words == 4", True),
        ("parts.other > 0 and words == 5", False),
        ("0 < parts.other", None),
        ("parts.other", False),
        ('extra.no.such contains "x" or "x" in extra.no', None),
        ('extra."my field" > 3 or extra.tags < 2', None),
        ('"many" != extra.year', True),
        ("extra.year > 3 and caption != 'x'", True),
        ("extra.safe > 3", None),
    ],
)
def test_what_is_missing_makes_a_condition_neither_true_nor_false(text, passes):
    assert Expression(text).test(ROW) is passes


@pytest.mark.parametrize("flags, doubted", [([], False), (["bf16"], False), (["bf16", "loop"], True)])
def test_flags_alone_are_doubts_and_not_the_precision(flags, doubted):
    assert Expression("flags").test(ROW | {"flags": flags}) is doubted
    assert Expression('"bf16" in flags').test(ROW | {"flags": flags}) is ("bf16" in flags)


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "ends too early"),
        ("score >", "ends too early"),
        ("(score > 3", "ends too early"),
        ("score > 3)", ") (letter 10)"),
        ("scroe > 3", "scroe (letter 1) is no field: the fields are id, image, caption"),
        ("extra > 3", "extra (letter 1)"),
        ("extra. > 3", "(letter 6)"),
        ("score = 3", "= (letter 7) is not known: write =="),
        ("score > 3 && words", "& (letter 11) is not known: write and"),
        ('words > "3"', '"3" (letter 9) is a text, and words is a number'),
        ("flags == 3", "flags (letter 1) is a list"),
        ("'lop' in flags", "'lop' (letter 1) is no flag: the flags are empty"),
        ("flags contains 'Loop'", "'Loop' (letter 16) is no flag"),
        ("caption matches '('", "is no regular expression"),
        ("caption contains dog", "dog (letter 18) is no field"),
        ("'abc", "(letter 1) does not end"),
        ("3", "3 (letter 1) is no condition"),
        ("words is 3", "there should be missing"),
        ("words not 3", "there should be in"),
        ("words in (1 2)", "there should be , or )"),
        ("words in (tokens)", "tokens (letter 11) is a field"),
        ("words in 'abc'", "'abc' (letter 10)"),
        ("0.3.4 < 2", "(letter 1)"),
        ("__import__('os').system('true')", "(letter 17) is neither"),
        ("caption.__class__", "is no field"),
        ("(" * 101 + "true" + ")" * 101, "(letter 101) stands inside 100 others"),
        ("not " * 101 + "true", "(letter 401) stands inside 100 others"),
        ("true or " * 2000 + "true", "it may have 10,000"),
        ("score > 3 \x00", "letter 11"),
        ("caption contains '\udcff'", "is no UTF-8"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_with_its_place(text, said):
    with pytest.raises(UsageError) as caught:
        Expression(text)
    assert said in caught.value.sentence() and "\n" not in caught.value.sentence()


_WORDS = st.sampled_from(
    ["score", "words", "extra.x", "flags", "caption", "and", "or", "not", "in", "contains", "matches", "is", "missing",
     "(", ")", ",", "<", ">=", "==", "3", "-1.5", "'a'", '"loop"', "true"]
)  # fmt: skip


@given(st.lists(_WORDS, max_size=12))
def test_any_words_are_a_condition_or_a_sentence_and_never_a_traceback(words):
    try:
        condition = Expression(" ".join(words))
    except UsageError as error:
        assert "\n" not in error.sentence()
    else:
        assert condition.test(ROW) in (True, False, None)


_ATOMS = st.sampled_from([("score > 0.3", True), ("words == 1", False), ("parts.none > 1", None)])
_TREES = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        inner.map(lambda one: (f"not ({one[0]})", None if one[1] is None else not one[1])),
        st.tuples(inner, inner).map(lambda two: (f"({two[0][0]}) and ({two[1][0]})", _and(two[0][1], two[1][1]))),
        st.tuples(inner, inner).map(lambda two: (f"({two[0][0]}) or ({two[1][0]})", _or(two[0][1], two[1][1]))),
    ),
    max_leaves=8,
)


def _and(a, b):
    return min(a, b, key=lambda value: {False: 0, None: 1, True: 2}[value])


def _or(a, b):
    return max(a, b, key=lambda value: {False: 0, None: 1, True: 2}[value])


@given(_TREES)
def test_and_or_not_are_those_of_three_values(tree):
    assert Expression(tree[0]).test(ROW) is tree[1]


@pytest.mark.parametrize("text", ["caption", "score > 1", "score words", "3", "flags", "(score)", "not score"])
def test_only_a_field_with_numbers_can_choose_the_best(text):
    with pytest.raises(UsageError, match="--best-by"):
        parse_field(text, (), "--best-by")


def test_a_text_of_a_table_that_is_a_number_can_choose_the_best():
    assert [value_of(parse_field(name, ("year",), ""), ROW) for name in ("year", "extra.safe", "score")] == [
        1991, None, 0.31,
    ]  # fmt: skip


# ---- scores ----


def scored(job, rows, names=()):
    """The rows with what the folder's scores say of them."""
    Scores(job.out, names).add_to(rows)
    return [{name: one.get(name) for name in ("score", *(f"parts.{name}" for name in names))} for one in rows]


def test_the_last_score_of_an_id_counts_and_half_a_row_is_none_yet(tmp_path):
    job = Job(tmp_path)
    ids = [f"{place:03}" for place in range(300)]
    job.score(*[(id, 0.5, {"p": 1.0}) for id in ids])
    job.score(*[(id, int(id), {"q": "text", "p": None}) for id in ids[::2]], torn=b'{"id": "000", "sc')
    found = scored(job, [row(id) for id in [*reversed(ids), "unknown"]], ["p", "q"])
    assert found[0] == {"score": 0.5, "parts.p": 1, "parts.q": None}
    assert found[1] == {"score": 298, "parts.p": None, "parts.q": None}
    assert [one["score"] for one in found[-3:]] == [0.5, 0, None]
    assert Scores(job.out).rows(["004", "x"]) == {
        "004": {"id": "004", "score": 4, "parts": {"q": "text", "p": None}, "scorer": "clip"}
    }


def test_a_score_of_another_caption_than_the_present_one_does_not_count(tmp_path):
    job = Job(tmp_path)
    lines = [{"id": id, "score": 1, "caption_crc32": zlib.crc32("Größe".encode())} for id in "ab"]
    (job.out / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert scored(job, [row("a", "Größe"), row("b", "Another.")]) == [{"score": 1}, {"score": None}]


def test_a_folder_without_scores_has_none_and_a_broken_row_is_named(tmp_path):
    job = Job(tmp_path)
    assert scored(job, [row("a")]) == [{"score": None}]
    job.score(("a", 1), torn=b"{}\n")
    job.score(("b", 1))
    with pytest.raises(Damaged, match="no whole row at byte 48"):
        Scores(job.out)


# ---- exports ----


def export(*words):
    return main([str(word) for word in words])


def exported(job, name="jsonl"):
    lines = (job.out / "exports" / name / "captions.jsonl").read_text().splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def test_an_export_holds_what_passes_and_says_what_was_left_out_and_why(tmp_path, capsys):
    job = Job(tmp_path).run().add([row(f"{place}.jpg", flags=["loop"] * (place == 8)) for place in range(10)])
    job.score(*[(f"{place}.jpg", place / 10, {"p": place}) for place in range(9)])
    where = "score >= 0.3 and parts.p != 5 and raw is missing"
    assert export(job.out, "--to", "jsonl", "--where", where, "--without", "loop") == 0
    assert {id: (row["score"], row["parts.p"]) for id, row in exported(job).items()} == {
        f"{place}.jpg": (place / 10, place) for place in (3, 4, 6, 7)
    }
    said = capsys.readouterr().out
    assert "4 captions written, 1 left out by their flags, 4 left out by --where" in said
    assert "1 captions have no score, for which --where asks, and are left out: 9.jpg" in said
    assert "no raw" not in said


@pytest.mark.parametrize("name", ["csv", "parquet", "json", "txt", "caption", "imagefolder", "webdataset"])
def test_every_format_holds_what_passes_and_no_more(tmp_path, name):
    job = Job(tmp_path).run().add([row(f"{place}.png", f"Caption {place}.") for place in range(6)])
    for place in range(6):
        job.picture(f"{place}.png")
    job.score(*[(f"{place}.png", float(place)) for place in range(6)])
    assert export(job.out, "--to", name, "--where", "score > 3") == 0
    files = [path for path in (job.out / "exports" / name).rglob("*") if path.is_file()]
    if name == "parquet":
        from pyarrow import parquet

        assert parquet.read_table(files[0]).select(["id", "score"]).to_pylist() == [
            {"id": "4.png", "score": 4}, {"id": "5.png", "score": 5},
        ]  # fmt: skip
        return
    texts = b"".join(path.read_bytes() for path in files if path.suffix != ".png").decode(errors="ignore")
    assert [place for place in range(6) if f"Caption {place}." in texts] == [4, 5]
    assert ("score" in texts) == (name in ("csv", "json", "webdataset"))


@pytest.mark.parametrize("name", ["jsonl", "txt", "parquet"])
def test_scores_that_come_later_or_change_choose_anew_and_take_away_what_no_longer_passes(tmp_path, name):
    job = Job(tmp_path).run().add([row("a.jpg"), row("b.jpg"), row("c.jpg")])
    job.score(("a.jpg", 0.9), ("b.jpg", 0.1))
    words = job.out, "--to", name, "--where", "score > 0.5", "--shard-size", 1

    def ids():
        files = sorted((job.out / "exports" / name).iterdir())
        if name == "jsonl":
            return sorted(exported(job))
        if name == "txt":
            return [path.stem + ".jpg" for path in files]
        from pyarrow import dataset

        return sorted(dataset.dataset(files).to_table()["id"].to_pylist())

    assert export(*words) == 0 and ids() == ["a.jpg"]
    job.score(("b.jpg", 0.8), ("c.jpg", 0.7))
    assert export(*words) == 0 and ids() == ["a.jpg", "b.jpg", "c.jpg"]
    job.score(("a.jpg", 0.2), ("b.jpg", 0.2))
    assert export(*words) == 0 and ids() == ["c.jpg"]


def test_the_best_prompt_of_each_image_wins_after_the_condition_and_the_first_of_equals(tmp_path, capsys):
    job = Job(tmp_path).run()
    names = ("short", "tags")
    job.add([row(f"{place}.jpg#{name}", f"{name} {place}", prompt_name=name) for place in range(5) for name in names])
    scored = {0: (0.1, 0.2), 1: (0.3, 0.2), 2: (0.5, 0.5), 3: (None, 0.1)}
    job.score(*[(f"{n}.jpg#{name}", s) for n, pair in scored.items() for name, s in zip(names, pair)])
    assert export(job.out, "--to", "txt", "--best-by", "score") == 0
    files = {path.name: path.read_text() for path in (job.out / "exports" / "txt").iterdir()}
    assert files == {"0.txt": "tags 0", "1.txt": "short 1", "2.txt": "short 2", "3.txt": "tags 3"}
    said = capsys.readouterr().out
    assert "1 images have no caption with score, and are left out" in said
    assert "Best by score: 2 from tags, 2 from short." in said and "4 left out as not the best of their image" in said
    assert export(job.out, "--to", "jsonl", "--best-by", "score", "--where", 'caption contains "tags"') == 0
    assert list(exported(job)) == [f"{place}.jpg#tags" for place in range(4)]


def test_of_equal_captions_the_first_prompt_wins_whatever_was_done_first(tmp_path):
    job = Job(tmp_path).run(fingerprint={"prompts": {"short": "Briefly?", "tags": "Which tags?"}})
    order = ["a.jpg#tags", "a.jpg#short", "b.jpg#short", "b.jpg#tags"]
    job.add([row(id, prompt_name=id.partition("#")[2]) for id in order])
    assert export(job.out, "--to", "jsonl", "--best-by", "words") == 0
    assert sorted(exported(job)) == ["a.jpg#short", "b.jpg#short"]


def test_the_best_model_of_each_image_wins_with_its_own_picture_and_new_rows_choose_anew(tmp_path):
    one, two = Job(tmp_path, "one").run(), Job(tmp_path, "two").run()
    one.picture("b.png")
    tar = one.tar("t.tar", ["x.png"])
    two.run(fingerprint={"input": str(tar)}, settings={"input": str(tar)})
    one.add([row("b.png", "one b"), row("t.tar/x.png", "one x"), row("c.png", "one c")])
    two.add([row("t.tar/x.png", "two x"), row("b.png", "two b"), row("d.png", "two d")])
    one.score(("b.png", 2), ("t.tar/x.png", 1), ("c.png", 1))
    two.score(("b.png", 1), ("t.tar/x.png", 3), ("d.png", 3))
    words = one.out, two.out, "--best-by", "score", "--to"
    assert export(*words, "jsonl") == 0
    found = exported(one)
    assert {id: row["caption"] for id, row in found.items()} == {
        "b.png": "one b", "c.png": "one c", "t.tar/x.png": "two x", "d.png": "two d",
    }  # fmt: skip
    assert found["d.png"]["out"] == str(two.out) and found["d.png"]["score"] == 3
    assert not (two.out / "exports").exists()
    two.add([row("c.png", "two c")])
    two.score(("c.png", 1.5))
    assert export(*words, "jsonl") == 0 and exported(one)["c.png"]["caption"] == "two c"


def test_scores_of_several_scorers_do_not_choose_the_best(tmp_path, capsys):
    one, two = Job(tmp_path, "one").run().add([row("a.jpg")]), Job(tmp_path, "two").run().add([row("a.jpg")])
    one.score(("a.jpg", 0.3))
    two.score(("a.jpg", 7), scorer="judge")
    assert export(one.out, two.out, "--best-by", "score", "--to", "jsonl") == 2
    assert "several scorers (clip, judge), which do not compare" in capsys.readouterr().err
    assert export(one.out, two.out, "--best-by", "words", "--where", "score > 0", "--to", "jsonl") == 0


@pytest.mark.parametrize("place", range(3))
def test_a_crash_between_two_blocks_of_a_choice_leaves_no_trace(tmp_path, monkeypatch, place):
    one, two = Job(tmp_path, "one").run(), Job(tmp_path, "two").run()
    ids = [f"{number}.jpg" for number in range(12)]
    for job, order in ((one, operator.pos), (two, operator.neg)):
        job.add([row(id, f"{job.out.name} {id}") for id in ids])
        job.score(*[(id, order(number % 5 - 2)) for number, id in enumerate(ids)])
    words = one.out, two.out, "--best-by", "score", "--where", "score > 0", "--to", "jsonl"
    assert export(*words, "--target", tmp_path / "wanted") == 0
    monkeypatch.setattr("caption.choose.selection.BLOCK", 5)
    kept, calls = Selection.kept, []

    def dies(self, block):
        calls.append(block)
        if len(calls) > place:
            raise KeyboardInterrupt
        return kept(self, block)

    monkeypatch.setattr(Selection, "kept", dies)
    assert export(*words) == 130
    monkeypatch.setattr(Selection, "kept", kept)
    assert export(*words) == 0
    path = one.out / "exports" / "jsonl" / "captions.jsonl"
    assert path.read_bytes() == (tmp_path / "wanted" / "captions.jsonl").read_bytes() != b""


@pytest.mark.parametrize(
    "words, said",
    [
        (("one", "--where", "score > 1"), "one has no scores.jsonl: python -m caption.score one --scorer"),
        (("one", "--best-by", "parts.x"), "has no scores.jsonl"),
        (("one", "--where", "extra.colour == 1 or hue == 1"), "hue (letter 22) is no field"),
        (("one", "two"), "several OUT are for --best-by"),
        (("one", "one/../one", "--best-by", "words"), "one OUT is given twice"),
        (("one", "nowhere", "--best-by", "words"), "nowhere is no output folder of a job"),
        (("one", "--column", "\udcff"), "is no UTF-8"),
    ],
)
def test_wrong_use_is_one_sentence_and_writes_nothing(tmp_path, capsys, monkeypatch, words, said):
    Job(tmp_path, "one").run().add([row("a.jpg", extra={"colour": "red"})])
    Job(tmp_path, "two").run().add([row("a.jpg")])
    monkeypatch.chdir(tmp_path)
    assert export(*words, "--to", "csv") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error and not (tmp_path / "one" / "exports").exists()
