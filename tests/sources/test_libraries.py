"""Data sets written by the libraries that people write them with, read here: pyarrow, datasets, webdataset."""

import io
import json
import os
import tarfile

import pytest
from PIL import Image

from caption.errors import InputError, ItemError
from caption.image import DecodeOptions, read_image
from caption.sources import open_source
from caption.sources.tar import expand
from tests.runs import captions, failures, run

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250), (250, 0, 250), (9, 9, 9)]
DECODE = DecodeOptions(1_000_000, 1_000_000)


def png(number):
    data = io.BytesIO()
    Image.new("RGB", (8 + number, 8), COLOURS[number % 7]).save(data, "PNG")
    return data.getvalue()


def items(path, tmp_path, **options):
    return list(open_source(path, 0, tmp_path / "out", options).items())


def is_picture(item, number):
    picture, size = read_image(item.where, DECODE)
    return size == (8 + number, 8) and picture.getpixel((0, 0)) == COLOURS[number % 7]


def test_parquet_of_paths_written_by_pyarrow(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "image_path": ["a.jpg", None, "c.jpg"],
            "id": [1, 2, None],
            "score": [0.5, float("nan"), None],
            "blob": [b"x", b"y", b"z"],
            "seed": [5, None, None],
            "when": pa.array([0, 1, 2], pa.timestamp("s")),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=2)
    found = items(tmp_path / "rows.parquet", tmp_path)
    assert [item.id for item in found] == ["1", "2", "c.jpg"]
    assert [item.fault and item.fault[0] for item in found] == [None, "BadRow", None]
    assert [item.seed for item in found] == [5, 1, 2]
    assert found[0].extra["score"] == 0.5 and "blob" not in found[0].extra
    assert open_source(tmp_path / "rows.parquet", 0, tmp_path / "out").size() == 3


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_with_the_pictures_inside_in_any_order_of_reading(tmp_path, struct):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": png(n), "path": f"p{n}.png"} if struct else png(n) for n in range(40)]
    cells[7] = {"bytes": None, "path": "p7.png"} if struct else None
    pq.write_table(pa.table({"image": cells, "label": list(range(40))}), tmp_path / "x.parquet", row_group_size=25)
    found = items(tmp_path / "x.parquet", tmp_path)
    assert found[3].id == ("p3.png" if struct else "x.parquet:3")
    assert found[3].extra == {"label": 3}
    assert all(is_picture(found[n], n) for n in (0, 1, 24, 39, 30, 2, 17, 16))
    with pytest.raises(ItemError, match="gone" if struct else "empty"):
        read_image(found[7].where, DECODE)


def test_a_folder_of_parquet_shards_and_a_pattern(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "data").mkdir()
    for shard in range(2):
        pq.write_table(pa.table({"image": [png(shard)]}), tmp_path / "data" / f"train-{shard}.parquet")
    wanted = ["train-0.parquet:0", "train-1.parquet:0"]
    assert [item.id for item in items(tmp_path / "data", tmp_path)] == wanted
    assert [item.id for item in items(f"{tmp_path}/data/train-{{0..1}}.parquet", tmp_path)] == wanted


def test_a_dataset_saved_by_datasets_and_a_dict_of_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(12)], "label": [f"c{n}" for n in range(12)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    one = datasets.Dataset.from_dict(rows, features=features)
    one.save_to_disk(tmp_path / "one", num_shards=3)
    found = items(tmp_path / "one", tmp_path)
    assert len(found) == 12 and len({item.id for item in found}) == 12
    assert all(is_picture(item, n) for n, item in enumerate(found))
    assert found[5].extra == {"label": "c5"}
    shuffled = one.select([3, 1, 2])  # its rows are taken through a table of indices
    datasets.DatasetDict({"train": one, "test": shuffled}).save_to_disk(tmp_path / "both")
    both = items(tmp_path / "both", tmp_path)
    assert len(both) == 15
    assert all(is_picture(item, n) for item, n in zip(both[12:], (3, 1, 2)))


def test_parquet_written_by_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": png(n), "path": f"{n}.png"} for n in range(5)]}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "hub.parquet")
    found = items(tmp_path / "hub.parquet", tmp_path)
    assert [item.id for item in found] == [f"{n}.png" for n in range(5)]
    assert all(is_picture(item, n) for n, item in enumerate(found))


def test_pictures_that_datasets_did_not_embed_are_read_where_they_lie_and_classes_have_their_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    paths = [str(tmp_path / f"{n}.png") for n in range(3)]
    for number, path in enumerate(paths):
        (tmp_path / path).write_bytes(png(number))
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    one = datasets.Dataset.from_dict({"image": paths, "label": [0, 1, 0]}, features=kinds)
    one.to_parquet(tmp_path / "x.parquet")
    one.cast_column("image", datasets.Image(decode=False)).to_json(tmp_path / "x.jsonl")
    datasets.DatasetDict({"train": one, "test": one.select([2])}).save_to_disk(tmp_path / "both")
    for name in ("x.parquet", "x.jsonl", "both"):
        found = items(tmp_path / name, tmp_path)
        assert all(is_picture(item, number) for item, number in zip(found, (0, 1, 2, 2)))
        labels = [item.extra["label"] for item in found]
        assert labels[:3] == ([0, 1, 0] if name == "x.jsonl" else ["cat", "dog", "cat"])
    assert [item.id for item in found] == ["train/0.png", "train/1.png", "train/2.png", "test/2.png"]
    os.remove(paths[1])
    with pytest.raises(ItemError, match="gone"):
        read_image(items(tmp_path / "x.parquet", tmp_path)[1].where, DECODE)


def test_folders_of_a_partitioned_table_are_fields_and_bytes_may_be_views(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_to_dataset(pa.table({"kind": ["a b", "c"]}), tmp_path / "in", partition_cols=["kind"])
    for number, path in enumerate(sorted((tmp_path / "in").rglob("*.parquet"))):
        pq.write_table(pa.table({"image": pa.array([png(number)], pa.binary_view()), "n": [number + 1]}), path)
    found = items(tmp_path / "in", tmp_path)
    assert [item.extra for item in found] == [{"kind": "a b", "n": 1}, {"kind": "c", "n": 2}]
    assert is_picture(found[0], 0) and is_picture(found[1], 1)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_an_imagefolder_that_datasets_reads_gives_its_fields_and_the_order_of_a_plain_folder(tmp_path, kind):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    rows = [{"file_name": name, "label": f"of {name}"} for name in ("sub/b.png", "a.png")]
    for number, row in enumerate(rows):
        (folder / row["file_name"]).write_bytes(png(number))
    frame = datasets.Dataset.from_list(rows).to_pandas()
    if kind == "jsonl":
        frame.to_json(folder / "metadata.jsonl", orient="records", lines=True)
    elif kind == "csv":
        frame.to_csv(folder / "metadata.csv", index=False)
    else:
        frame.to_parquet(folder / "metadata.parquet")
    theirs = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "c"))
    assert len(theirs) == 2
    found = items(folder, tmp_path)
    assert [(item.id, item.extra) for item in found] == [
        ("a.png", {"label": "of a.png"}), ("sub/b.png", {"label": "of sub/b.png"})
    ]  # fmt: skip


def test_metadata_without_a_picture_is_a_note_and_a_picture_without_metadata_an_item(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(0))
    (tmp_path / "in" / "metadata.jsonl").write_text('{"file_name": "gone.png"}\nx\n')
    source = open_source(tmp_path / "in", 0, tmp_path / "out")
    assert [item.id for item in source.items()] == ["a.png"]
    assert len(source.warnings) == 2 and "name no picture" in source.warnings[1]


def test_shards_written_by_webdataset(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "%03d.tar"), maxcount=3, verbose=0) as writer:
        for number in range(7):
            sample = {"__key__": f"k{number:04}", "png": png(number), "txt": f"text {number}", "json": {"n": number}}
            writer.write(sample)
    for path in (tmp_path, f"{tmp_path}/{{000..002}}.tar"):
        found = items(path, tmp_path)
        assert [item.id for item in found] == [f"{n // 3:03}.tar/k{n:04}.png" for n in range(7)]
        assert all(is_picture(item, n) for n, item in enumerate(found))
        assert found[4].extra == {"n": 4, "txt": "text 4", "__key__": "k0004"}


def test_a_tar_with_dangerous_and_broken_members(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:

        def add(name, data=b"", **attributes):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for attribute, value in attributes.items():
                setattr(member, attribute, value)
            archive.addfile(member, io.BytesIO(data))

        add("../../escape.png", png(0))
        add("/abs.png", png(1))
        add("link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add("pipe.png", type=tarfile.FIFOTYPE)
        add("folder.png", type=tarfile.DIRTYPE)
        add("zero.png")
        add("bad.png", png(2))
        add("bad.json", b"{")
        add("lonely.txt", b"x")
        add("a" * 300 + ".png", png(3))
        add("last.png", png(4) * 100)
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[: whole.index(b"last.png") + 700])
    source = open_source(tmp_path / "x.tar", 0, tmp_path / "out")
    found = list(source.items())
    assert [item.fault and item.fault[0] for item in found] == [
        None, None, "NotAFile", "NotAFile", None, "BadRow", None, None
    ]  # fmt: skip
    assert is_picture(found[0], 0) and is_picture(found[1], 1) and is_picture(found[6], 3)
    for item, error in ((found[4], "zero bytes"), (found[7], "ends before")):
        with pytest.raises(ItemError, match=error):
            read_image(item.where, DECODE)
    assert source.ignored == 1


def test_a_shard_that_goes_on_after_its_end_mark_is_named(tmp_path):
    def tar(name):
        with tarfile.open(tmp_path / name, "w") as archive:
            member = tarfile.TarInfo("a.png")
            archive.addfile(member)
        return (tmp_path / name).read_bytes()

    (tmp_path / "both.tar").write_bytes(tar("1.tar") + tar("2.tar"))
    for name, warned in (("1.tar", 0), ("both.tar", 1)):
        source = open_source(tmp_path / name, 0, tmp_path / "out")
        assert len(list(source.items())) == 1 and len(source.warnings) == warned


def test_shards_that_are_missing_or_compressed_are_one_sentence(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w:gz"):
        pass
    with pytest.raises(InputError, match="decompress it"):
        items(tmp_path / "0.tar", tmp_path)
    with pytest.raises(InputError, match="no shard"):
        items(f"{tmp_path}/{{0..1}}.tar", tmp_path)


def test_braces_count_with_their_zeros_list_and_multiply():
    assert expand("{008..011}.tar") == ["008.tar", "009.tar", "010.tar", "011.tar"]
    assert expand("{a,b}-{1..2}") == ["a-1", "a-2", "b-1", "b-2"]


def test_a_run_over_shards_captions_each_member_with_its_own_picture(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for number in range(5):
            for name, data in ((f"{number}.png", png(number)), (f"{number}.json", json.dumps({"n": number}).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data) if number != 3 or name.endswith("json") else 0
                archive.addfile(member, io.BytesIO(data[: member.size]))
    out = tmp_path / "out"
    done = run(tmp_path / "s.tar", "--output", out, "--model", "shapes", "--max-new-tokens", "4")
    assert done.returncode == 0, done.stderr
    rows = captions(out)
    assert {id: row["width"] for id, row in rows.items()} == {f"s.tar/{n}.png": 8 + n for n in (0, 1, 2, 4)}
    assert failures(out)["s.tar/3.png"]["error"] == "EmptyFile"
