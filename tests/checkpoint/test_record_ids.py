"""The set of done ids against Python's own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint import ids
from checkpoint.ids import IdSet

# Few values for each half: different digests that share one are the rule here, not one in 10 million.
digests = st.builds(
    lambda first, second: first.to_bytes(8, "little") + second.to_bytes(8, "little"),
    st.sampled_from([0, 1, 2**63, 2**64 - 1]),
    st.integers(0, 3),
)


@given(st.sets(digests), st.lists(st.sets(digests)), st.lists(digests), st.integers(1, 8))
def test_it_holds_what_a_set_holds(start, additions, asked, merge_at):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids, "RECENT", merge_at)
        known, model = IdSet.of(list(start)), set(start)
        for new in additions:
            known.add(list(new - model))
            model |= new
            assert len(known) == len(model)
            assert known.contains(asked).tolist() == [one in model for one in asked]
        assert IdSet.of(list(start)).repeated() == []


@given(st.lists(digests))
def test_it_finds_what_a_file_holds_twice(given):
    repeated = IdSet.of(given).repeated()
    assert sorted(repeated) == sorted({one for one in given if given.count(one) > 1})


def test_digests_are_blake2b_of_utf8():
    """The format: an index written today must be read by any later version."""
    assert ids.digest("train/ä.jpg").hex() == "b354c71f1fc1b156c3c478402f460273"
    assert ids.digest("\udcff") != ids.digest("?")


def test_it_grows_by_16_bytes_an_id():
    known = IdSet(np.arange(1000, dtype=np.uint64), np.arange(1000, dtype=np.uint64))
    assert known._first.nbytes + known._second.nbytes == 16_000
