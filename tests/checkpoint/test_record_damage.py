"""Bytes that changed, went or came where nothing should: noticed and named, or harmless; never silently wrong."""

import shutil

import pytest
from jobs import CAPTIONS, FAILED, abandon, content, opened, reopened, row, rows

import checkpoint

pytestmark = pytest.mark.usefixtures("fake")  # spares the syncs
WHOLE = {CAPTIONS: dict(rows("a", "bé", "c")), FAILED: dict(rows("x"))}


@pytest.fixture
def small(out):
    with opened(out) as record:
        record.append(CAPTIONS, rows("a", "bé"))
        record.append(FAILED, rows("x"))
        record.commit()
        record.append(CAPTIONS, rows("c"))
    return out


def copies(folder, name, step=1):
    """Undamaged copies of the folder, one for each byte, or each step-th byte, of its file `name`."""
    for byte in range(0, (folder / name).stat().st_size, step):
        copy = folder.with_name("copy")
        shutil.copytree(folder, copy)
        yield byte, copy
        shutil.rmtree(copy)


@pytest.mark.parametrize("name", [CAPTIONS, FAILED, "checkpoint/rows.idx", "checkpoint/checkpoint.json"])
@pytest.mark.parametrize("flip", [0x01, 0xA0])
def test_every_flipped_byte_is_noticed_and_named(small, name, flip):
    for byte, copy in copies(small, name):
        data = bytearray((copy / name).read_bytes())
        data[byte] ^= flip
        (copy / name).write_bytes(data)
        with pytest.raises(checkpoint.Damaged) as caught:
            opened(copy)
        assert caught.value.file == copy / name
        if name == "checkpoint/checkpoint.json":
            assert caught.value.byte == 0
        elif name == "checkpoint/rows.idx":
            assert caught.value.byte == byte // 24 * 24
        else:
            assert caught.value.byte == data.rfind(b"\n", 0, byte) + 1
        assert checkpoint.check(copy)


@pytest.mark.parametrize("name", [CAPTIONS, FAILED, "checkpoint/rows.idx", "checkpoint/checkpoint.json"])
def test_every_truncation_of_what_is_committed_is_noticed(small, name):
    for size, copy in copies(small, name):
        with (copy / name).open("ab") as file:
            file.truncate(size)
        with pytest.raises(checkpoint.Damaged) as caught:
            opened(copy)
        assert caught.value.file == copy / name
        assert checkpoint.check(copy)


def test_every_truncation_of_what_is_not_committed_leaves_the_whole_rows(out):
    record = opened(out)
    record.append(CAPTIONS, rows("a", "b"))
    record.commit()
    record.append(CAPTIONS, rows("c", "d", "é"))
    abandon(record)
    lines = [line for _, line in rows("a", "b", "c", "d", "é")]
    ends = [sum(len(line) + 1 for line in lines[:count]) for count in range(6)]
    for size, copy in copies(out, CAPTIONS):
        if size >= ends[2]:
            with (copy / CAPTIONS).open("ab") as file:
                file.truncate(size)
            whole = sum(end <= size for end in ends[1:])
            assert list(reopened(copy)[CAPTIONS]) == ["a", "b", "c", "d", "é"][:whole]


@pytest.mark.parametrize("name", [CAPTIONS, "checkpoint/rows.idx"])
def test_a_missing_file_is_damage_not_an_empty_one(small, name):
    (small / name).unlink()
    with pytest.raises(checkpoint.Damaged, match="missing") as caught:
        opened(small)
    assert caught.value.file == small / name
    assert not (small / name).exists()


@pytest.mark.parametrize("also", [(), (CAPTIONS, "checkpoint/rows.idx")])
def test_a_missing_file_of_which_nothing_is_committed_is_an_empty_one(out, also):
    with opened(out) as record:
        record.append(CAPTIONS, rows("a") if not also else [])
    for name in (FAILED, *also):
        (out / name).unlink()
    assert checkpoint.check(out) == []
    assert checkpoint.read(out).done(["a"]).tolist() == [not also]
    assert checkpoint.repair(out) == []
    assert reopened(out) == {CAPTIONS: {} if also else dict(rows("a")), FAILED: {}}


@pytest.mark.parametrize("name", [CAPTIONS, FAILED, "checkpoint/rows.idx"])
@pytest.mark.parametrize("look", [opened, checkpoint.check])
def test_a_folder_in_the_place_of_a_file_is_no_damage_but_an_error(small, name, look):
    (small / name).unlink()
    (small / name).mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        look(small)
    assert caught.value.filename == str(small / name)


def test_damage_is_named_while_an_empty_row_file_is_missing(out):
    with opened(out) as record:
        record.append(CAPTIONS, rows("a", "b"))
    data = bytearray((out / CAPTIONS).read_bytes())
    data[20] ^= 1
    (out / CAPTIONS).write_bytes(data)
    (out / FAILED).unlink()
    assert any("row 1 at byte 0" in problem for problem in checkpoint.check(out))
    assert checkpoint.repair(out)
    assert reopened(out) == {CAPTIONS: dict(rows("b")), FAILED: {}}


def test_an_index_longer_than_committed_is_cut(small):
    with (small / "checkpoint/rows.idx").open("ab") as file:
        file.write(b"x" * 100)
    assert reopened(small) == WHOLE
    assert (small / "checkpoint/rows.idx").stat().st_size == 4 * 24


def test_a_withdrawal_does_not_carry_damage_over_into_a_new_file(small):
    """The new file would get a checksum of its own, and the damage would never show again."""
    with opened(small) as record:
        data = bytearray((small / CAPTIONS).read_bytes())
        data[20] ^= 1
        (small / CAPTIONS).write_bytes(data)
        with pytest.raises(checkpoint.Damaged):
            record.withdraw(CAPTIONS, ["c"])
    assert checkpoint.read(small).state.intent is None
    assert (small / CAPTIONS).read_bytes() == data
    with pytest.raises(checkpoint.Damaged):
        opened(small)


def test_check_names_every_damaged_row_and_no_other(small):
    data = bytearray((small / CAPTIONS).read_bytes())
    data[20] ^= 1
    data[-5] ^= 1
    (small / CAPTIONS).write_bytes(data)
    problems = checkpoint.check(small)
    third = len(data) - len(row("c")[1]) - 1
    assert len(problems) == 3
    assert "does not have the checksum" in problems[0]
    assert f"{CAPTIONS}, row 1 at byte 0:" in problems[1]
    assert f"{CAPTIONS}, row 3 at byte {third:,}:" in problems[2]


def test_check_tells_of_rows_beyond_the_last_commit_unless_a_run_is_at_it(out):
    record = opened(out)
    record.append(CAPTIONS, rows("a"))
    assert checkpoint.check(out) == record.check() == []
    abandon(record)
    with (out / CAPTIONS).open("ab") as file:
        file.write(b'{"id": ')
    taken, cut = checkpoint.check(out)
    assert "1 rows after byte 0 are not committed yet" in taken
    assert "7 bytes at its end are no whole row" in cut


# Repair ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CAPTIONS, "checkpoint/rows.idx", "checkpoint/checkpoint.json"])
@pytest.mark.parametrize("flip", [0x01, 0xA0])
def test_repair_of_a_flipped_byte_loses_no_more_than_its_row(small, name, flip):
    for byte, copy in copies(small, name, step=11 if name.endswith(".json") else 2):
        data = bytearray((copy / name).read_bytes())
        data[byte] ^= flip
        (copy / name).write_bytes(data)
        assert "copied" in checkpoint.repair(copy)[0]
        assert checkpoint.check(copy) == []
        found = content(copy)
        assert found[FAILED] == WHOLE[FAILED]
        assert found[CAPTIONS].items() <= WHOLE[CAPTIONS].items(), "a damaged row stayed"
        assert len(found[CAPTIONS]) == 3 - (name == CAPTIONS)
        kept = next((copy / "checkpoint").glob("before-repair-*"))
        assert (kept / name.split("/")[-1]).read_bytes() == data
        assert checkpoint.repair(copy) == []
        assert reopened(copy) == found


@pytest.mark.parametrize("name", ["checkpoint/rows.idx", "checkpoint/checkpoint.json"])
def test_repair_makes_a_missing_index_or_checkpoint_json_anew(small, name):
    (small / name).unlink()
    assert checkpoint.repair(small)
    assert reopened(small) == WHOLE


def test_repair_of_a_lost_checkpoint_json_says_that_the_fingerprint_is_lost(small):
    (small / "checkpoint/checkpoint.json").write_bytes(b"{}")
    assert "without a fingerprint" in checkpoint.repair(small)[-1]
    checkpoint.open(small, {"model": "another"}).close()
    with pytest.raises(checkpoint.Mismatch):
        checkpoint.open(small, {"model": "third"})


def test_repair_keeps_the_row_that_a_torn_one_was_glued_to(small):
    lines = (small / CAPTIONS).read_bytes().splitlines(keepends=True)
    (small / CAPTIONS).write_bytes(lines[0][:30] + lines[1] + lines[2])
    checkpoint.repair(small)
    assert content(small)[CAPTIONS] == dict(rows("bé", "c"))


def test_repair_keeps_the_first_row_of_an_id(small):
    with (small / FAILED).open("ab") as file:
        file.write(row("c", text="again")[1] + b"\n" + row("x", text="again")[1] + b"\n" + row("y")[1] + b"\n")
    shutil.rmtree(small / "checkpoint")
    with pytest.raises(checkpoint.Damaged):
        opened(small)
    assert any("2 repeated" in line for line in checkpoint.repair(small))
    assert content(small) == {CAPTIONS: WHOLE[CAPTIONS], FAILED: dict(rows("x", "y"))}


def test_repair_keeps_whole_rows_that_were_not_committed(small):
    data = bytearray((small / CAPTIONS).read_bytes())
    data[20] ^= 1
    (small / CAPTIONS).write_bytes(data + row("d")[1] + b"\n" + row("e")[1])
    checkpoint.repair(small)
    assert content(small)[CAPTIONS] == dict(rows("bé", "c", "d"))


def test_repair_of_a_missing_row_file_starts_it_anew(small):
    (small / CAPTIONS).unlink()
    assert any("missing" in line for line in checkpoint.repair(small))
    assert reopened(small) == {CAPTIONS: {}, FAILED: WHOLE[FAILED]}


def test_repair_of_a_good_record_touches_nothing(small):
    before = {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
    assert checkpoint.repair(small) == []
    assert {path: path.read_bytes() for path in small.rglob("*") if path.is_file()} == before


def test_repair_waits_for_no_running_job(small):
    with opened(small), pytest.raises(checkpoint.Busy):
        checkpoint.repair(small)
