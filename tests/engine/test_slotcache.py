import pytest
import torch

from caption.engine.slotcache import PromptLayer

HEADS, SIZE = 3, 12


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("before", [HEADS * SIZE, 7], ids=["of eight bytes", "of odd places"])
def test_the_prompts_values_keep_no_more_memory_than_their_own(dtype, before):
    product = torch.randn(2, 5, before + HEADS * SIZE).to(dtype)  # queries and such, then values
    values = product[..., before:].view(2, 5, HEADS, SIZE).transpose(1, 2)
    layer = PromptLayer()
    layer.update(torch.zeros(2, HEADS, 5, SIZE), values)
    assert torch.equal(layer.values, values) and layer.values.dtype == dtype
    assert layer.values.untyped_storage().nbytes() == values.nbytes
    assert layer.values.transpose(1, 2).is_contiguous()


def test_what_lies_alone_is_not_copied():
    keys = torch.randn(2, HEADS, 5, SIZE)
    layer = PromptLayer()
    layer.update(keys, keys)
    assert layer.keys is keys
