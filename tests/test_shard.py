"""--shard: each job of an array its own part, with the ids, seeds and words of the whole."""

import dataclasses
from collections import Counter

import pytest

from caption.errors import UsageError
from caption.job import make_fingerprint
from caption.options import read_settings
from caption.run import main
from caption.settings import Settings
from caption.shard import Shard, image_of, own_folder, parse_shard
from caption.sources import open_source
from tests.runs import empty_pictures


def items(path, shard=None, limit=None, **options):
    """The items that a run would do, as a set of all that its captions depend on."""
    source = open_source(path, 7, path.parent / "out" / "any", {"shard": shard, **options})
    return {item._replace(index=0, extra=None) for item in source.items(limit)}  # the index counts items of the shard


PROMPTS = {"short": "Short.", "tags": "Tags."}


@pytest.fixture
def table(tmp_path):
    """Repeated ids, ids that look like the ones made of them, and rows with a prompt of their own."""
    ids = ["a", "b", "a", "a~2", "b#short", "a~2", "c#tags~2", "c", "c", "#short", *(f"p{n}" for n in range(60))]
    lines = [f'{{"id":"{id}","image":"{place}.jpg"}}\n' for place, id in enumerate(ids)]
    lines += [f'{{"id":"{id}#short","image":"x{id}.jpg","prompt":"Own."}}\n' for id in ("a", "p3", "b", "p4")]
    path = tmp_path / "table.jsonl"
    path.write_text("".join(lines))
    return path


ASKED = [{}, {"prompts": PROMPTS}, {"prompts": PROMPTS, "prompt_weights": {"short": 1.0, "tags": 3.0}}]


@pytest.mark.parametrize("options", ASKED, ids=["one prompt", "several", "drawn"])
@pytest.mark.parametrize("limit", [None, 9])
def test_shards_hold_each_item_of_the_whole_once_with_its_id_seed_and_prompt(table, options, limit):
    whole = items(table, limit=limit, **options)
    parts = [items(table, f"{number}/5", limit, **options) for number in range(5)]
    assert Counter(item.id for part in parts for item in part) == Counter(item.id for item in whole)
    assert set.union(*parts) == whole


def test_all_prompts_of_an_image_are_in_one_shard(table):
    for number in range(3):
        found = {item.id for item in items(table, f"{number}/3", prompts=PROMPTS)}
        assert {f"p{n}" for n in range(60) if f"p{n}#short" in found} == {
            f"p{n}" for n in range(60) if f"p{n}#tags" in found
        } != set()


def test_the_shard_of_an_id_is_the_same_for_ever():
    """Written down: another hash would deal the images of a job that is under way anew."""
    held = [next(n for n in range(64) if Shard(n, 64).holds(id)) for id in ("a.jpg", "b/c.png", "d %FF.webp", "é")]
    assert held == [13, 62, 58, 20]


def test_shards_are_of_about_the_same_size():
    counts = Counter(next(n for n in range(8) if Shard(n, 8).holds(f"train/{i:07}.jpg")) for i in range(8000))
    assert all(abs(counts[n] - 1000) < 5 * 1000**0.5 for n in range(8))


def test_what_is_put_behind_an_id_does_not_move_it():
    assert image_of("a.jpg#short~2", ["short"]) == image_of("a.jpg~3", ["short"]) == "a.jpg"
    assert image_of("photo #12.jpg", ["short"]) == "photo #12.jpg"
    assert image_of("a.jpg#short") == "a.jpg#short"


@pytest.mark.parametrize(
    ("text", "said"),
    [("64/64", "count from 0, the last of 64 is 63/64"), ("0/0", "1 to"), ("-1/4", "no I/N"), ("3", "no I/N"),
     ("1/2/3", "no I/N"), ("0.5/2", "no I/N"), ("a/b", "no I/N")],
)  # fmt: skip
def test_a_wrong_shard_is_refused_with_what_is_right(text, said):
    with pytest.raises(UsageError, match=said):
        read_settings(["in", "--output", "out", f"--shard={text}"], {})


def test_a_shard_has_a_folder_of_its_own_which_is_that_of_no_other():
    first, other = parse_shard("03/064"), parse_shard("4/64")
    assert str(first) == "3/64" and own_folder("out", first) == "out/shard-0003-of-0064"
    assert own_folder("out/shard-0003-of-0064", first) == "out/shard-0003-of-0064"
    with pytest.raises(UsageError, match="is the folder of shard 3/64, not 4/64"):
        own_folder("out/shard-0003-of-0064", other)


def test_a_job_without_shards_has_the_fingerprint_that_it_had_before_there_were_any():
    settings = Settings(input="in", output="out")
    assert "shard" not in make_fingerprint(settings, "fp16")
    assert make_fingerprint(dataclasses.replace(settings, shard="1/2"), "fp16")["shard"] == "1/2"


def test_the_folder_of_one_shard_is_refused_to_another_and_to_the_whole(tmp_path, capsys):
    empty_pictures(tmp_path / "in", 30)
    command = [str(tmp_path / "in"), "--model", "null", "--output"]
    assert main([*command, str(tmp_path / "out"), "--shard", "1/3"]) == 0
    folder = tmp_path / "out" / "shard-0001-of-0003"
    assert main([*command, str(folder)]) == 4
    assert "its shard was '1/3'" in capsys.readouterr().err
    folder.rename(tmp_path / "out" / "shard-0000-of-0002")
    assert main([*command, str(tmp_path / "out"), "--shard", "0/2"]) == 4
    assert "set --shard to the old value" in capsys.readouterr().err


def test_a_shard_without_pictures_is_done_and_its_dry_run_says_so(tmp_path, capsys):
    empty_pictures(tmp_path / "in", 1)
    command = [str(tmp_path / "in"), "--model", "null", "--output", str(tmp_path / "out"), "--shard"]
    empty = next(f"{n}/2" for n in range(2) if not Shard(n, 2).holds("000000.jpg"))
    assert main([*command, empty, "--dry-run"]) == 0
    assert f"shard {empty} of the folder" in capsys.readouterr().out
    assert main([*command, empty]) == 0
    assert "Finished: 0 captioned" in capsys.readouterr().out


def test_folders_of_other_shards_inside_the_input_are_not_read(tmp_path):
    empty_pictures(tmp_path / "in", 10)
    out = tmp_path / "in" / "out"
    empty_pictures(out / "shard-0001-of-0002" / "exports", 5)
    for shard in ("0/2", "1/2"):
        source = open_source(tmp_path / "in", 0, out / parse_shard(shard).folder, {"shard": shard})
        assert len(list(source.items())) + source.elsewhere == 10
