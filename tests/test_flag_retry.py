"""Flags in a run: a flagged caption is kept, tried again with something different, or failed; nothing is lost."""


from caption.guard.actions import parse_actions
from caption.item import Change, Item
from caption.retry import next_flagged_try, next_try
from caption.settings import Settings
from tests.runs import captions, empty_pictures, failures, kill_group, run, start, wait_for_rows

ITEM = Item(7, "a.png", "a.png", "/in/a.png", 49)
RETRY_ALL = parse_actions("cut-off=retry,refusal=retry")
LOOPING = "very " * 12 + ".jpg"  # the do-nothing engine answers with the name


def tries(flags, item=ITEM, actions=RETRY_ALL, pixels=800, **options):
    settings, made = Settings(max_pixels=1000, **options), []
    while item := next_flagged_try(item, flags, actions, settings, pixels):
        made.append(item)
        assert len(made) < 20
    return made


def test_a_greedy_caption_is_tried_again_with_fewer_pixels_each_time():
    made = tries(["empty"], max_retries=2)
    assert [item.max_pixels for item in made] == [600, 450]
    assert made[-1].retries == (Change("empty", "max_pixels 800 -> 600"), Change("empty", "max_pixels 600 -> 450"))
    assert (made[-1].seed, made[-1].attempts) == (49, 2)


def test_a_greedy_loop_is_tried_again_with_a_larger_repetition_penalty_each_time():
    made = tries(["loop"], max_retries=3)
    assert [item.penalty for item in made] == [1.1, 1.21, 1.331]
    assert [change.changed for change in made[1].retries] == [
        "repetition_penalty times 1 -> times 1.1", "repetition_penalty times 1.1 -> times 1.21"
    ]  # fmt: skip
    assert made[-1].max_pixels is None and made[-1].seed == 49


def test_a_sampled_caption_gets_another_seed_that_no_other_image_has():
    made = tries(["loop"], temperature=0.7, max_retries=2)
    assert len({item.seed for item in made} | {49}) == 3
    assert all(item.seed - 49 >= 2**40 and item.max_pixels is None for item in made)
    assert made[0].retries[0].changed == f"seed 49 -> {made[0].seed}"


def test_a_cut_caption_may_be_twice_as_long():
    made = tries(["cut-off"], max_new_tokens=100, max_retries=2)
    assert [item.max_new_tokens for item in made] == [200, 400]
    assert made[0].retries == (Change("cut-off", "max_new_tokens 100 -> 200"),)


def test_only_flags_that_ask_for_it_are_tried_again():
    assert tries(["echo"]) == [] and tries([]) == []
    assert tries(["loop"], actions=parse_actions("loop=keep")) == []
    assert tries(["echo", "refusal"], max_retries=1)[0].retries[0].reason == "refusal"


def test_failures_and_flags_are_counted_apart_so_that_a_crash_changes_no_caption():
    settings = Settings(max_retries=1, max_pixels=1000)
    died = next_try(ITEM, "WorkerDied", settings)
    again = next_flagged_try(died, ["loop"], RETRY_ALL, settings, 800)
    assert again.penalty == tries(["loop"], max_retries=1)[0].penalty and again.attempts == 2
    assert next_try(again, "WorkerDied", settings) is None
    flagged = tries(["loop"], max_retries=1)[0]
    assert next_try(flagged, "WorkerDied", settings) is not None


def test_a_loop_that_stays_is_kept_with_its_flag_and_its_tries(tmp_path):
    empty_pictures(tmp_path / "in", 20)
    (tmp_path / "in" / LOOPING).touch()
    done = run(tmp_path / "in", "--output", tmp_path / "out", "--model", "null", "--max-retries", "2", "--workers", "2")
    assert done.returncode == 0, done.stderr
    rows = captions(tmp_path / "out")
    assert len(rows) == 21 and rows["000003.jpg"]["attempts"] == 1
    row = rows[LOOPING]
    assert (row["flags"], row["attempts"], row["caption"]) == (["loop"], 3, LOOPING)
    assert [retry["reason"] for retry in row["retries"]] == ["loop", "loop"]
    assert "Flags: 1 loop." in done.stdout


def without_seconds(out):
    return {id: {**row, "seconds": 0} for id, row in captions(out).items()}


def test_tries_after_a_flag_end_under_every_schedule_with_the_same_rows(tmp_path):
    for word in ("no", "very", "so"):
        empty_pictures(tmp_path / "in", 15, f"{word} " * 12)
    empty_pictures(tmp_path / "in", 15)
    job = (tmp_path / "in", "--model", "null", "--max-retries", "2", "--batch-size", "4")
    done = run(*job, "--output", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    rows = without_seconds(tmp_path / "one")
    assert len(rows) == 60 and sum(row["attempts"] == 3 for row in rows.values()) == 45
    for schedule in ("dynamic", "round-robin", "lockstep"):
        done = run(*job, "--output", tmp_path / schedule, "--workers", "2", "--schedule", schedule)
        assert done.returncode == 0, done.stderr
        assert without_seconds(tmp_path / schedule) == rows, schedule


def test_a_kill_between_the_tries_changes_no_row(tmp_path):
    empty_pictures(tmp_path / "in", 150, "very " * 12)
    job = (tmp_path / "in", "--model", "null:3", "--batch-size", "4", "--workers", "2")
    assert run(*job, "--output", tmp_path / "whole").returncode == 0
    for rows in (20, 70):
        process = start(*job, "--output", tmp_path / "killed")
        wait_for_rows(tmp_path / "killed", rows)
        kill_group(process)
    assert run(*job, "--output", tmp_path / "killed").returncode == 0
    assert without_seconds(tmp_path / "killed") == without_seconds(tmp_path / "whole")


def test_a_try_that_fails_leaves_the_flagged_caption_and_says_so(tmp_path):
    name = "poison " + LOOPING
    empty_pictures(tmp_path / "in", 6)
    (tmp_path / "in" / name).touch()
    job = (tmp_path / "in", "--output", tmp_path / "out", "--model", "null", "--max-retries", "1")
    done = run(*job, fault="error after the first", FAULT_MARKER=str(tmp_path / "marker"))
    assert done.returncode == 0, done.stderr
    row = captions(tmp_path / "out")[name]
    assert (row["flags"], row["caption"], row["attempts"]) == (["loop"], name, 3)
    assert [retry["reason"] for retry in row["retries"]] == ["loop", "EngineFailed"]
    assert failures(tmp_path / "out") == {}


def test_a_flag_can_fail_an_image_and_retry_failed_does_it_again(tmp_path):
    empty_pictures(tmp_path / "in", 3)
    (tmp_path / "in" / LOOPING).touch()
    out = tmp_path / "out"
    job = (tmp_path / "in", "--output", out, "--model", "null", "--on-flag", "loop=fail", "--on-flag", "empty=keep")
    for more in ((), ("--retry-failed",)):
        done = run(*job, *more)
        assert done.returncode == 0, done.stderr
        row = failures(out)[LOOPING]
        assert row["error"] == "Flagged" and "loop" in row["message"] and row["attempts"] == 1
        assert len(captions(out)) == 3
    assert run(*job[:-2]).returncode == 4, "what is done on a flag can change captions"


def test_a_wrong_action_is_one_sentence(tmp_path):
    for wrong in ("loop=drop", "lop=keep"):
        done = run(tmp_path, "--output", tmp_path / "out", "--on-flag", wrong)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--on-flag" in done.stderr


def test_prefix_suffix_and_preamble_reach_the_rows_with_the_untouched_text(tmp_path):
    empty_pictures(tmp_path / "in", 2, "The image shows a dog ")
    done = run(
        tmp_path / "in", "--output", tmp_path / "out", "--model", "null", "--strip-preamble", "--prefix", "ohwx, ",
        "--suffix", "!",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = captions(tmp_path / "out")["The image shows a dog 000000.jpg"]
    assert row["caption"] == "ohwx, A dog 000000.jpg!" and row["raw"] == "The image shows a dog 000000.jpg"
