"""Each kernel against torch. On a GPU; without one, in Triton's interpreter where TRITON_INTERPRET=1 is set."""

import itertools

import pytest
import torch

from .interpreted import DEVICE, MARK  # isort: skip (what follows needs Triton)

from caption.engine import kernels

DTYPE = torch.float16
pytestmark = MARK


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, DTYPE)


def near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours.double() - theirs.double()).norm() <= 2e-3 * theirs.double().norm())


@pytest.mark.parametrize("rows", [3, 40], ids=["few rows, so split", "many rows"])
@pytest.mark.parametrize(
    ("heads", "groups", "size"), [(8, 2, 64), (15, 5, 64), (16, 16, 80), (7, 1, 128), (40, 2, 32)]
)
def test_attention_over_slots_reads_its_range_and_nothing_else(rows, heads, groups, size):
    places = 700
    keys, values = noise(rows, groups, places, size), noise(rows, groups, places, size, seed=1)
    query = noise(rows, heads, 1, size, seed=2)[:, :, 0]
    ends = torch.tensor([(37 * row + 1) % 699 + 1 for row in range(rows)])
    firsts = torch.tensor([max(0, int(end) - 130) if row % 2 else 0 for row, end in enumerate(ends)])
    firsts[1] = ends[1] = 0  # empty
    places_ = torch.arange(places)
    seen = ((places_ >= firsts[:, None]) & (places_ < ends[:, None])).to(DEVICE)
    keys[~seen[:, None].expand(-1, groups, -1)] = torch.nan
    values[~seen[:, None].expand(-1, groups, -1)] = torch.nan
    ranges = torch.stack([firsts, ends], 1).to(DEVICE, torch.int32)
    ours = kernels.attend(query, keys, values, ranges, size**-0.5)
    for row in range(rows):
        if row == 1:
            assert not ours[row].any()
            continue
        part = slice(int(firsts[row]), int(ends[row]))
        theirs = torch.nn.functional.scaled_dot_product_attention(
            query[row, :, None].double(), keys[row, :, part].double(), values[row, :, part].double(), enable_gqa=True
        )
        assert near(ours[row], theirs[:, 0]), row


def test_a_new_token_is_written_at_its_rows_position():
    keys, values = noise(4, 2, 9, 24), noise(4, 2, 9, 24, seed=1)
    expected = keys.clone(), values.clone()
    key, value = noise(4, 1, 2, 24, seed=2).transpose(1, 2)[:, :, 0], noise(4, 2, 1, 24, seed=3)[:, :, 0]
    positions = torch.tensor([0, 8, 3, 5], device=DEVICE)
    for row, place in enumerate(positions.tolist()):
        expected[0][row, :, place], expected[1][row, :, place] = key[row], value[row]
    kernels.append(keys, values, key, value, positions)
    assert torch.equal(keys, expected[0]) and torch.equal(values, expected[1])


@pytest.mark.parametrize("same", [True, False], ids=["one table for all rows", "a table for each row"])
def test_rotary_embedding(same):
    query, key = noise(3, 20, 7, 80).transpose(1, 2), noise(3, 2, 20, 96, seed=1)[..., :80]
    cos, sin = (noise(1 if same else 3, 20, 80, seed=seed) for seed in (2, 3))

    def plain(x):
        turned = torch.cat([-x[..., 40:], x[..., :40]], -1)
        return x.double() * cos[:, None].double() + turned.double() * sin[:, None].double()

    ours = kernels.rotate(query, key, cos, sin)
    assert near(ours[0], plain(query)) and near(ours[1], plain(key))
    assert ours[0].shape == query.shape and ours[1].shape == key.shape


@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
def test_gated_activation(activation):
    both = noise(5, 2 * 1100)
    act = {
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    }[activation]
    gate, up = both.double().chunk(2, -1)
    assert near(kernels.gated(both, activation), act(gate) * up)


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("rows", "size"), [(5, 24), (2100, 80), (7, 5000)])
def test_norms_are_those_of_torch(rows, size, biased):
    states, weight = 3 * noise(rows, size) + 1, noise(size, seed=1)
    bias = noise(size, seed=2) if biased else None
    exact = states.double(), (size,), weight.double()
    expected = torch.nn.functional.layer_norm(*exact, bias.double() if biased else None, 1e-6)
    assert near(kernels.normed(states, weight, bias, 1e-6, centred=True), expected)
    expected = torch.nn.functional.rms_norm(*exact, 1e-6)
    expected = expected + bias.double() if biased else expected
    assert near(kernels.normed(states, weight, bias, 1e-6, centred=False), expected)


def test_rows_apart_in_memory_are_normed_as_rows_together():
    wide, weight = noise(6, 64), noise(24, seed=1)
    expected = kernels.normed(wide[:, :24].contiguous(), weight, None, 1e-6, True)
    assert torch.equal(kernels.normed(wide[:, :24], weight, None, 1e-6, True), expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("later", [True, False])
def test_a_sum_and_its_norm_in_one(bias, later):
    states, added = noise(2, 3, 40, seed=1), noise(2, 3, 40, seed=2)
    weight, shift, further = noise(40, seed=3), noise(40, seed=4) if bias else None, noise(40, seed=5)
    total, normed = kernels.added_normed(states, added, weight, shift, further if later else None, 1e-6, bias)
    plain = states + added
    layer_norm, rms_norm = torch.nn.functional.layer_norm, torch.nn.functional.rms_norm
    expected = layer_norm(plain, (40,), weight, shift, 1e-6) if bias else rms_norm(plain, (40,), weight, 1e-6)
    assert near(normed.view(2, 3, 40), expected)
    assert near(total.view(2, 3, 40), plain + further if later else plain)


def test_windows_of_unlike_lengths_see_themselves_only():
    heads, size, lengths = 3, 80, [64, 1, 48, 100, 64]
    joint = noise(sum(lengths), 3, heads, size)
    query, key, value = joint.unbind(1)
    borders = torch.tensor([0, *lengths], device=DEVICE).cumsum(0).to(torch.int32)
    made = kernels.attend_windows(query, key, value, borders, max(lengths), size**-0.5)
    for begin, end in itertools.pairwise(borders.tolist()):
        parts = (one[begin:end].transpose(0, 1).float() for one in (query, key, value))
        expected = torch.nn.functional.scaled_dot_product_attention(*parts).transpose(0, 1)
        assert near(made[begin:end], expected)


@pytest.mark.parametrize("shifted", [False, True], ids=["from the first place", "behind padding"])
@pytest.mark.parametrize("size", [64, 80])
def test_prompts_fill_their_rows_and_nothing_else(size, shifted):
    rows, groups, places = [4, 0, 2], 3, 150
    source = noise(3, places, groups, 2 * size).split(size, -1)[1].transpose(1, 2)  # as a product leaves it
    target, shift = torch.full((6, groups, 200, size), 7, dtype=DTYPE, device=DEVICE), [0, 31, 149]
    expected = target.clone()
    for number, row in enumerate(rows):
        begin = shift[number] if shifted else 0
        expected[row, :, : places - begin] = source[number, :, begin:]
    given = torch.tensor(shift, device=DEVICE) if shifted else None
    kernels.fill(target, source, torch.tensor(rows, device=DEVICE), given)
    assert torch.equal(target, expected)


@pytest.mark.parametrize("rows, places", [(3, 150), (1, 64), (2, 1)])
def test_a_copy_holds_no_more_memory_than_its_own_and_the_groups_of_a_place_lie_side_by_side(rows, places):
    product = noise(rows, places, 7 + 5 * 48)
    source = product[..., 7:].view(rows, places, 5, 48).transpose(1, 2)
    made = kernels.copied(source)
    assert torch.equal(made, source) and made.transpose(1, 2).is_contiguous()
    assert made.untyped_storage().nbytes() == source.nbytes
