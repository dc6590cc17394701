"""Eight bytes as one number: the same memory, where it can be read so."""

import pytest
import torch

from caption.engine.eights import in_eights

STATES = torch.arange(2 * 6 * 16).to(torch.float16).view(2, 6, 16)


@pytest.mark.parametrize(
    "states", [STATES, STATES.transpose(0, 1), STATES[1:, ::2, 4:12], STATES.float(), STATES.double()]
)
def test_a_copy_of_eight_bytes_each_is_a_copy(states):
    wide = in_eights(states)
    assert wide.dtype == torch.int64 and wide.shape[-1] == states.shape[-1] * states.element_size() // 8
    assert wide.data_ptr() == states.data_ptr()
    assert torch.equal(wide.contiguous().view(states.dtype), states)


ODD = STATES.flatten()[: 2 * 6 * 15].view(2, 6, 15)


@pytest.mark.parametrize("states", [STATES[..., :6], STATES[..., 2:6], STATES.transpose(1, 2), ODD])
def test_what_can_t_be_read_so_stays_as_it_is(states):
    assert in_eights(states) is states
