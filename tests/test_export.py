"""Export: each committed caption stands once in each format, real libraries read it, nothing else is touched."""

import csv
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from PIL import Image

import checkpoint
from caption.export import main
from caption.item import Change, Item
from caption.messages import Result
from caption.outputs.flat import flat_row
from caption.outputs.formats import FORMATS
from caption.outputs.ledger import Ledger
from caption.outputs.rows import CAPTIONS, FAILED, caption_row
from caption.runfile import RunFile
from tests.runs import ROOT, captions, command, empty_pictures, environment, kill_group, run, start, wait_for_rows

NAMES = [f"deep/{number:02}.jpg" if number % 3 else f"{number:02}.png" for number in range(10)]


def result(caption, **more):
    values = {"ref": (1, 0), "caption": caption, "raw": None, "finish_reason": "stop", "tokens": 3, "width": 6,
              "height": 4, "seconds": 0.5, "flags": ()}  # fmt: skip
    return Result(**values | more)


class Job:
    """An output folder with rows, as a run leaves it, and its pictures."""

    def __init__(self, folder):
        self.input, self.out = folder / "in", folder / "out"
        self.input.mkdir()
        self.out.mkdir()
        RunFile(self.out, {"input": str(self.input)}, {}).note()
        self.count = 0

    def picture(self, name):
        path = self.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.count += 1
        Image.new("RGB", (6, 4), (self.count * 20, 0, 0)).save(path)

    def add(self, *names, caption="A caption of {}, „quoted“ \"twice\"\nand on two lines.", **more):
        with checkpoint.open(self.out, {}) as record:
            rows = []
            for name in names:
                image = name.partition("#")[0]
                if not (self.input / image).exists():
                    self.picture(image)
                item = Item(self.count, name, image, "", self.count, retries=(Change("loop", "seed 1 -> 2"),))
                rows.append((name, caption_row(item, result(caption.format(name), **more))))
            record.append(CAPTIONS, rows)

    def withdraw(self, *names):
        with checkpoint.open(self.out, {}) as record:
            record.withdraw(CAPTIONS, list(names))

    def rows(self):
        return captions(self.out)

    def export(self, *words):
        return main([str(self.out), "--to", *map(str, words)])

    def files(self, name):
        """What an export holds: path -> content."""
        folder = self.out / "exports" / name
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def job(tmp_path):
    job = Job(tmp_path)
    job.add(*NAMES)
    return job


# ---- the real libraries ----


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path_factory.mktemp("cache"))}
    return pytest.importorskip("datasets")


def loaded(datasets, kind, **where):
    return datasets.load_dataset(kind, split="train", **where)


def test_parquet_is_read_by_pyarrow_and_datasets(job, datasets):
    import pyarrow.dataset

    job.add("x.jpg", caption="cut", raw="cut off", flags=("cut-off",))
    assert job.export("parquet", "--shard-size", 4) == 0
    folder = job.out / "exports" / "parquet"
    table = pyarrow.dataset.dataset(folder).to_table()
    assert len(list(folder.iterdir())) == 3, "11 rows in files of 4"
    missing = dict.fromkeys(("prompt", "prompt_name", "raw", "lora", "lora_scale", "twin_of", "extra"))
    wanted = [missing | row for row in job.rows().values()]
    assert table.to_pylist() == wanted
    assert loaded(datasets, "parquet", data_files=str(folder / "*.parquet"))["caption"] == table["caption"].to_pylist()


@pytest.mark.parametrize(("name", "kind"), [("csv", "csv"), ("jsonl", "json")])
def test_csv_and_jsonl_are_read_by_datasets(job, datasets, name, kind):
    assert job.export(name) == 0
    read = loaded(datasets, kind, data_files=str(job.out / "exports" / name / f"captions.{name}"))
    rows = job.rows()
    assert read["id"] == list(rows) and read["caption"] == [row["caption"] for row in rows.values()]


def test_an_imagefolder_is_read_by_datasets_with_each_caption_on_its_picture(job, datasets):
    assert job.export("imagefolder", "--column", "prompt") == 0
    read = loaded(datasets, "imagefolder", data_dir=str(job.out / "exports" / "imagefolder"))
    assert sorted(read["prompt"]) == sorted(row["caption"] for row in job.rows().values())
    for example in read:
        name = example["prompt"].split()[3].rstrip(",")
        with Image.open(job.input / name) as picture:
            assert example["image"].convert("RGB").tobytes() == picture.convert("RGB").tobytes()


def test_an_imagefolder_can_be_the_input_itself(job, datasets):
    assert job.export("imagefolder", "--beside") == 0
    assert len(loaded(datasets, "imagefolder", data_dir=str(job.input))["text"]) == len(NAMES)


def test_an_imagefolder_in_the_input_names_the_files_as_they_are(tmp_path, capsys):
    job = Job(tmp_path)
    job.add("%25C3.png", "sub/a.png", str(job.input / "b.png"), str(tmp_path / "c.png"), "../d.png")
    (job.input / "%25C3.png").rename(job.input / "%C3.png")
    assert job.export("imagefolder", "--beside") == 0
    lines = (job.input / "metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["file_name"] for line in lines] == ["%C3.png", "sub/a.png", "b.png"]
    assert "2 pictures are no files in" in (said := capsys.readouterr().out) and "3 captions written" in said


def test_webdataset_shards_of_one_ending_are_read_by_datasets(tmp_path, datasets):
    job = Job(tmp_path)
    job.add("a/1.jpg", "a/2.JPG", "3.jpg", caption="Row {}.")
    job.picture("4.jpg")
    os.rename(job.input / "4.jpg", job.input / "4.jpeg")
    job.add("4.jpeg", caption="Row {}.", raw="Row", flags=("loop",))
    assert job.export("webdataset", "--shard-size", 2) == 0
    shards = sorted(str(path) for path in (job.out / "exports" / "webdataset").iterdir())
    read = loaded(datasets, "webdataset", data_files=shards)
    assert read["txt"] == [f"Row {name}." for name in job.rows()] and read["jpg"][3].size == (6, 4)


def test_webdataset_shards_are_read_by_webdataset(job):
    webdataset = pytest.importorskip("webdataset")
    assert job.export("webdataset", "--shard-size", 4) == 0
    shards = sorted((job.out / "exports" / "webdataset").iterdir())
    assert [shard.name for shard in shards] == ["00000.tar", "00001.tar", "00002.tar"]
    seen = {}
    for sample in webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False).decode("pil"):
        seen[sample["json"]["id"]] = sample
    rows = job.rows()
    assert set(seen) == set(rows)
    for id, sample in seen.items():
        picture = sample["jpg" if id.endswith("jpg") else "png"]
        with Image.open(job.input / id) as original:
            assert picture.tobytes() == original.convert("RGB").tobytes()
        assert sample["txt"] == rows[id]["caption"] and sample["json"] == flat_row(rows[id])
        assert sample["__key__"] == id.rpartition(".")[0], "the key is kept"


def test_keys_of_twins_and_of_names_with_dots_are_their_own(tmp_path):
    job = Job(tmp_path)
    job.add("a.jpg", "a.png", "a.v2.jpg", "A.jpg", "b.jpg#short", "b.jpg#long")
    assert job.export("webdataset") == 0
    keys = keys_of(job.out / "exports" / "webdataset" / "00000.tar")
    assert len({key.lower() for key in keys}) == 6 and not any("." in key for key in keys)


def keys_of(shard):
    with tarfile.open(shard) as archive:
        return [name.removesuffix(".json") for name in archive.getnames() if name.endswith(".json")]


def test_keys_of_shards_are_kept_and_told_apart_where_they_clash_in_one(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    (tmp_path / "in").mkdir()
    picture = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(picture, "PNG")
    with webdataset.ShardWriter(f"{tmp_path}/in/%d.tar", maxcount=3, verbose=0) as writer:
        for key in ("v1.0/dog", "cat", "bird", "v2.0/dog", "cat", "../../up"):  # the second three in the second shard
            writer.write({"__key__": key, "PNG": picture.getvalue(), "seg.png": picture.getvalue(), "cls": 1})
    out = tmp_path / "out"
    done = run(tmp_path / "in", "--output", out, "--model", "null", "--image-column", "png", "--id-column", "__key__")
    assert done.returncode == 0, done.stderr
    assert list(captions(out)) == ["v1.0/dog", "cat", "bird", "v2.0/dog", "cat~2", "../../up"]
    assert main([str(out), "--to", "webdataset"]) == 0
    shard = out / "exports" / "webdataset" / "00000.tar"
    assert keys_of(shard) == ["v1.0/dog", "cat", "bird", "v2.0/dog", "cat-PNG", "up"]
    read = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in read] == keys_of(shard) and read[0]["png"].size == (6, 4)
    assert main([str(out), "--to", "webdataset", "--target", str(tmp_path / "each"), "--shard-size", "3"]) == 0
    assert keys_of(tmp_path / "each" / "00001.tar") == ["v2.0/dog", "cat", "up"]


# ---- again, after a crash, after rows were taken out ----


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_new_is_added_and_all_is_as_if_written_at_once(tmp_path, name):
    size = ("--shard-size", "4")
    (tmp_path / "steps").mkdir()
    (tmp_path / "once").mkdir()
    steps, once = Job(tmp_path / "steps"), Job(tmp_path / "once")
    for names in (NAMES[:3], NAMES[3:4], NAMES[4:9], NAMES[9:]):
        steps.add(*names)
        assert steps.export(name, *size) == 0 and steps.export(name, *size) == 0
    once.add(*NAMES)
    assert once.export(name, *size) == 0
    assert steps.files(name) == once.files(name) != {}


@pytest.mark.parametrize("instant", range(4))
@pytest.mark.parametrize("name", FORMATS)
def test_a_crash_after_writing_and_before_noting_leaves_no_trace(job, monkeypatch, name, instant):
    assert job.export(name, "--shard-size", "4", "--target", job.out / "exports" / "wanted") == 0
    shutil.rmtree(job.out / "exports" / "txt", ignore_errors=True)
    for path in (job.out / "exports").glob("*.sqlite"):
        path.unlink()
    monkeypatch.setattr("caption.choose.selection.BLOCK", 3)
    calls, note = [], Ledger.note

    def dies(self, position, files, **state):
        calls.append(position)
        if len(calls) == instant + 3:  # some are of the beginning
            raise KeyboardInterrupt
        note(self, position, files, **state)

    monkeypatch.setattr(Ledger, "note", dies)
    job.export(name, "--shard-size", "4")
    monkeypatch.undo()
    assert job.export(name, "--shard-size", "4") == 0
    assert job.files(name) == job.files("wanted") != {}


def test_half_a_line_that_a_crash_left_is_cut(job):
    assert job.export("csv") == 0
    path = job.out / "exports" / "csv" / "captions.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + b'99.jpg,99.jpg,"half a ')
    assert job.export("csv") == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", FORMATS)
def test_rows_done_again_replace_the_old_ones_and_what_is_gone_is_taken_away(job, name):
    assert job.export(name, "--shard-size", "4") == 0
    job.withdraw(NAMES[2], NAMES[5])
    job.add(NAMES[5], caption="Another caption of {}.")
    assert job.export(name, "--shard-size", "4") == 0
    everything = b"".join(content for path, content in job.files(name).items() if not path.endswith((".jpg", ".png")))
    if name != "parquet":
        assert b"Another caption of" in everything
        assert everything.count(b"A caption of") == len(NAMES) - 2 or name == "webdataset"
    if name in ("txt", "caption", "json"):
        assert len(job.files(name)) == len(NAMES) - 1
    if name == "parquet":
        from pyarrow import dataset

        ids = dataset.dataset(job.out / "exports" / "parquet").to_table()["id"].to_pylist()
        assert sorted(ids) == sorted(set(NAMES) - {NAMES[2]})


def test_fewer_rows_take_away_the_parts_that_are_too_many(job):
    assert job.export("parquet", "--shard-size", "2") == 0
    job.withdraw(*NAMES[:6])
    assert job.export("parquet", "--shard-size", "2") == 0
    assert set(job.files("parquet")) == {"part-00000.parquet", "part-00001.parquet"}


def test_exports_to_two_places_know_nothing_of_each_other(job, tmp_path):
    for _ in range(2):
        assert job.export("txt") == 0 and job.export("txt", "--target", tmp_path / "elsewhere") == 0
        assert len(job.files("txt")) == len(list((tmp_path / "elsewhere").rglob("*.txt"))) == len(NAMES)


def test_after_all_rows_were_taken_out_nothing_is_left(job):
    assert job.export("txt") == 0 and job.export("csv") == 0 and job.export("parquet") == 0
    job.withdraw(*NAMES)
    assert job.export("txt") == 0 and job.export("csv") == 0 and job.export("parquet") == 0
    assert job.files("txt") == job.files("parquet") == {} and job.files("csv")["captions.csv"].count(b"\n") == 1


def test_other_options_write_all_anew(job):
    assert job.export("imagefolder") == 0
    assert job.export("imagefolder", "--column", "caption") == 0
    lines = (job.out / "exports" / "imagefolder" / "metadata.jsonl").read_text().splitlines()
    assert len(lines) == len(NAMES) and all("caption" in json.loads(line) for line in lines)


# ---- files of others ----


def test_a_file_that_is_not_the_exports_own_is_refused_until_told(job, capsys):
    path = job.out / "exports" / "csv" / "captions.csv"
    path.parent.mkdir(parents=True)
    path.write_text("mine\n")
    assert job.export("csv") == 2 and path.read_text() == "mine\n"
    assert "--overwrite" in capsys.readouterr().err
    assert job.export("csv", "--overwrite") == 0
    with path.open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == list(job.rows())
    path.write_text(path.read_text().replace("twice", "thrice"))
    assert job.export("csv") == 2, "it was changed since"


def test_a_part_that_is_not_the_exports_own_is_refused_until_told(job):
    path = job.out / "exports" / "webdataset" / "00001.tar"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert job.export("webdataset", "--shard-size", "4") == 2 and path.read_text() == "mine"
    assert job.export("webdataset", "--shard-size", "4", "--overwrite") == 0
    assert set(job.files("webdataset")) == {"00000.tar", "00001.tar", "00002.tar"}


def test_sidecars_of_others_and_edited_ones_stay_and_are_named(job, capsys):
    (job.input / "00.txt").write_text("mine")
    assert job.export("txt", "--beside") == 0
    assert (job.input / "00.txt").read_text() == "mine"
    assert "1 files are not this export's own" in (said := capsys.readouterr().out) and "00.txt" in said
    edited = job.input / "deep" / "01.txt"
    edited.write_text("by hand")
    job.withdraw(NAMES[1], NAMES[2])
    job.add(*NAMES[1:3], caption="Another of {}.")
    assert job.export("txt", "--beside") == 0
    assert edited.read_text() == "by hand" and (job.input / "deep" / "02.txt").read_text() == f"Another of {NAMES[2]}."
    job.withdraw(NAMES[1])
    assert job.export("txt", "--beside") == 0 and edited.read_text() == "by hand"
    job.add(NAMES[1])
    assert job.export("txt", "--beside", "--overwrite") == 0
    assert edited.read_text() == job.rows()[NAMES[1]]["caption"]


def test_twins_of_one_stem_share_no_sidecar_and_are_named(tmp_path, capsys):
    job = Job(tmp_path)
    job.add("a.jpg", "a.png", "b.jpg#short", "b.jpg#long")
    for _ in range(2):
        assert job.export("caption") == 0
        files = job.files("caption")
        assert set(files) == {"a.caption", "b.short.caption", "b.long.caption"}
        assert files["a.caption"].decode() == job.rows()["a.jpg"]["caption"]
    assert "1 pictures share their stem with another one" in capsys.readouterr().out


def test_names_of_any_bytes_and_places_outside(tmp_path, capsys):
    job = Job(tmp_path)
    odd = os.fsencode(str(job.input)) + b"/caf\xe9.png"
    job.picture("x.png")
    os.rename(job.input / "x.png", odd)
    with checkpoint.open(job.out, {}) as record:
        for name in ("caf%E9.png", "../outside.png"):
            record.append(CAPTIONS, [(name, caption_row(Item(0, name, name, "", 0), result("Odd.")))])
    assert job.export("txt", "--beside") == 0
    assert Path(os.fsdecode(odd[:-3] + b"txt")).read_text() == "Odd."
    assert job.export("txt") == 0 and set(job.files("txt")) == {"caf%E9.txt"}
    assert job.export("webdataset") == 0
    assert "../outside.png" in capsys.readouterr().out


@pytest.mark.parametrize("name", FORMATS)
def test_an_output_folder_may_have_any_bytes_as_its_name(tmp_path, name):
    job = Job(tmp_path)
    job.add("a.png")
    out = job.out.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    assert [main([str(out), "--to", name]) for _ in range(2)] == [0, 0]


def test_another_picture_in_the_place_of_a_link_gets_no_caption(job, capsys):
    place = job.out / "exports" / "imagefolder" / "00.png"
    place.parent.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(place)
    assert job.export("imagefolder") == 0
    names = [json.loads(line)["file_name"] for line in (place.parent / "metadata.jsonl").read_text().splitlines()]
    assert "00.png" not in names and len(names) == len(NAMES) - 1
    assert "00.png" in capsys.readouterr().out


# ---- what is said ----


def test_flagged_captions_can_be_left_out(job, capsys):
    job.add("x.jpg", flags=("loop",), caption="x x x")
    assert job.export("jsonl", "--without", "loop,echo") == 0
    assert b"x x x" not in job.files("jsonl")["captions.jsonl"]
    assert "10 captions written, 1 left out by their flags" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [(("txt", "--beside", "--target", "x"), "exclude"), (("csv", "--beside"), "--beside is not for csv"),
     (("csv", "--without", "loops"), "loops"), (("parquet", "--shard-size", "0"), "less than 1")],
)  # fmt: skip
def test_wrong_use_is_one_sentence(job, capsys, words, said):
    assert job.export(*words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_folder_that_is_no_job_is_wrong_use(tmp_path, capsys):
    assert main([str(tmp_path), "--to", "csv"]) == 2 and "no output folder" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing"), "--to", "csv"]) == 2


def test_two_exports_of_one_kind_at_once_are_refused(job, capsys):
    ledger = Ledger(job.out / "exports" / "csv.sqlite")
    assert job.export("csv") == 4 and "another export" in capsys.readouterr().err
    ledger.close()
    assert job.export("csv") == 0


def test_only_committed_rows_are_exported(job):
    with (job.out / CAPTIONS).open("ab") as file:
        file.write(b'{"id": "not yet')
    assert job.export("jsonl") == 0
    assert job.files("jsonl")["captions.jsonl"].count(b"\n") == len(NAMES)


def test_nothing_captioned_is_an_empty_export(tmp_path):
    job = Job(tmp_path)
    with checkpoint.open(job.out, {}) as record:
        record.append(FAILED, [("a.jpg", b'{"id":"a.jpg"}')])
    for name in FORMATS:
        assert job.export(name) == 0


def test_every_format_stands_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert [name for name in FORMATS if f"`{name}`" not in readme] == []


# ---- during a run ----


def test_formats_are_written_during_the_run_and_whole_at_its_end(tmp_path):
    names = empty_pictures(tmp_path / "in", 300)
    job = (tmp_path / "in", "--output", tmp_path / "out", "--model", "null", "--checkpoint-every", "50")
    done = run(*job, "--format", "csv,txt:beside,txt", "--format", "parquet")
    assert done.returncode == 0, done.stderr
    assert "Export csv: 300 captions written" in done.stdout
    for folder in (tmp_path / "in", tmp_path / "out" / "exports" / "txt"):
        assert [(folder / name).with_suffix(".txt").read_text() for name in names] == names
    with (tmp_path / "out" / "exports" / "csv" / "captions.csv").open() as file:
        assert sorted(row["id"] for row in csv.DictReader(file)) == names
    empty_pictures(tmp_path / "in", 3, "more")
    assert run(*job, "--format", "csv").returncode == 0
    with (tmp_path / "out" / "exports" / "csv" / "captions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 303


def test_a_kill_in_the_middle_of_a_run_and_its_export_loses_and_repeats_nothing(tmp_path):
    names = empty_pictures(tmp_path / "in", 600)
    job = (tmp_path / "in", "--output", tmp_path / "out", "--model", "null:4", "--checkpoint-every", "40")
    for rows, kill in ((120, kill_group), (300, subprocess.Popen.kill)):  # all, or the run without its exports
        process = start(*job, "--format", "csv,jsonl,caption")
        wait_for_rows(tmp_path / "out", rows)
        kill(process)
        process.wait()
    done = run(*job, "--format", "csv,jsonl,caption")
    assert done.returncode == 0, done.stderr
    exports = tmp_path / "out" / "exports"
    with (exports / "csv" / "captions.csv").open() as file:
        assert sorted(row["id"] for row in csv.DictReader(file)) == names
    lines = (exports / "jsonl" / "captions.jsonl").read_text().splitlines()
    assert lines == (tmp_path / "out" / CAPTIONS).read_text().splitlines()
    assert sorted(path.name for path in (exports / "caption").iterdir()) == [name[:-3] + "caption" for name in names]


def test_an_export_that_breaks_down_costs_the_run_nothing_and_is_told(tmp_path):
    empty_pictures(tmp_path / "in", 30)
    taken = tmp_path / "out" / "exports" / "csv" / "captions.csv"
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    done = run(tmp_path / "in", "--output", tmp_path / "out", "--model", "null", "--format", "csv,txt")
    assert done.returncode == 2 and len(captions(tmp_path / "out")) == 30
    assert "The export to csv is not whole" in done.stdout and taken.read_text() == "mine"
    assert len(list((tmp_path / "out" / "exports" / "txt").iterdir())) == 30


def test_a_ctrl_c_is_for_the_run_and_the_export_still_ends_in_order(tmp_path):
    empty_pictures(tmp_path / "in", 400)
    process = start(tmp_path / "in", "--output", tmp_path / "out", "--model", "null:10", "--format", "csv")
    wait_for_rows(tmp_path / "out", 30)
    os.killpg(process.pid, 2)
    said, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error
    rows = captions(tmp_path / "out")
    assert f"Export csv: {len(rows)} captions written" in said


def test_an_export_from_a_process_of_its_own(job):
    done = subprocess.run(command(job.out, "--to", "jsonl", module="caption.export"), env=environment(), cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0 and "10 captions written" in done.stdout, done.stderr



# ---- pictures that are no files ----


@pytest.fixture
def packed(tmp_path):
    """Makes the run of a data set whose pictures lie in a tar or in a table; gives OUT and the pictures in order."""

    def make(kind):
        colours = {f"{name}.png": (40 * place, 90, 10) for place, name in enumerate("abc", 1)}
        folder = tmp_path / kind
        folder.mkdir()
        contents = {}
        for name, colour in colours.items():
            kept = io.BytesIO()
            Image.new("RGB", (9, 7), colour).save(kept, "PNG")
            contents[name] = kept.getvalue()
        if kind == "tar":
            path = folder / "shard.tar"
            with tarfile.open(path, "w") as shard:
                for name, content in contents.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
        else:
            parquet = pytest.importorskip("pyarrow.parquet")
            table = pytest.importorskip("pyarrow").table({"image": list(contents.values())})
            path = folder / "rows.parquet"
            parquet.write_table(table, path)
        out = folder / "out"
        done = run(path, "--output", out, "--model", "null")
        assert done.returncode == 0, done.stderr
        return out, list(contents.values())

    return make


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_pictures_inside_of_archives_go_into_shards_and_image_folders_with_their_captions(packed, kind, capsys):
    out, contents = packed(kind)
    words = [row["caption"] for row in sorted(captions(out).values(), key=lambda row: row["seed"])]
    assert main([str(out), "--to", "webdataset"]) == 0
    with tarfile.open(out / "exports" / "webdataset" / "00000.tar") as shard:
        made = {member.name: shard.extractfile(member).read() for member in shard}
    pictures = {data: name.removesuffix("png") for name, data in made.items() if name.endswith(".png")}
    assert [made[f"{pictures[content]}txt"].decode() for content in contents] == words
    assert main([str(out), "--to", "imagefolder"]) == 0
    target = out / "exports" / "imagefolder"
    lines = [json.loads(line) for line in (target / "metadata.jsonl").read_text().splitlines()]
    assert {(target / line["file_name"]).read_bytes(): line["text"] for line in lines} == dict(zip(contents, words))
    assert main([str(out), "--to", "imagefolder", "--overwrite"]) == 0
    capsys.readouterr()
    for name in ("txt", "imagefolder"):
        assert main([str(out), "--to", name, "--beside"]) == 0
        assert "3 pictures are no files" in (said := capsys.readouterr().out) and "0 captions written" in said
    assert not list(out.parent.glob("*.txt")) and not (out.parent / "metadata.jsonl").read_text()


def test_pictures_whose_paths_count_from_a_table_in_a_deeper_folder_are_found(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    (tmp_path / "in" / "sub").mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(tmp_path / "in" / "sub" / "a.png")
    parquet.write_table(pyarrow.table({"image": ["a.png"]}), tmp_path / "in" / "sub" / "rows.parquet")
    asked = ("--output", tmp_path / "out", "--model", "null", "--input-format", "parquet")
    assert run(tmp_path / "in", *asked).returncode == 0
    assert main([str(tmp_path / "out"), "--to", "txt", "--beside"]) == 0
    assert (tmp_path / "in" / "sub" / "a.txt").read_text() == "a.png"
    assert main([str(tmp_path / "out"), "--to", "imagefolder"]) == 0
    assert (tmp_path / "out" / "exports" / "imagefolder" / "a.png").is_file()
