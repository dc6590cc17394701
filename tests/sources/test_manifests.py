"""Lists and tables of pictures: each row is one item, whatever is wrong with it."""

import gzip
import io
import json
import os
import subprocess
import sys

import pytest

from caption.errors import InputError
from caption.sources import open_source
from tests.runs import ROOT, captions, command, environment, failures, run


def items(path, tmp_path, **options):
    source = open_source(path, 0, tmp_path / "out", options)
    return list(source.items()), source


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_list_of_paths_with_a_bom_crlf_blank_lines_and_bytes_that_are_no_utf_8(tmp_path):
    path = write(tmp_path / "list.txt", b"\xef\xbb\xbfa.jpg\r\n\r\nsub/b c.png\n/abs/\xe9.jpg\nlast.jpg")
    found, _ = items(path, tmp_path)
    assert [item.id for item in found] == ["a.jpg", "sub/b c.png", "/abs/%E9.jpg", "last.jpg"]
    assert [item.where for item in found] == [
        f"{tmp_path}/a.jpg", f"{tmp_path}/sub/b c.png", os.fsdecode(b"/abs/\xe9.jpg"), f"{tmp_path}/last.jpg"
    ]  # fmt: skip


def test_a_list_of_find_print0_keeps_newlines_in_names(tmp_path):
    found, _ = items(write(tmp_path / "list.txt", b"a\nb.jpg\0c.jpg\0"), tmp_path)
    assert [item.id for item in found] == ["a\nb.jpg", "c.jpg"]


def test_what_gzip_made_is_read_and_what_others_made_is_one_sentence(tmp_path):
    jsonl = gzip.compress(b'{"image": "a.jpg", "n": 1}\n{"image": "b.jpg"}\n' * 300)
    for name, content in (("rows.jsonl.gz", jsonl), ("rows.csv.gz", gzip.compress(b"image,n\na.jpg,1\nb.jpg,\n"))):
        found, source = items(write(tmp_path / name, content), tmp_path)
        assert [item.image for item in found[:2]] == ["a.jpg", "b.jpg"] and found[0].where == f"{tmp_path}/a.jpg"
        assert source.size() in (None, 600)
    with pytest.raises(InputError, match="is broken"):
        items(write(tmp_path / "torn.jsonl.gz", jsonl[:-9]), tmp_path)
    for name, content in (("x.jsonl.zst", b"\x28\xb5\x2f\xfdxx"), ("x.csv.bz2", b"BZh9"), ("x.txt", b"\xff\xfea\0")):
        with pytest.raises(InputError, match=r"compressed with|UTF-16") as refused:
            items(write(tmp_path / name, content), tmp_path)
        assert name in str(refused.value)
    with pytest.raises(InputError, match="members can't be read one by one"):
        items(write(tmp_path / "x.tar.gz", jsonl), tmp_path)


def test_jsonl_fields_of_a_row_become_the_items_own_and_the_rest_is_carried_through(tmp_path):
    row = {"file_name": "a.jpg", "id": 7, "prompt": "What {is} this?", "seed": "12.0", "max_new_tokens": 9.0,
           "lora": "style", "label": "cat", "box": [1, 2]}  # fmt: skip
    path = write(tmp_path / "rows.jsonl", json.dumps(row) + "\n" + json.dumps({"file_name": "b.jpg", "id": 8}))
    found, _ = items(path, tmp_path)
    first, second = found
    assert (first.id, first.image, first.prompt, first.seed, first.max_new_tokens, first.lora) == (
        "7", "a.jpg", "What {is} this?", 12, 9, "style"
    )  # fmt: skip
    assert first.extra == {"label": "cat", "box": [1, 2]}
    assert (second.id, second.prompt, second.seed, second.extra) == ("8", None, 1, None)


@pytest.mark.parametrize(
    ("seed", "meant"),
    [(2**53 + 1, 2**53 + 1), (f"{2**61 + 1}", 2**61 + 1), (3.0, 3), ("3.0", 3), (1.5, None), ("1.5", None),
     (2**62, None), (-1, None), (True, None)],
)  # fmt: skip
def test_a_seed_is_the_very_number_of_its_row_or_the_row_is_bad(tmp_path, seed, meant):
    [item], _ = items(write(tmp_path / "rows.jsonl", json.dumps({"image": "a.jpg", "seed": seed})), tmp_path)
    assert (item.seed, item.fault) == (meant, None) if meant is not None else item.fault[0] == "BadRow"


def test_each_bad_row_of_jsonl_is_one_failed_item_and_costs_no_neighbour(tmp_path):
    lines = [
        '{"image": "a.jpg"}', '{"image": "b.j', "[1]", '{"picture": "c.jpg"}', '{"image": ""}', '{"image": 5}',
        '{"image": "d.jpg", "seed": "x"}', '{"image": "e.jpg", "max_new_tokens": 0}', '{"image": "http://x/f.jpg"}',
        '{"image": "g.jpg", "prompt": 3}', '{"image": "ftp://b/h.jpg"}',
        '{"image": "data:image/png;base64,iVBO"}', '{"image": "i.jpg"',
    ]  # fmt: skip
    found, _ = items(write(tmp_path / "rows.jsonl", "\n".join(lines)), tmp_path)
    assert [item.fault and item.fault[0] for item in found] == [
        None, "BadRow", "BadRow", "BadRow", "BadRow", "BadRow", "BadRow", "BadRow", "NotLocal", "BadRow", "NotLocal",
        "BadRow", "BadRow",
    ]  # fmt: skip
    assert len({item.id for item in found}) == len(found)
    assert found[1].id == "rows.jsonl:2"
    assert [item.index for item in found] == list(range(13))


def test_a_repeated_id_gets_an_id_of_its_own_that_stays_when_the_input_grows(tmp_path):
    lines = ['{"image": "a.jpg"}', '{"image": "a.jpg~2"}', '{"image": "a.jpg"}', '{"image": "a.jpg"}'] * 600
    path = write(tmp_path / "rows.jsonl", "\n".join(lines))
    found, source = items(path, tmp_path)
    ids = [item.id for item in found]
    assert len(set(ids)) == len(ids)
    assert ids[:4] == ["a.jpg", "a.jpg~2", "a.jpg~3", "a.jpg~4"]
    assert "more than once" in source.warnings[0] and len(source.warnings) == 1
    write(path, "\n".join(lines * 2))
    assert [item.id for item in items(path, tmp_path)[0]][: len(ids)] == ids


def test_a_row_without_an_id_is_known_by_its_picture(tmp_path):
    path = write(tmp_path / "rows.csv", "id,image\nx,a.jpg\n,b.jpg\n")
    found, source = items(path, tmp_path)
    assert [item.id for item in found] == ["x", "b.jpg"]
    assert "has no id" in source.warnings[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", b'\xef\xbb\xbfpath,note\r\na.jpg,"two\r\nlines, ""quoted"""\r\n\r\nb.jpg,\r\n'),
        ("rows.csv", b'path;note\na.jpg;"two\r\nlines, ""quoted"""\nb.jpg;\n'),
        ("rows.tsv", b'path\tnote\na.jpg\t"two\r\nlines, ""quoted"""\nb.jpg\t\n'),
        ("rows.csv", 'path,note\na.jpg,"two\r\nlines, ""quoted"""\nb.jpg,\n'.encode("utf-16")),
    ],
)
def test_csv_with_bom_crlf_quotes_newlines_other_delimiters_and_utf_16(tmp_path, name, content):
    found, _ = items(write(tmp_path / name, content), tmp_path)
    assert [item.id for item in found] == ["a.jpg", "b.jpg"]
    assert found[0].extra == {"note": 'two\r\nlines, "quoted"'}


def test_csv_rows_with_too_few_or_too_many_values_are_failed_items(tmp_path):
    found, _ = items(write(tmp_path / "rows.csv", "image,x\na.jpg,1\nb.jpg\nc.jpg,1,2\nd.jpg,1\n"), tmp_path)
    assert [bool(item.fault) for item in found] == [False, True, True, False]


def test_relative_paths_begin_at_the_manifest_or_at_image_root_and_absolute_ones_nowhere(tmp_path):
    (tmp_path / "pictures").mkdir()
    path = write(tmp_path / "list.txt", "a.jpg\n../out/b.jpg\n/c.jpg\nfile:///d%20e.jpg\n")
    assert [item.where for item in items(path, tmp_path)[0]] == [
        f"{tmp_path}/a.jpg", f"{tmp_path}/../out/b.jpg", "/c.jpg", "/d e.jpg"
    ]  # fmt: skip
    found, _ = items(path, tmp_path, image_root=str(tmp_path / "pictures"))
    assert found[0].where == f"{tmp_path}/pictures/a.jpg"


@pytest.mark.parametrize(
    ("name", "content", "options", "said"),
    [
        ("rows.csv", "a,b\n1,2\n", {}, "no column that looks like the pictures'; its columns are a, b"),
        ("rows.csv", "image,b\n1,2\n", {"image_column": "imag"}, "image is the nearest"),
        ("rows.jsonl", '{"image": "a"}', {"id_column": "sku"}, "no column 'sku'"),
        ("rows.csv", "", {}, "no line with the names"),
        ("rows.csv", "image,image\na,b\n", {}, "two columns named 'image'"),
        ("rows.xlsx", "x", {}, "--input-format"),
        ("rows.parquet", "no parquet", {}, "no whole Parquet"),
        ("shard.tar", "no tar", {}, "can't read"),
        ("rows.csv", "image\na\n", {"image_root": "/nowhere"}, "check --image-root"),
        ("rows.csv", "image\na\n", {"details": "."}, "--details goes with a folder"),
        ("rows.csv", "image\na\n", {"input_format": "folder"}, "not a folder"),
    ],
)
def test_a_manifest_that_can_not_be_read_is_one_sentence(tmp_path, name, content, options, said):
    with pytest.raises(InputError) as refused:
        items(write(tmp_path / name, content), tmp_path, **options)
    assert said in str(refused.value)


def test_an_extra_that_json_does_not_know_is_text_and_one_that_is_too_large_fails_its_image(tmp_path):
    path = write(tmp_path / "rows.csv", b"image,note\na.jpg,\xff\nb.jpg," + b"x" * (1 << 20) + b"\n")
    found, _ = items(path, tmp_path)
    assert found[0].extra == {"note": "?"}
    assert found[1].fault[0] == "BadRow"


def test_a_line_without_end_fails_alone_and_is_not_held(tmp_path):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b'{"image": "a.jpg"}\n{"image": "')
        file.write(b"x" * (40 << 20))
        file.write(b'"}\n{"image": "b.jpg"}\n')
    found, _ = items(path, tmp_path)
    assert [bool(item.fault) for item in found] == [False, True, False]


def test_json_files_one_an_image_with_details_in_a_second_folder(tmp_path):
    for folder in ("jsons", "details", "pictures"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "jsons" / "a.json", '{"title": "own"}')
    write(tmp_path / "jsons" / "b.json", '{"image_path": "x/other.jpg"}')
    write(tmp_path / "jsons" / "c.json", '{"half')
    write(tmp_path / "jsons" / "d.json", "{}")
    write(tmp_path / "details" / "a.json", '{"title": "theirs", "prompt": "Why?", "tags": ["x"]}')
    write(tmp_path / "pictures" / "a.PNG", "x")
    found, _ = items(
        tmp_path / "jsons", tmp_path, details=str(tmp_path / "details"), image_root=str(tmp_path / "pictures")
    )
    by_id = {item.id: item for item in found}
    assert by_id["a"].where == f"{tmp_path}/pictures/a.PNG"
    assert (by_id["a"].prompt, by_id["a"].extra) == ("Why?", {"title": "own", "tags": ["x"]})
    assert by_id["x/other.jpg" if "x/other.jpg" in by_id else "b"].where == f"{tmp_path}/pictures/x/other.jpg"
    assert by_id["c"].fault[0] == "BadRow"
    assert by_id["d"].fault[0] == "Vanished"


def test_details_give_the_pictures_of_a_folder_their_fields(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.jpg"):
        write(tmp_path / "in" / name, "x")
    write(tmp_path / "d" / "sub" / "b.json", '{"label": "cat"}')
    found, _ = items(tmp_path / "in", tmp_path, details=str(tmp_path / "d"))
    assert [item.extra for item in found] == [None, {"label": "cat"}]


def test_what_a_careless_csv_does_is_mended_or_said(tmp_path):
    spread = write(tmp_path / "tabs.csv", "image\t label \na.jpg\tx, y\n")
    assert items(spread, tmp_path)[0][0].extra == {"label": "x, y"}
    latin = write(tmp_path / "latin.csv", b"image,label,prompt\n\xe9.jpg,x,\nb.jpg,\xe9,\nc.jpg,x,\xe9\n")
    found, _ = items(latin, tmp_path, prompt="A {label}")
    assert [item.prompt for item in found] == ["A x", None, None] and found[0].id == "%E9.jpg"
    assert all(item.fault[0] == "BadRow" and "its prompt is no text" in item.fault[1] for item in found[1:])
    open_quote = write(tmp_path / "quote.csv", 'image,label\na.jpg,x\nb.jpg,"it\nc.jpg,x\n')
    first, second = items(open_quote, tmp_path)[0]
    assert first.fault is None and second.id == "quote.csv:3" and "never closed" in second.fault[1]
    for content in ("", "\n", '"image\na.jpg\n'):
        with pytest.raises(InputError, match="no line with the names"):
            items(write(tmp_path / "none.csv", content), tmp_path)


def test_an_option_that_would_change_nothing_is_one_sentence(tmp_path):
    write(tmp_path / "a.jpg", "x")
    write(tmp_path / "x.tar", "x")
    path = write(tmp_path / "list.txt", "a.jpg\n")
    for input, option in ((tmp_path, "image_root"), (tmp_path, "id_column"), (path, "image_column")):
        with pytest.raises(InputError, match=option.replace("_", "-")):
            items(input, tmp_path, **{option: str(tmp_path)})
    with pytest.raises(InputError, match="--image-root is not for the WebDataset"):
        items(tmp_path / "x.tar", tmp_path, image_root=str(tmp_path))
    with pytest.raises(InputError, match="--details is not for the standard input"):
        items("-", tmp_path, details=str(tmp_path))
    with pytest.raises(InputError, match="standard input is no parquet"):
        items("-", tmp_path, input_format="parquet")


def test_skip_existing_leaves_out_images_with_a_sidecar_and_the_others_keep_their_seeds(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.jpg", "b.txt", "c.jpg"):
        write(tmp_path / "in" / name, "x")
    found, source = items(tmp_path / "in", tmp_path, skip_existing=".txt")
    assert [(item.id, item.index, item.seed) for item in found] == [("a.jpg", 0, 0), ("c.jpg", 2, 2)]
    assert (source.left_out, source.left_out_first) == (1, ["b.jpg"])


def test_a_sidecar_that_comes_later_changes_the_id_of_no_other_item(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        write(tmp_path / name, "x")
    path = write(tmp_path / "rows.jsonl", '{"image": "a.jpg", "id": 1}\n{"image": "b.jpg", "id": 1}\n')
    asked = {"skip_existing": ".txt", "prompts": {"one": "One?", "two": "Two?"}}
    assert [item.id for item in items(path, tmp_path, **asked)[0]] == ["1#one", "1#two", "1#one~2", "1#two~2"]
    write(tmp_path / "a.two.txt", "")
    assert [item.id for item in items(path, tmp_path, **asked)[0]] == ["1#one", "1#one~2", "1#two~2"]
    write(tmp_path / "a.txt", "")
    found, source = items(path, tmp_path, **asked)
    assert [item.id for item in found] == ["1#one~2", "1#two~2"] and source.left_out == 1


class TestARun:
    def test_every_row_of_a_manifest_ends_in_one_row_and_a_second_run_does_nothing(self, tmp_path):
        lines = ['{"image": "a.jpg", "label": "x"}', '{"image": "a.jpg"}', '{"image": "b.j', '{"image": "ftp://x/y"}']
        path = write(tmp_path / "rows.jsonl", "\n".join(lines))
        out = tmp_path / "out"
        done = run(path, "--output", out, "--model", "null")
        assert done.returncode == 0, done.stderr
        assert set(captions(out)) == {"a.jpg", "a.jpg~2"}
        assert captions(out)["a.jpg"]["extra"] == {"label": "x"}
        assert {row["error"] for row in failures(out).values()} == {"BadRow", "NotLocal"}
        again = run(path, "--output", out, "--model", "null")
        assert "4 done before" in again.stdout + again.stderr
        checked = run(out, module="caption.verify")
        assert checked.returncode == 0, checked.stdout
        assert "4 images = 2 captioned + 2 failed" in checked.stdout

    def test_a_manifest_of_broken_rows_only_ends_without_a_worker_and_shows_how_far_it_is(self, tmp_path):
        done = run(write(tmp_path / "rows.jsonl", "x\n" * 5000), "--output", tmp_path / "out", "--model", "null")
        assert done.returncode == 3
        assert len(failures(tmp_path / "out")) == 5000
        assert "4,096/" in done.stderr and "4,096 failed" in done.stderr

    def test_standard_input(self, tmp_path):
        write(tmp_path / "a.jpg", "x")
        done = subprocess.run(
            command("-", "--output", tmp_path / "out", "--model", "null"), input=f"{tmp_path}/a.jpg\nb.jpg\n",
            env=environment(), text=True, capture_output=True, timeout=60, cwd=ROOT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert set(captions(tmp_path / "out")) == {f"{tmp_path}/a.jpg", "b.jpg"}


def test_standard_input_that_is_jsonl_is_seen_as_such(tmp_path, monkeypatch):
    from caption.sources import _standard_input

    _standard_input.cache_clear()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"image": "/a.jpg", "k": 1}\n')))
    found, source = items("-", tmp_path)
    _standard_input.cache_clear()
    assert [(item.id, item.extra) for item in found] == [("/a.jpg", {"k": 1})]
    assert list(source.items()) == found, "it can be read again"


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [("a.txt", "a.jpg\n\nb.jpg\r\n\r\n \nc.jpg", 4), ("a.txt", "a.jpg\0\nb.jpg\0\0c.jpg", 3), ("a.txt", "", 0),
     ("a.jsonl", '{"image": "a.jpg"}\n \nno JSON\n{"image": "b.jpg"}', 3)],
)  # fmt: skip
def test_rows_are_counted_as_they_are_read(tmp_path, name, content, count):
    (tmp_path / name).write_bytes(content.encode())
    source = open_source(tmp_path / name, 0, tmp_path / "out")
    assert source.size() == len(list(source.items())) == count
    assert source.size(2) == min(2, count)
