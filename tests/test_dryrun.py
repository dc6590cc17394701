"""--dry-run: what it prints is what a run then does, and it leaves no trace."""

import json
import os
import re
import signal

import pytest

from caption import estimate, summary
from caption.figures import in_bytes
from caption.item import Item
from caption.schedule import make_schedule
from tests.runs import captions, empty_pictures, failures, kill_group, run, start, wait_for_rows


@pytest.fixture
def pictures(tmp_path):
    empty_pictures(tmp_path / "in", 50)
    return tmp_path / "in"


def tree(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def shares(text):
    """Of each worker: how many images, and the positions of the first."""
    found = {}
    for name, count, first in re.findall(r"^(cpu\d+) +([\d,]+) images?(?:, first (.*?)(?: \(.*)?)?$", text, re.M):
        positions = [int(position.split()[0]) for position in first.split(", ") if position]
        found[name] = int(count.replace(",", "")), positions
    return found


@pytest.mark.parametrize(
    ("schedule", "first"),
    [("dynamic", [[0, 1, 2], [9, 10, 11], [18, 19, 20]]), ("round-robin", [[0, 6, 12], [1, 7, 13], [2, 8, 14]]),
     ("lockstep", [[0, 6, 12], [1, 7, 13], [2, 8, 14]])],
)  # fmt: skip
def test_50_images_on_6_workers_as_documented_by_dry_run_and_banner(pictures, tmp_path, schedule, first):
    command = (pictures, "--output", tmp_path / "out", "--model", "null", "--workers", 6, "--schedule", schedule)
    planned = run(*command, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert not (tmp_path / "out").exists()
    assert "To do   50 images" in planned.stdout
    dealt = shares(planned.stdout)
    assert [count for count, _ in dealt.values()] == [9, 9, 8, 8, 8, 8]
    assert [positions for _, positions in dealt.values()][:3] == first
    done = run(*command)
    assert shares(done.stdout) == dealt


def test_what_would_be_skipped_is_counted_named_and_then_skipped(tmp_path):
    folder = tmp_path / "in"
    names = empty_pictures(folder, 12)
    (folder / names[3]).with_suffix(".txt").touch()
    rows = [{"image": name} for name in names] + [{"image": "https://x/y.jpg"}, {"image": None}]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nno json\n")
    command = (folder / "rows.jsonl", "--output", tmp_path / "out", "--model", "null", "--skip-existing", ".txt")
    run(*command, "--limit", 3)
    before = tree(tmp_path)
    planned = run(*command, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert tree(tmp_path) == before
    assert "Skipped 3 done before: 000000.jpg, 000001.jpg, 000002.jpg\n" in planned.stdout
    assert "Skipped 1 with a file beside them (--skip-existing): 000003.jpg\n" in planned.stdout
    assert re.search(r"Skipped 3 failing rows.*: https://x/y.jpg \(NotLocal: .*rows.jsonl:14 \(BadRow", planned.stdout)
    assert "To do   8 images" in planned.stdout
    done = run(*command)
    assert "8 captioned" in done.stdout and "3 failed" in done.stdout and "3 done before" in done.stdout


def test_ignored_files_are_named_in_folders_and_tars(pictures, tmp_path):
    import tarfile

    (pictures / "deep").mkdir()
    for name in ("a.txt", "deep/b.svg", "deep/c", "d.mp4"):
        (pictures / name).touch()
    planned = run(pictures, "--output", tmp_path / "out", "--model", "null", "--dry-run")
    line = next(line for line in planned.stdout.splitlines() if line.startswith("Skipped"))
    assert line.startswith("Skipped 4 other files, ignored: ") and line.endswith(", …")
    assert len(set(line.partition(": ")[2].split(", ")) & {"a.txt", "deep/b.svg", "deep/c", "d.mp4"}) == 3
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        archive.add(pictures / "000000.jpg", "x.jpg")
        archive.add(pictures / "a.txt", "alone.txt")
    planned = run(tmp_path / "shard.tar", "--output", tmp_path / "out", "--model", "null", "--dry-run")
    assert "Skipped 1 other files, ignored: shard.tar/alone.txt\n" in planned.stdout


def test_equal_pictures_are_skipped_under_dedupe(pictures, tmp_path):
    for number in range(50):
        (pictures / f"{number:06}.jpg").write_bytes(bytes([number % 40]))
    planned = run(pictures, "--output", tmp_path / "out", "--model", "null", "--dry-run", "--dedupe")
    assert "Skipped 10 equal to an earlier one" in planned.stdout
    assert "000040.jpg, 000041.jpg, 000042.jpg, …" in planned.stdout and "To do   40 images" in planned.stdout


def test_what_a_killed_run_left_uncommitted_counts_as_done_because_it_is_adopted(pictures, tmp_path):
    command = (pictures, "--output", tmp_path / "out", "--model", "null:30", "--batch-size", 1)
    first = start(*command)
    wait_for_rows(tmp_path / "out", 5)
    kill_group(first)
    with (tmp_path / "out" / "captions.jsonl").open("ab") as file:
        file.write(b'{"id": "000049.jpg", "capt')
    whole = (tmp_path / "out" / "captions.jsonl").read_bytes().count(b"\n")
    planned = run(*command, "--dry-run")
    assert f"Skipped {whole} done before" in planned.stdout and f"To do   {50 - whole} images" in planned.stdout
    assert f"{whole} done before" in run(*command).stdout.splitlines()[-1]


def test_what_would_be_done_again_is_counted_and_nothing_is_taken_out(pictures, tmp_path):
    (tmp_path / "rows.txt").write_text("\n".join(["in/000000.jpg", "https://x/y.jpg", "in/000001.jpg"]))
    (tmp_path / "ids.txt").write_text("in/000001.jpg\n")
    command = (tmp_path / "rows.txt", "--output", tmp_path / "out", "--model", "null")
    run(*command)
    before = tree(tmp_path)
    planned = run(*command, "--dry-run", "--redo", tmp_path / "ids.txt")
    assert "To do   1 image, 1 of them again" in planned.stdout and "first 2 in/000001.jpg" in planned.stdout
    planned = run(*command, "--dry-run", "--retry-failed")
    assert "Skipped 1 failing rows" in planned.stdout and "Skipped 2 done before" in planned.stdout
    wrong = run(*command, "--dry-run", "--redo", "loops")
    assert wrong.returncode == 2 and "loop is the nearest" in wrong.stderr
    assert tree(tmp_path) == before


def test_time_and_space_come_from_earlier_runs_and_are_not_made_up_without_them(pictures, tmp_path):
    command = (pictures, "--output", tmp_path / "out", "--model", "null:20", "--workers", 2)
    planned = run(*command, "--dry-run")
    assert "Time    not known" in planned.stdout and "0 bytes of pictures" in planned.stdout
    assert "Space   at most about " in planned.stdout
    run(*command, "--limit", 20)
    planned = run(*command, "--dry-run", "--workers", 1)
    totals = json.loads((tmp_path / "out" / "run.json").read_text())["runs"][0]["totals"]
    rate = totals["captioned"] / totals["seconds"] / 2
    assert f"at {rate:.0f}/s by the run of " in planned.stdout
    assert "(20 images); 2 workers then, 1 now" in planned.stdout
    written = (tmp_path / "out" / "captions.jsonl").stat().st_size / 20
    assert f"of {written:.0f} bytes each as those so far" in planned.stdout


def test_a_killed_run_tells_its_rate_by_its_figures(tmp_path):
    rows = [{"time": 100.0 + second, "images": 30 * second, "images_per_second": 30.0} for second in range(1, 6)]
    rows += [{"time": 5000.0, "images": 10}, {"time": 5001.0, "images": 40}]  # another run, much later
    lines = [json.dumps(row) + "\n" + json.dumps({"time": row["time"], "worker": "gpu0"}) for row in rows]
    (tmp_path / "stats.jsonl").write_text("\n".join(lines) + '\n{"time": 50')
    assert estimate.earlier_rate(tmp_path) == (30.0, 1, "the latest figures in stats.jsonl")
    (tmp_path / "run.json").write_text("no json")
    assert estimate.earlier_rate(tmp_path).images_a_second == 30.0
    assert estimate.earlier_rate(tmp_path / "nowhere") is None


def test_the_largest_run_that_ended_tells_the_rate(tmp_path):
    runs = [
        {"begin": "A", "seats": [1, 2], "totals": {"captioned": 100, "seconds": 10.0}},
        {"begin": "B", "seats": [1], "totals": {"captioned": 1, "seconds": 10.0}},
        {"begin": "C", "seats": [1]},
        {"begin": "D", "seats": [1], "totals": {"captioned": 0, "seconds": 0.0}},
    ]
    (tmp_path / "run.json").write_text(json.dumps({"fingerprint": {}, "runs": runs}))
    assert estimate.earlier_rate(tmp_path) == (10.0, 2, "the run of A (100 images)")


def test_a_file_name_with_a_newline_makes_no_line_of_its_own():
    schedule = make_schedule("dynamic", ["cpu0"], 8)
    schedule.extend([Item(0, "a\nFinished: 9.jpg", "", "", 0)])
    assert summary.shares(schedule, [1], with_ids=True) == r"cpu0    1 image, first 0 a\nFinished: 9.jpg"


def test_sizes_in_words():
    assert [in_bytes(count) for count in (0, 999, 999.7, 1200, 34e9, 5e15)] == [
        "0 bytes", "999 bytes", "1.0 kB", "1.2 kB", "34 GB", "5.0 PB",
    ]  # fmt: skip


def test_the_whole_input_is_counted_however_long_it_is(tmp_path):
    (tmp_path / "rows.txt").write_text("".join(f"{number}.jpg\n" for number in range(70_001)))
    planned = run(tmp_path / "rows.txt", "--output", tmp_path / "out", "--model", "null", "--workers", 2, "--dry-run")
    assert "70,001 images" in planned.stdout
    assert shares(planned.stdout)["cpu0"][0] == 35_001 and shares(planned.stdout)["cpu1"][0] == 35_000


def test_a_long_input_begins_before_it_is_read_and_the_banner_says_of_how_many_the_shares_are(tmp_path):
    (tmp_path / "rows.txt").write_text("".join(f"{number}.jpg\n" for number in range(100_000)))
    slow = ("--model", "null:50", "--batch-size", 1, "--workers", 2)
    process = start(tmp_path / "rows.txt", "--output", tmp_path / "out", *slow)
    wait_for_rows(tmp_path / "out", 1)
    os.killpg(process.pid, signal.SIGINT)
    stdout, _ = process.communicate(timeout=30)
    [read] = re.findall(r"Shares {2}of the first ([\d,]+) images", stdout)
    assert sum(count for count, _ in shares(stdout).values()) == int(read.replace(",", "")) < 100_000


def test_the_costliest_pictures_are_the_first_of_each_worker(tmp_path):
    rows = [{"image": f"{number}.jpg", "width": 28, "height": 28 * (number + 1)} for number in range(12)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = (tmp_path / "rows.jsonl", "--output", tmp_path / "out", "--model", "null", "--workers", 2, "--dry-run")
    planned = run(*command)
    assert "cpu0    6 images, first 11 11.jpg, 8 8.jpg, 7 7.jpg (the costliest)\n" in planned.stdout
    assert shares(planned.stdout)["cpu1"] == (6, [10, 9, 6])
    assert shares(run(*command, "--schedule", "round-robin").stdout)["cpu1"] == (6, [1, 3, 5])


def test_dry_run_of_no_pictures_and_of_another_job_are_refused_like_a_run(pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    refused = run(tmp_path / "empty", "--output", tmp_path / "out", "--model", "null", "--dry-run")
    assert refused.returncode == 2 and "no pictures" in refused.stderr
    run(pictures, "--output", tmp_path / "out", "--model", "null", "--limit", 2)
    refused = run(pictures, "--output", tmp_path / "out", "--model", "null", "--dry-run", "--seed", 5)
    assert refused.returncode == 4 and "its seed was" in refused.stderr
    assert len(captions(tmp_path / "out")) == 2 and not failures(tmp_path / "out")
