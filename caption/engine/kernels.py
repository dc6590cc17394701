"""Triton kernels for what a GPU does badly as torch writes it: attention of one token over slots of unlike lengths, and
chains of small operations that each read and write all of their tensor.

Each function says which shapes it takes; strides are free, but the last dimension must lie together. Importing this
file needs Triton, and the first call of each a C compiler.
"""

import torch
import triton
import triton.language as tl

PLACES = 64  # of the cache that a program reads at a time; twice as many small ones
SPLITS = (1, 2, 4, 8, 16, 32)  # parts in which a slot is read side by side, where there are few slots
LOG2E = 1.4426950408889634
ACTIVATIONS = ("silu", "gelu", "gelu_tanh")
TILE = 4096  # numbers that a program norms at a time
FEW_ROWS = 2048  # each has a program of its own
WINDOW = 128  # tokens that a program attends to at once
FILLED = 64  # places that a program copies


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, ranges: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention of one new token a row, over the places of that row's range and no others.

    query: [rows, heads, size]; keys, values: [rows, groups, places, size], each group of heads shares one; ranges:
    int32[rows, 2], first place and end. Returns [rows, heads, size], zeros where a range is empty. Nothing is copied,
    and what lies outside the ranges is never read.

    Running maximum and sum as in FlashAttention (Dao et al., 2022), split along the cache as in Flash-Decoding (2023).
    """
    rows, heads, size = query.shape
    groups = keys.shape[1]
    together = heads // groups
    splits = _splits(rows * groups, query.device, keys.shape[2])
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    parts = query.new_empty((rows, groups, splits, together, size), dtype=torch.float32) if splits > 1 else output
    sums = query.new_empty((rows, groups, splits, together, 2), dtype=torch.float32) if splits > 1 else output
    padded = max(16, triton.next_power_of_2(together))  # matrix units take no fewer
    width = triton.next_power_of_2(size)
    places = PLACES * 2 if width <= 64 else PLACES
    _attend[(rows, groups, splits)](
        query, keys, values, ranges, output, parts, sums, scale * LOG2E,
        query.stride(0), query.stride(1), keys.stride(0), keys.stride(1), keys.stride(2),
        values.stride(0), values.stride(1), values.stride(2), splits,
        together, size, splits > 1, padded, width, places, query.dtype == torch.float32,
        num_warps=4, num_stages=2,
    )  # fmt: skip
    if splits > 1:
        _join[(rows, groups)](
            parts, sums, output, splits, together, size, triton.next_power_of_2(together), width, num_warps=4
        )
    return output


def _splits(programs: int, device: torch.device, places: int) -> int:
    """As many parts as give each processor of the GPU a few programs, and a program some places to read."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
    wanted = min(4 * processors // programs, places // (2 * PLACES))
    return max(splits for splits in SPLITS if splits <= max(wanted, 1))


@triton.jit(do_not_specialize=["splits"])  # a kernel that was compiled for one number of rows is for all
def _attend(
    query, keys, values, ranges, output, parts, sums, scale,
    query_row, query_head, key_row, key_head, key_place, value_row, value_head, value_place, splits,
    TOGETHER: tl.constexpr, SIZE: tl.constexpr, SPLIT: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr,
    PLACES: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    row, group, split = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    first, end = tl.load(ranges + 2 * row), tl.load(ranges + 2 * row + 1)
    part = tl.cdiv(tl.cdiv(end - first, splits), PLACES) * PLACES
    begin = first + split * part
    stop = tl.minimum(begin + part, end)
    head, place, column = tl.arange(0, PADDED), tl.arange(0, PLACES), tl.arange(0, WIDTH)
    inside = (head[:, None] < TOGETHER) & (column[None, :] < SIZE)
    heads = group * TOGETHER + head
    asked = tl.load(query + row * query_row + heads[:, None] * query_head + column[None, :], mask=inside, other=0.0)
    keys += row * key_row + group * key_head
    values += row * value_row + group * value_head
    most = tl.full([PADDED], float("-inf"), tl.float32)
    total = tl.zeros([PADDED], tl.float32)
    found = tl.zeros([PADDED, WIDTH], tl.float32)
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    for start in range(begin, stop, PLACES):
        places = start + place
        there = (places[:, None] < stop) & (column[None, :] < SIZE)
        key = tl.load(keys + places[:, None] * key_place + column[None, :], mask=there, other=0.0)
        scores = tl.dot(asked, tl.trans(key), input_precision=precision) * scale
        scores = tl.where(places[None, :] < stop, scores, float("-inf"))
        larger = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp2(scores - larger[:, None])
        shrink = tl.exp2(most - larger)
        total = total * shrink + tl.sum(weights, 1)
        value = tl.load(values + places[:, None] * value_place + column[None, :], mask=there, other=0.0)
        found = found * shrink[:, None] + tl.dot(weights.to(value.dtype), value, input_precision=precision)
        most = larger
    if not SPLIT:
        done = found / tl.where(total == 0.0, 1.0, total)[:, None]
        where = (row * tl.num_programs(1) * TOGETHER + heads)[:, None] * SIZE + column[None, :]
        tl.store(output + where, done.to(output.dtype.element_ty), mask=inside)
    else:
        where = ((row * tl.num_programs(1) + group) * splits + split) * TOGETHER + head
        tl.store(parts + where[:, None] * SIZE + column[None, :], found, mask=inside)
        tl.store(sums + 2 * where, most, mask=head < TOGETHER)
        tl.store(sums + 2 * where + 1, total, mask=head < TOGETHER)


def attend_windows(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: torch.Tensor, longest: int, scale: float
) -> torch.Tensor:
    """Attention within short windows that stand one behind the other.

    query, key, value: [tokens, heads, size]; borders: int32[windows + 1]; longest: tokens of a window, at most WINDOW.
    Returns [tokens, heads, size]. A program holds a window of a head, so that everything is read once.
    """
    tokens, heads, size = query.shape
    output = query.new_empty((tokens, heads, size))
    _attend_windows[(heads, len(borders) - 1)](
        query, key, value, output, borders, scale * LOG2E, query.stride(0), query.stride(1), key.stride(0),
        key.stride(1), value.stride(0), value.stride(1), output.stride(0), output.stride(1),
        size, max(16, triton.next_power_of_2(size)), max(16, triton.next_power_of_2(longest)),
        query.dtype == torch.float32, num_warps=4,
    )  # fmt: skip
    return output


@triton.jit
def _attend_windows(
    query, key, value, output, borders, scale, query_token, query_head, key_token, key_head, value_token, value_head,
    output_token, output_head, SIZE: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    head, window = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin, end = tl.load(borders + window).to(tl.int64), tl.load(borders + window + 1).to(tl.int64)
    token, column = begin + tl.arange(0, TOKENS), tl.arange(0, WIDTH)
    there = token < end
    inside = there[:, None] & (column[None, :] < SIZE)
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    asked = tl.load(query + head * query_head + token[:, None] * query_token + column[None, :], mask=inside, other=0.0)
    keys = tl.load(key + head * key_head + token[:, None] * key_token + column[None, :], mask=inside, other=0.0)
    values = tl.load(value + head * value_head + token[:, None] * value_token + column[None, :], mask=inside, other=0.0)
    scores = tl.dot(asked, tl.trans(keys), input_precision=precision) * scale
    scores = tl.where(there[None, :], scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
    total = tl.sum(weights, 1)
    made = tl.dot(weights.to(values.dtype), values, input_precision=precision) / total[:, None]
    tl.store(
        output + head * output_head + token[:, None] * output_token + column[None, :],
        made.to(output.dtype.element_ty), mask=inside,
    )  # fmt: skip


@triton.jit(do_not_specialize=["splits"])
def _join(
    parts, sums, output, splits,
    TOGETHER: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    base = (row * tl.num_programs(1) + group) * TOGETHER
    head, column = tl.arange(0, PADDED), tl.arange(0, WIDTH)
    real = head < TOGETHER
    inside = real[:, None] & (column[None, :] < SIZE)
    most = tl.full([PADDED], -1e30, tl.float32)  # finite: of an empty range all parts are empty
    total = tl.zeros([PADDED], tl.float32)
    found = tl.zeros([PADDED, WIDTH], tl.float32)
    for split in range(splits):
        where = base * splits + split * TOGETHER + head
        theirs = tl.load(sums + 2 * where, mask=real, other=float("-inf"))
        larger = tl.maximum(most, theirs)
        shrink, scale = tl.exp2(most - larger), tl.exp2(theirs - larger)
        part = tl.load(parts + where[:, None] * SIZE + column[None, :], mask=inside, other=0.0)
        found = found * shrink[:, None] + part * scale[:, None]
        total = total * shrink + tl.load(sums + 2 * where + 1, mask=real, other=0.0) * scale
        most = larger
    done = found / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(output + (base + head)[:, None] * SIZE + column[None, :], done.to(output.dtype.element_ty), mask=inside)


def append(
    keys: torch.Tensor, values: torch.Tensor, key: torch.Tensor, value: torch.Tensor, positions: torch.Tensor
) -> None:
    """Write the keys and values of one new token a row at that row's position.

    keys, values: [rows, groups, places, size]; key, value: [rows, groups, size]; positions: int64[rows].
    """
    rows, groups, size = key.shape
    _append[(rows, groups)](
        keys, values, key, value, positions, keys.stride(0), keys.stride(1), keys.stride(2),
        values.stride(0), values.stride(1), values.stride(2), key.stride(0), key.stride(1),
        value.stride(0), value.stride(1), size, triton.next_power_of_2(size), num_warps=1,
    )  # fmt: skip


@triton.jit
def _append(
    keys, values, key, value, positions, keys_row, keys_head, keys_place, values_row, values_head, values_place,
    key_row, key_head, value_row, value_head, SIZE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    place = tl.load(positions + row)
    column = tl.arange(0, WIDTH)
    inside = column < SIZE
    new = tl.load(key + row * key_row + group * key_head + column, mask=inside)
    tl.store(keys + row * keys_row + group * keys_head + place * keys_place + column, new, mask=inside)
    new = tl.load(value + row * value_row + group * value_head + column, mask=inside)
    tl.store(values + row * values_row + group * values_head + place * values_place + column, new, mask=inside)


def fill(
    target: torch.Tensor, source: torch.Tensor, rows: torch.Tensor | None, shift: torch.Tensor | None
) -> None:
    """Write a group's keys, or values, into the rows of the slots, from the first place on.

    target: [slots, groups, capacity, size]; source: [rows, groups, places, size]; rows: int64[rows], of the target, or
    None for the first; shift: int64[rows], how many places at the beginning of each are padding, which is left out.
    """
    count, groups, places, size = source.shape
    _fill[(count, groups, triton.cdiv(places, FILLED))](
        target, source, source if rows is None else rows, source if shift is None else shift, places,
        target.stride(0), target.stride(1), target.stride(2), source.stride(0), source.stride(1), source.stride(2),
        rows is not None, shift is not None, size, triton.next_power_of_2(size), FILLED, num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["places"])
def _fill(
    target, source, rows, shift, places, target_row, target_head, target_place, source_row, source_head, source_place,
    PLACED: tl.constexpr, SHIFTED: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    place, column = tl.program_id(2).to(tl.int64) * PLACES + tl.arange(0, PLACES), tl.arange(0, WIDTH)
    begin = tl.load(shift + row) if SHIFTED else 0
    inside = (place[:, None] < places - begin) & (column[None, :] < SIZE)
    source += row * source_row + group * source_head
    there = tl.load(rows + row) if PLACED else row
    target += there * target_row + group * target_head
    found = tl.load(source + (place + begin)[:, None] * source_place + column[None, :], mask=inside)
    tl.store(target + place[:, None] * target_place + column[None, :], found, mask=inside)


def copied(states: torch.Tensor) -> torch.Tensor:
    """The same, [rows, groups, places, size], in memory of its own, where the groups of a place lie side by side."""
    rows, groups, places, size = states.shape
    made = states.new_empty((rows, places, groups, size)).transpose(1, 2)
    fill(made, states, None, None)
    return made


def rotate(query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Rotary position embedding of the form x * cos + (-x2, x1) * sin (Su et al., 2021), calculated in fp32.

    query, key: [rows, heads, tokens, size], their own numbers of heads; cos, sin: [rows or 1, tokens, size].
    """
    rows, heads, tokens, size = query.shape
    others, half = key.shape[1], size // 2
    # As they lie in memory, for attention to find the heads of a token side by side.
    turned, other = (query.new_empty((rows, tokens, count, size)).transpose(1, 2) for count in (heads, others))
    cos_row, sin_row = (0, 0) if cos.shape[0] == 1 else (cos.stride(0), sin.stride(0))
    _rotate[(tokens, rows)](
        query, key, cos, sin, turned, other, heads, others, query.stride(0), query.stride(1), query.stride(2),
        key.stride(0), key.stride(1), key.stride(2), cos_row, cos.stride(1), sin_row, sin.stride(1),
        half, triton.next_power_of_2(half), *(min(triton.next_power_of_2(count), 16) for count in (heads, others)),
        num_warps=4 if heads > 4 else 1,
    )  # fmt: skip
    return turned, other


@triton.jit
def _rotate(
    query, key, cos, sin, turned, other, heads, others, query_row, query_head, query_token, key_row, key_head,
    key_token, cos_row, cos_token, sin_row, sin_token,
    HALF: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    token, row = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < HALF
    cos += row * cos_row + token * cos_token + column
    sin += row * sin_row + token * sin_token + column
    cos1, cos2 = tl.load(cos, mask=inside).to(tl.float32), tl.load(cos + HALF, mask=inside).to(tl.float32)
    sin1, sin2 = tl.load(sin, mask=inside).to(tl.float32), tl.load(sin + HALF, mask=inside).to(tl.float32)
    place = row * tl.num_programs(0) + token
    query += row * query_row + token * query_token
    _turn(query, turned + place * heads * 2 * HALF, heads, query_head, cos1, cos2, sin1, sin2, HALF, WIDTH, HEADS)
    key += row * key_row + token * key_token
    _turn(key, other + place * others * 2 * HALF, others, key_head, cos1, cos2, sin1, sin2, HALF, WIDTH, OTHERS)


@triton.jit
def _turn(
    states, output, heads, state_head, cos1, cos2, sin1, sin2,
    HALF: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """The heads of a token, which lie side by side in the output."""
    column = tl.arange(0, WIDTH)
    inside = column < HALF
    for begin in range(0, heads, HEADS):
        head = begin + tl.arange(0, HEADS)
        real = (head[:, None] < heads) & inside[None, :]
        here = states + head[:, None] * state_head + column[None, :]
        left, right = tl.load(here, mask=real).to(tl.float32), tl.load(here + HALF, mask=real).to(tl.float32)
        there = output + head[:, None] * 2 * HALF + column[None, :]
        tl.store(there, (left * cos1 - right * sin1).to(output.dtype.element_ty), mask=real)
        tl.store(there + HALF, (right * cos2 + left * sin2).to(output.dtype.element_ty), mask=real)


def gated(both: torch.Tensor, activation: str) -> torch.Tensor:
    """activation(gate) * up, in fp32. both: [tokens, 2 * size], contiguous, gate first. Returns [tokens, size]."""
    tokens, size = both.shape[0], both.shape[1] // 2
    output = both.new_empty((tokens, size))
    block = min(1024, triton.next_power_of_2(size))
    _gated[(tokens, triton.cdiv(size, block))](both, output, size, ACTIVATIONS.index(activation), block, num_warps=4)
    return output


@triton.jit
def _gated(both, output, size, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    gate = tl.load(both + token * 2 * size + column, mask=inside).to(tl.float32)
    up = tl.load(both + token * 2 * size + size + column, mask=inside).to(tl.float32)
    if ACTIVATION == 0:
        gate = gate * tl.sigmoid(gate)
    elif ACTIVATION == 1:
        gate = gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    else:
        gate = gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    tl.store(output + token * size + column, (gate * up).to(output.dtype.element_ty), mask=inside)


def normed(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float, centred: bool
) -> torch.Tensor:
    """LayerNorm where `centred`, else RMSNorm, in fp32. states: [..., size]; weight, bias: [size]."""
    states = states.reshape(-1, weight.shape[0]) if states.dim() != 2 else states
    return _run_normed(states, None, weight, bias, None, eps, centred)[1]


def added_normed(
    states: torch.Tensor, added: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None,
    later: torch.Tensor | None, eps: float, centred: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The sum of both, and `normed` of it. later: [size], added to the sum that is returned, but not to what is normed.

    states, added: [..., size], of the same shape. Returns two new tensors, [rows, size].
    """
    size = weight.shape[0]
    return _run_normed(states.reshape(-1, size), added.reshape(-1, size), weight, bias, later, eps, centred)


def _run_normed(states, added, weight, bias, later, eps, centred) -> tuple[torch.Tensor | None, torch.Tensor]:
    rows, size = states.shape
    output = torch.empty_like(states, memory_format=torch.contiguous_format)
    total = None if added is None else torch.empty_like(output)
    width = triton.next_power_of_2(size)
    together = max(1, TILE // width) if rows > FEW_ROWS else 1
    _normed[(triton.cdiv(rows, together),)](
        states, states if added is None else added, weight, weight if bias is None else bias,
        weight if later is None else later, output, output if total is None else total,
        rows, size, states.stride(0), 0 if added is None else added.stride(0), eps,
        centred, bias is not None, added is not None, later is not None, together, width,
        num_warps=8 if width > TILE // 2 else 4,
    )  # fmt: skip
    return total, output


@triton.jit
def _normed(
    states, added, weight, bias, later, output, total, rows, size, state_row, added_row, eps,
    CENTRED: tl.constexpr, BIASED: tl.constexpr, ADDED: tl.constexpr, LATER: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    inside = (row[:, None] < rows) & (column[None, :] < size)
    found = tl.load(states + row[:, None] * state_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        other = tl.load(added + row[:, None] * added_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
        found = (found + other).to(output.dtype.element_ty).to(tl.float32)  # as the sum is kept
        kept = found
        if LATER:
            kept += tl.load(later + column, mask=column < size, other=0.0).to(tl.float32)[None, :]
        tl.store(total + row[:, None] * size + column[None, :], kept.to(total.dtype.element_ty), mask=inside)
    if CENTRED:
        found = tl.where(inside, found - (tl.sum(found, 1) / size)[:, None], 0.0)
    spread = tl.sum(found * found, 1) / size
    scale = tl.load(weight + column, mask=column < size, other=0.0).to(tl.float32)
    made = found * tl.rsqrt(spread + eps)[:, None] * scale[None, :]
    if BIASED:
        made += tl.load(bias + column, mask=column < size, other=0.0).to(tl.float32)[None, :]
    tl.store(output + row[:, None] * size + column[None, :], made.to(output.dtype.element_ty), mask=inside)
