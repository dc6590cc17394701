"""Parts of a model in a faster form on a GPU, each taken only where it answers as the original does.

A GPU spends half its time on small operations that read and write all of a tensor, if they are run one by one. Which
parts have a faster form is told by their shape: the names that transformers gives to the same part in all families.
"""

import sys
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from caption.engine import kernels, layers, products
from caption.engine.agreement import agree, noise
from caption.engine.eights import in_eights
from caption.engine.layers import Mlp, Norm

SMALLEST_PATCH = 4  # pixels a side; other convolutions are none of patches
WIDEST_NORM = 16384  # a program holds a row
ALIGNED = 64  # matrix units are slow where a side is no multiple
ACTIVATIONS = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}
Forward = Callable[[torch.Tensor], torch.Tensor]


@torch.inference_mode()
def install(model: nn.Module) -> Callable[[], None]:
    """Give the model all that is faster. Return what undoes it."""
    undo = []
    for module in model.modules():
        if "forward" in vars(module):  # something has taken its place already
            continue
        for find in (_norm, _gated, _two_layers, _patches):
            forward = find(module)
            if forward is not None:
                module.forward = forward
                undo.append(lambda module=module: vars(module).pop("forward"))
                break
    if not model.config.is_encoder_decoder:  # whose cross attention asks about other states
        for module in model.modules():
            undo += _joint(module)
    undo += _rotaries(model)
    undo += layers.install(model)
    for module in model.modules():
        if type(module) is nn.Linear and "forward" not in vars(module):
            undo.append(_product(module))

    def remove() -> None:
        while undo:
            undo.pop()()

    return remove


def _norm(module: nn.Module) -> Forward | None:
    """LayerNorm and RMSNorm in one kernel. Torch's own reads memory at a third of its rate where rows are short."""
    weight, centred = getattr(module, "weight", None), type(module) is nn.LayerNorm
    if weight is None or weight.dim() != 1 or len(weight) > WIDEST_NORM:
        return None
    if not centred and not type(module).__name__.endswith("RMSNorm"):
        return None
    eps, bias = getattr(module, "variance_epsilon", getattr(module, "eps", None)), getattr(module, "bias", None)
    if eps is None:
        return None
    example = noise(4, len(weight), like=weight)
    for scale in (weight, weight + 1):  # Gemma keeps the distance from 1
        forward = Norm(scale, bias, eps, centred)
        if agree(forward, module.forward, example):
            return forward
    return None


def _two_layers(module: nn.Module) -> Forward | None:
    """An MLP of two layers with GELU between them, as the first product's end: cuBLAS does it in its tanh form."""
    for names in (("fc1", "fc2"), ("linear_fc1", "linear_fc2")):
        first, second = (getattr(module, name, None) for name in names)
        if all(type(part) is nn.Linear and part.bias is not None for part in (first, second)):
            break
    else:
        return None
    acts = [getattr(module, name, None) for name in ("activation_fn", "act_fn", "act")]
    act = next((one for one in acts if callable(one)), None)
    if act is None or _known(act, first.weight.device) != "gelu_tanh":
        return None

    def before(states: torch.Tensor) -> torch.Tensor:
        return products.linear_gelu(states, first.weight, first.bias)

    forward = Mlp(before, second.weight, second.bias)
    return forward if agree(forward, module.forward, noise(3, first.in_features, like=first.weight)) else None


def _known(act: Callable, device: torch.device) -> str | None:
    """The name of an activation, by its values."""
    probe = torch.linspace(-6, 6, 99, device=device)
    names = (name for name, known in ACTIVATIONS.items() if torch.allclose(act(probe), known(probe), atol=1e-6))
    return next(names, None)


def _gated(module: nn.Module) -> Forward | None:
    """A gated MLP: one product for both of its first weights, one kernel for what lies between, sides aligned.

    The weights move into the new form, and the module keeps views of them: nothing is held twice.
    """
    gate, up, down = (getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj"))
    act = getattr(module, "act_fn", None)
    if act is None or any(type(part) is not nn.Linear for part in (gate, up, down)):
        return None
    if gate.weight.shape != up.weight.shape or (gate.bias is None) != (up.bias is None):
        return None
    activation, inner = _known(act, gate.weight.device), gate.out_features
    if activation is None:
        return None
    padded = -(-inner // ALIGNED) * ALIGNED
    example = noise(3, gate.in_features, like=gate.weight)
    expected = type(module).forward(module, example)

    def joined(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        both = one.new_zeros(2 * padded, *one.shape[1:])
        both[:inner], both[padded : padded + inner] = one, other
        return both

    first = joined(gate.weight, up.weight)
    bias = None if gate.bias is None else joined(gate.bias, up.bias)
    second = functional.pad(down.weight, (0, padded - inner))

    def before(states: torch.Tensor) -> torch.Tensor:
        return kernels.gated(products.linear(states, first, bias), activation)

    forward = Mlp(before, second, down.bias)
    if not agree(forward, lambda _: expected, example):
        return None
    gate.weight.data, up.weight.data = first[:inner], first[padded : padded + inner]
    if bias is not None:
        gate.bias.data, up.bias.data = bias[:inner], bias[padded : padded + inner]
    down.weight.data = second[:, :inner]
    return forward


def _joint(module: nn.Module) -> list[Callable[[], None]]:
    """Queries, keys and values of the same states in one product: the products of few heads alone are small.

    Attention asks for the three one after the other. The first makes all; the others find theirs, if asked about the
    same states. As in `_gated`, the weights move into the new form.
    """
    parts = [getattr(module, name, None) for name in ("q_proj", "k_proj", "v_proj")]
    if any(type(part) is not nn.Linear or "forward" in vars(part) for part in parts):
        return []
    if len({(part.in_features, part.bias is None) for part in parts}) > 1:
        return []
    sizes = [part.out_features for part in parts]
    weight = torch.cat([part.weight for part in parts])
    bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by part: the states, and what was made of them

    def first(states: torch.Tensor) -> torch.Tensor:
        query, key, value = products.linear(states, weight, bias).split(sizes, -1)
        made[1], made[2] = (states, key), (states, value)
        return query

    def later(states: torch.Tensor, place: int) -> torch.Tensor:
        asked, result = made.pop(place, (None, None))
        return result if asked is states else functional.linear(states, parts[place].weight, parts[place].bias)

    for part, own, begin in zip(parts, weight.split(sizes), (0, sizes[0], sizes[0] + sizes[1])):
        part.weight.data = own
        if bias is not None:
            part.bias.data = bias[begin : begin + part.out_features]
    parts[0].forward = first
    for place in (1, 2):
        parts[place].forward = lambda states, place=place: later(states, place)
    return [lambda part=part: vars(part).pop("forward") for part in parts]


def _product(module: nn.Linear) -> Callable[[], None]:
    """A product by itself, in the way that was fastest when tried."""
    module.forward = lambda input: products.linear(input, module.weight, module.bias)
    return lambda: vars(module).pop("forward")


def _patches(module: nn.Module) -> Forward | None:
    """The embedding of patches, a convolution whose steps are as long as its kernel, as one product.

    cuDNN is slow at it. And its result lies channel by channel, which every sum behind it then takes over, up to the
    last layer; this one lies patch by patch, as the products behind it want it.
    """
    kinds = {nn.Conv2d: 2, nn.Conv3d: 3}
    sides = kinds.get(type(module))
    if not sides or module.groups != 1 or module.padding not in ("valid", (0,) * sides) or set(module.dilation) != {1}:
        return None
    if module.stride != module.kernel_size or max(module.kernel_size) < SMALLEST_PATCH:
        return None

    def forward(pictures: torch.Tensor) -> torch.Tensor:
        """pictures: [rows, channels, *sides]. Returns [rows, words, *patches]."""
        dtype, wide, steps = pictures.dtype, in_eights(pictures), list(module.kernel_size)
        together = pictures.shape[-1] // wide.shape[-1]
        if steps[-1] % together == 0:
            pictures, steps[-1] = wide, steps[-1] // together
        counts = [size // step for size, step in zip(pictures.shape[2:], steps)]
        for dim, (count, step) in enumerate(zip(counts, steps)):
            pictures = pictures.narrow(2 * dim + 2, 0, count * step).unflatten(2 * dim + 2, (count, step))
        across, within = range(2, 2 * sides + 2, 2), range(3, 2 * sides + 3, 2)
        patches = pictures.permute(0, *across, 1, *within).flatten(sides + 1).view(dtype)
        return functional.linear(patches, module.weight.flatten(1), module.bias).movedim(-1, 1)

    example = noise(3, module.in_channels, *(2 * size + 1 for size in module.kernel_size), like=module.weight)
    return forward if agree(forward, module.forward, example) else None


def _rotaries(model: nn.Module) -> list[Callable[[], None]]:
    """Rotary embeddings. Attention calls them as functions of its own source file, so they are replaced there."""
    undo = []
    example = next(model.parameters())
    for file in {sys.modules[type(module).__module__] for module in model.modules()}:
        for name, make in (("apply_rotary_pos_emb", _of_text), ("apply_rotary_pos_emb_vision", _of_vision)):
            original = vars(file).get(name)
            if original is None or not file.__name__.startswith("transformers."):
                continue
            faster, inputs = make(original, example)
            if agree(_together(faster, inputs), _together(original, inputs), example):
                setattr(file, name, faster)
                undo.append(lambda file=file, name=name, original=original: setattr(file, name, original))
    return undo


def _together(rotate: Callable, inputs: tuple[torch.Tensor, ...]) -> Forward:
    """Queries and keys as rotated, side by side."""
    return lambda _: torch.cat([one.flatten() for one in rotate(*inputs)])


def _of_text(original: Callable, like: torch.Tensor) -> tuple[Callable, tuple[torch.Tensor, ...]]:
    def apply_rotary_pos_emb(q, k, cos, sin, *args, **kwargs):
        known = not args and not kwargs and q.is_cuda and q.dim() == 4 and cos.dim() == 3
        if not known or cos.shape[-1] != q.shape[-1] or cos.shape[-1] != k.shape[-1]:
            return original(q, k, cos, sin, *args, **kwargs)
        return kernels.rotate(q, k, cos, sin)

    return apply_rotary_pos_emb, (
        noise(2, 4, 3, 64, like=like),
        noise(2, 2, 3, 64, like=like),
        noise(2, 3, 64, like=like),
        noise(2, 3, 64, like=like).flip(-1),
    )


def _of_vision(original: Callable, like: torch.Tensor) -> tuple[Callable, tuple[torch.Tensor, ...]]:
    def apply_rotary_pos_emb_vision(q, k, cos, sin):
        if not q.is_cuda or q.dim() != 3 or cos.shape[-1] != q.shape[-1]:
            return original(q, k, cos, sin)
        q, k = kernels.rotate(q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos[None], sin[None])
        return q[0].transpose(0, 1), k[0].transpose(0, 1)

    return apply_rotary_pos_emb_vision, (
        noise(5, 4, 80, like=like),
        noise(5, 4, 80, like=like).flip(0),
        noise(5, 80, like=like),
        noise(5, 80, like=like).flip(-1),
    )
