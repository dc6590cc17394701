"""Layers of attention and MLP, each behind a norm and added to what went in, with both sums for nothing.

The first is made by the kernel of the norm behind it, which adds the MLP's last bias as well; the second is the end of
the MLP's last product, in the place of the first. Where layers may write into what they get, the first is the end of
attention's last product in the same way.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from caption.engine import kernels, products
from caption.engine.agreement import agree, noise
from caption.engine.owned import owned
from caption.engine.rows import Unsupported

# As transformers calls the same parts in its families.
NORMS = (
    ("input_layernorm", "post_attention_layernorm"), ("norm1", "norm2"), ("layer_norm1", "layer_norm2"),
    ("layernorm_before", "layernorm_after"),
)  # fmt: skip
ATTENTIONS = ("self_attn", "attn")
LAST = ("out_proj", "o_proj", "proj")


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm where `centred`, else RMSNorm, in one kernel."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float
    centred: bool

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return kernels.normed(states, self.weight, self.bias, self.eps, self.centred).view(states.shape)

    def of_sum(
        self, states: torch.Tensor, added: torch.Tensor, later: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of states and added, to which `later` is added afterwards, and the norm of it, [rows, size] each."""
        return kernels.added_normed(states, added, self.weight, self.bias, later, self.eps, self.centred)


@dataclass(frozen=True, eq=False)
class Mlp:
    """What comes before the last product of an MLP, [rows, size] of it and for it; and the weights of that product."""

    before: Callable[[torch.Tensor], torch.Tensor]
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        made = products.linear(self.before(states.reshape(-1, states.shape[-1])), self.weight, self.bias)
        return made.view(*states.shape[:-1], made.shape[-1])

    def onto(self, total: torch.Tensor, states: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Add what it makes of `states`, but with this bias, to `total` in place."""
        return products.add_linear(total, self.before(states), self.weight, bias)


class Last:
    """The last product of an attention, which is made onto the layer's states where they are owned and there is a way.

    Whether attention hands on what is made here as it is, and so the sum as well, is seen while products are tried.
    """

    def __init__(self, linear: nn.Linear):
        self.linear, self.passes = linear, False
        self._forget()

    def _forget(self) -> None:
        self.states = self.summed = self.seen = None

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        weights = self.linear.weight, self.linear.bias
        if self.states is not None:
            total = self.states if self.passes else self.states.clone()
            if products.added_at_once(total, input, *weights) and self.passes:
                self.summed = total
                return total
        made = products.linear(input, *weights)
        if self.states is not None and products.trying():
            self.seen = made, made.clone()
        return made

    def sum(self, states: torch.Tensor, attend: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, bool]:
        """What attend() makes; or the states, to which that was added in place, and True."""
        if not owned() or not (self.passes or products.trying()):
            return attend(), False
        self.states = states
        try:
            added = attend()
            summed, seen = self.summed, self.seen
        finally:
            self._forget()
        if summed is not None and added is not summed:
            raise Unsupported("its attention does not always hand on what its last product makes")
        if seen is None:
            return added, summed is not None
        self.passes = added is seen[0] and torch.equal(*seen)
        return (states.add_(added), True) if self.passes else (added, False)


def install(model: nn.Module) -> list[Callable[[], None]]:
    """Give all such layers whose norms and MLPs are the two above a faster forward. Return what undoes it."""
    undo = []
    for module in model.modules():
        for part, forward in ({} if "forward" in vars(module) else _faster(module)).items():
            part.forward = forward
            undo.append(lambda part=part: vars(part).pop("forward"))
    return undo


def _faster(layer: nn.Module) -> dict[nn.Module, Callable]:
    """A forward for the layer and one for the last product of its attention; none for what is no such layer."""

    def part(*names: str) -> nn.Module | None:
        return next((one for name in names if isinstance(one := getattr(layer, name, None), nn.Module)), None)

    norms = next((pair for names in NORMS if None not in (pair := [part(name) for name in names])), None)
    attend, mlp = part(*ATTENTIONS), part("mlp")
    if norms is None or attend is None or "forward" in vars(attend):
        return {}
    if not isinstance(vars(mlp or layer).get("forward"), Mlp):
        return {}
    first, second = norms[0], vars(norms[1]).get("forward")
    if not isinstance(second, Norm):
        return {}
    size = len(second.weight)
    last = next((Last(one) for name in LAST if _makes(one := getattr(attend, name, None), size)), None)
    signature = inspect.signature(type(layer).forward)
    rest = next((name for name, one in signature.parameters.items() if one.kind is one.VAR_KEYWORD), "")

    def forward(hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        given = signature.bind(layer, hidden_states, *args, **kwargs)
        given.apply_defaults()
        named = dict(list(given.arguments.items())[2:])  # behind the layer itself and the states
        named |= named.pop(rest, {})

        def attended() -> torch.Tensor:
            made = attend(first(hidden_states), **named)
            return made[0] if isinstance(made, tuple) else made

        added, summed = last.sum(hidden_states, attended) if last else (attended(), False)
        make, shape = vars(mlp).get("forward"), hidden_states.shape
        if summed:
            normed = second(added)
            if not isinstance(make, Mlp):
                return added + mlp(normed)
            return make.onto(added.reshape(-1, size), normed.reshape(-1, size), make.bias).view(shape)
        if not isinstance(make, Mlp):  # something has taken its place since
            total, normed = (one.view(shape) for one in second.of_sum(hidden_states, added, None))
            return total + mlp(normed)
        return make.onto(*second.of_sum(hidden_states, added, make.bias)).view(shape)

    if not _same(forward, layer, attend, signature, noise(3, 5, size, like=second.weight)):
        return {}
    return {layer: forward} | ({last.linear: last} if last else {})


def _makes(part: nn.Module | None, size: int) -> bool:
    """Whether it is a product like any other, of this size."""
    return type(part) is nn.Linear and part.out_features == size and "forward" not in vars(part)


def _same(
    forward: Callable, layer: nn.Module, attend: nn.Module, signature: inspect.Signature, example: torch.Tensor
) -> bool:
    """Whether it makes of the example what the layer makes, and asks its attention, for which something simple stands
    in, for the same."""
    # Each argument is a thing of its own, so that none can be taken for another.
    marks = {
        "another" if one.kind is one.VAR_KEYWORD else name: object()
        for name, one in list(signature.parameters.items())[2:]
    }
    for wrapped in (False, True):  # in a tuple, as most attentions answer
        asked = []

        def stand_in(hidden_states, *args, wrapped=wrapped, asked=asked, **kwargs):
            asked.append((args, kwargs))
            return (hidden_states.flip(-1), None) if wrapped else hidden_states.flip(-1)

        attend.forward = stand_in
        try:
            if agree(lambda states: forward(states, **marks), lambda states: layer(states, **marks), example):
                return asked[0] == asked[1]
        finally:
            del attend.forward
    return False
