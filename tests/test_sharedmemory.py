"""Shared memory: what is read is what was written, and a block is written again only after it was let go."""

import gc
import mmap
import os

import numpy as np
import pytest

from caption import sharedmemory
from caption.sharedmemory import Incoming, Outgoing, new_memory


@pytest.fixture
def ends():
    descriptor = new_memory()
    incoming = Incoming(descriptor)
    yield Outgoing(descriptor), incoming
    incoming.close()


@pytest.fixture
def small_segments(monkeypatch):
    monkeypatch.setattr(sharedmemory, "_SEGMENT", 1 << 20)


def array(seed, count=20_000):
    return np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)


def test_arrays_of_all_kinds_arrive_equal(ends):
    outgoing, incoming = ends
    sent = {
        "large": array(0, 100_001),
        "small": np.arange(5),
        "table": np.ones((100, 200), np.float32),
        "none": np.zeros((0, 3)),
        "half": np.full((3, 5000), 0.5, np.float16),
        "across": array(1, 40_000).reshape(200, 200).T,
        "text": "words",
    }
    parcel = outgoing.pack(sent)
    assert len(parcel.body) < 20_000, "the large arrays are not in the message"
    got = incoming.unpack(parcel)
    assert got.pop("text") == sent.pop("text")
    for name, value in sent.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value)


def test_a_message_without_large_arrays_takes_no_memory(ends):
    outgoing, incoming = ends
    parcel = outgoing.pack({"ids": np.arange(10)})
    assert incoming.unpack(parcel)["ids"].tolist() == list(range(10))
    assert (incoming.bytes_held, incoming.held(), incoming.freed()) == (0, (), ())


def test_a_block_is_free_after_the_last_view_of_its_arrays(ends):
    outgoing, incoming = ends
    got = incoming.unpack(outgoing.pack([array(0), array(1)]))
    part = got[1][5:10]
    del got
    gc.collect()
    assert incoming.freed() == ()
    assert incoming.bytes_held > 0
    np.testing.assert_array_equal(part, array(1)[5:10])
    del part
    assert incoming.bytes_held == 0
    assert incoming.freed() == ((0, 0),)
    assert incoming.freed() == (), "each is told once"


def test_what_is_held_is_never_written_over_and_memory_is_used_again(ends, small_segments):
    outgoing, incoming = ends
    order, held = np.random.default_rng(5), {}
    for number in range(600):
        if len(held) == 20:
            for key in order.choice(list(held), 7, replace=False):
                np.testing.assert_array_equal(held.pop(key), array(key, 16_384 + 97 * (key % 100)))
        outgoing.free(incoming.freed())
        held[number] = incoming.unpack(outgoing.pack(array(number, 16_384 + 97 * (number % 100))))
    for key, value in held.items():
        np.testing.assert_array_equal(value, array(key, 16_384 + 97 * (key % 100)))
    assert os.fstat(incoming.descriptor).st_size <= 2 << 20, "20 of 26 KB at most, in segments of 1 MiB"


def test_an_item_larger_than_a_segment_gets_its_own(ends, small_segments):
    outgoing, incoming = ends
    first = incoming.unpack(outgoing.pack(array(0)))
    large = incoming.unpack(outgoing.pack(array(1, 5_000_000)))
    np.testing.assert_array_equal(large, array(1, 5_000_000))
    np.testing.assert_array_equal(first, array(0))


def test_the_successor_of_a_loader_leaves_alone_what_is_still_held(ends, small_segments):
    outgoing, incoming = ends
    kept = incoming.unpack(outgoing.pack(array(0)))
    gone = incoming.unpack(outgoing.pack(array(1)))
    outgoing.pack(array(2, 3_000_000))  # never told: it died before
    del gone
    successor = Outgoing(incoming.descriptor, incoming.held())
    values = []
    for number in range(3, 60):
        values.append((number, incoming.unpack(successor.pack(array(number)))))
    np.testing.assert_array_equal(kept, array(0))
    for number, value in values:
        np.testing.assert_array_equal(value, array(number))
    del kept, value, values
    successor.free(incoming.freed())
    assert incoming.bytes_held == 0


def test_arrays_stay_readable_after_the_end(ends):
    outgoing, _ = ends
    incoming = Incoming(os.dup(outgoing._descriptor))
    got = incoming.unpack(outgoing.pack(array(0)))
    incoming.close()
    np.testing.assert_array_equal(got, array(0))


def test_pages_are_locked_once_a_segment_and_later_if_it_is_too_early(ends, small_segments):
    outgoing, incoming = ends
    seen, ready = [], []

    def lock(memory):
        if ready:
            seen.append(memory.nbytes)
        return bool(ready)

    kept = [incoming.unpack(outgoing.pack(array(0)))]
    incoming.lock_pages(lock)
    assert seen == []
    ready.append(True)
    incoming.lock_pages(lock)
    kept.append(incoming.unpack(outgoing.pack(array(1))))
    incoming.lock_pages(lock)
    assert seen == [1 << 20]
    kept.append(incoming.unpack(outgoing.pack(array(2, 2_000_000))))
    incoming.lock_pages(lock)
    assert seen[1:] == [-(-2_000_000 // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY]


def test_a_system_without_memory_files_uses_one_that_is_already_deleted(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    incoming = Incoming(new_memory())
    assert list(tmp_path.iterdir()) == []
    got = incoming.unpack(Outgoing(incoming.descriptor).pack(array(0)))
    np.testing.assert_array_equal(got, array(0))
    incoming.close()
