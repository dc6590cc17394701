"""SameText: a text on many different images is named, one on few or on one image under many prompts is not."""

import orjson
import pytest

import checkpoint
from caption.outputs.rows import CAPTIONS
from caption.sametext import repeated_texts
from caption.verify import main


def write(path, texts):
    rows = [{"id": f"{place}.jpg", "image": f"{place}.jpg", "caption": text} for place, text in enumerate(texts)]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return len(rows)


def test_the_texts_on_most_images_with_their_number_and_an_example(tmp_path):
    texts = [f"own {place}" for place in range(100)] + ["a blurry photo"] * 30 + ["a dog"] * 12 + ["a cat"] * 9
    count = write(tmp_path / CAPTIONS, texts)
    assert repeated_texts(tmp_path / CAPTIONS, count) == [("a blurry photo", 30, "100.jpg"), ("a dog", 12, "130.jpg")]
    assert repeated_texts(tmp_path / CAPTIONS, 105) == [], "rows beyond the commit do not count"


@pytest.mark.parametrize("texts", [[], ["same"] * 9, [""] * 50, [f"own {place}" for place in range(500)]])
def test_few_empty_and_different_texts_are_no_matter(tmp_path, texts):
    assert repeated_texts(tmp_path / CAPTIONS, write(tmp_path / CAPTIONS, texts)) == []


def test_the_prompts_of_one_image_are_one_image(tmp_path):
    rows = [{"id": f"a.jpg#{place}", "image": "a.jpg", "caption": "same"} for place in range(40)]
    (tmp_path / CAPTIONS).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    assert repeated_texts(tmp_path / CAPTIONS, 40) == []


def test_copies_of_one_picture_are_one_image(tmp_path):
    rows = [{"id": "a.jpg", "image": "a.jpg", "caption": "same"}]
    rows += [
        {"id": f"{place}.jpg", "image": f"{place}.jpg", "caption": "same", "twin_of": "a.jpg"} for place in range(40)
    ]
    (tmp_path / CAPTIONS).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    assert repeated_texts(tmp_path / CAPTIONS, 41) == []


def test_verify_names_it_and_still_says_that_all_holds(tmp_path, capsys):
    with checkpoint.open(tmp_path, {}) as record:
        for place in range(11):
            row = {"id": f"{place}.jpg", "image": f"{place}.jpg", "caption": "I see nothing.", "flags": []}
            record.append(CAPTIONS, [(row["id"], orjson.dumps(row))])
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "11 different images have the same caption, as 0.jpg: 'I see nothing.'" in said and "All holds" in said
