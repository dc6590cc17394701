"""A full disk, and a disk with errors: at each write and each fsync."""

import errno

import pytest
from jobs import CAPTIONS, FAILED, abandon, content, opened, reopened, row, rows

import checkpoint

RUN = dict(rows(*"abcdef"))


def run(out, returned):
    """Opens, appends, commits, withdraws, closes; notes the ids whose append returned."""
    record = opened(out)
    try:
        for pair in ("ab", "cd", "ef"):
            record.append(CAPTIONS, rows(*pair))
            returned.update(pair)
            record.commit()
        record.append(FAILED, rows("x", "y"))
        record.withdraw(FAILED, ["x"])
    except BaseException:
        with pytest.raises(checkpoint.Broken):
            record.append(CAPTIONS, rows("z"))
        with pytest.raises(checkpoint.Broken):
            record.commit()
        raise
    finally:
        record.close()


def each_call(fake, folders, kinds, code):
    """The errors of a run in which the first, then the second … call of these kinds fails, and its folder."""
    fake.on_call = lambda call: None
    run(next(folders), set())
    total = sum(call.kind in kinds for call in fake.calls)
    assert total > 10
    for number in range(total):
        out, returned, seen = next(folders), set(), []

        def strikes(call, seen=seen, number=number):
            seen.extend([call] * (call.kind in kinds))
            return call.kind in kinds and len(seen) == number + 1

        fake.fail(strikes, code)
        try:
            run(out, returned)
        except (checkpoint.Full, OSError) as error:
            yield error, out, returned
        else:
            assert (seen[number].kind, seen[number].file) == ("truncate", "lock")  # emptying it is a courtesy
        fake.restart()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("kinds", [{"write"}, {"sync", "sync_folder"}, {"open", "make_folder", "replace", "truncate"}])
def test_a_full_disk_stops_the_run_cleanly_wherever_it_strikes(fake, folders, kinds, code):
    for error, out, returned in each_call(fake, folders, kinds, code):
        fake.restart()
        assert isinstance(error, checkpoint.Full)
        assert error.needed > 0
        found = reopened(out)
        assert returned <= found[CAPTIONS].keys() <= set("abcdef")
        assert found[CAPTIONS].items() <= RUN.items()


@pytest.mark.parametrize("kinds", [{"write"}, {"sync", "sync_folder"}, {"open", "make_folder", "replace", "truncate"}])
def test_an_io_error_stops_the_run_and_loses_no_row_that_append_returned_for(fake, folders, kinds):
    for error, out, returned in each_call(fake, folders, kinds, errno.EIO):
        fake.restart()
        assert isinstance(error, OSError)
        found = reopened(out)
        assert returned <= found[CAPTIONS].keys()
        assert found[CAPTIONS].items() <= RUN.items()


def test_a_disk_that_stays_full_stops_each_run_until_there_is_space(fake, out):
    with opened(out) as record:
        record.append(CAPTIONS, rows("a"))
    record = opened(out)
    fake.fail(lambda call: call.kind == "write", errno.ENOSPC)
    with pytest.raises(checkpoint.Full) as caught:
        record.append(CAPTIONS, rows("b"))
    assert (caught.value.needed, caught.value.where) == (len(row("b")[1]) + 1, out / CAPTIONS)
    record.close()
    with pytest.raises(checkpoint.Full):
        opened(out)
    fake.restart()
    assert reopened(out)[CAPTIONS] == dict(rows("a"))


@pytest.mark.parametrize("space", range(0, 250, 7))
def test_of_a_write_that_fills_the_disk_whole_rows_stay_and_no_torn_one(fake, out, space):
    record = opened(out)
    left = [space]

    def on_call(call):
        if call.kind == "write" and call.file == CAPTIONS and not left[0]:
            raise OSError(errno.ENOSPC, "full")

    def write(fd, data, offset):
        written = real(fd, data[: left[0]] if fake._paths[fd].name == CAPTIONS and left[0] else data, offset)
        left[0] -= min(written, left[0])
        return written

    fake.on_call, real = on_call, fake.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("checkpoint.disk.write", write)
        three = rows("a", "b", "c")
        size = sum(len(line) + 1 for _, line in three)
        if space < size:
            with pytest.raises(checkpoint.Full) as caught:
                record.append(CAPTIONS, three)
            whole = sum(len(line) + 1 for line in content(out)[CAPTIONS].values())
            assert whole <= space
            assert caught.value.needed == size - whole
        else:
            record.append(CAPTIONS, three)
    fake.restart()
    record.close()
    assert len(reopened(out)[CAPTIONS]) == space // (size // 3) or space >= size


def test_after_a_failed_fsync_none_is_believed(fake, out):
    """The kernel may have dropped the pages: a second fsync would succeed without them."""
    record = opened(out)
    record.append(CAPTIONS, rows("a"))
    fake.fail(lambda call: call.kind == "sync" and call.file == CAPTIONS, errno.EIO)
    with pytest.raises(OSError):
        record.commit()
    fake.restart()
    with pytest.raises(checkpoint.Broken):
        record.commit()
    record.close()
    assert checkpoint.read(out).counts[CAPTIONS] == 0
    before = len(fake.calls)
    with opened(out) as record:
        assert record.adopted[CAPTIONS] == 1
    calls = [(call.kind, call.file) for call in fake.calls[before:]]
    assert calls.index(("write", CAPTIONS)) < calls.index(("sync", CAPTIONS)), "adopted rows are written once more"


def test_an_error_in_a_withdrawal_leaves_no_half_file_to_fill_the_disk(fake, out):
    record = opened(out)
    record.append(CAPTIONS, rows(*"abc"))
    fake.fail(lambda call: call.kind == "write" and call.file == "rows.idx.new", errno.ENOSPC)
    with pytest.raises(checkpoint.Full):
        record.withdraw(CAPTIONS, ["a"])
    assert not list((out / "checkpoint").glob("*.new"))
    fake.restart()
    abandon(record)
    assert reopened(out)[CAPTIONS] == dict(rows(*"abc"))
