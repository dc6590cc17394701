"""Rows of text decoded side by side, each at a step of its own: the state of all slots, and one step of all of them."""

import contextlib
from collections import Counter, deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import NamedTuple

import torch
from transformers.modeling_outputs import BaseModelOutput

from caption.engine import attention
from caption.engine.families import fit_positions
from caption.engine.graph import Graphs
from caption.engine.look import Look
from caption.engine.pinned import send
from caption.engine.prefill import Prefilled
from caption.engine.rows import Rows, Unsupported
from caption.engine.sampling import NonFiniteWatch
from caption.engine.slotcache import STATEFUL, SlotCache, grown

NEVER = NonFiniteWatch.NEVER
# Views of the cache on a GPU: few, as each costs a captured graph. On a CPU, a multiple of CPU_VIEW.
VIEWS = (256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768)
CPU_VIEW = 64
MASKED = {"full_attention", "sliding_attention"}  # kinds of layers that see tokens
PART = 4  # all rows are computed, or a fourth of them, or a fourth of those, …


class Text(NamedTuple):
    """One that moves in. seed: int64. limit: new tokens at most. penalty: a factor on the repetition penalty."""

    seed: int
    limit: int
    penalty: float = 1.0


class Decoder:
    """The slots' texts and their cache.

    slots: the most rows; fewer are allocated while fewer are wanted, unless `whole` is set. Rows are added and
    lengthened as needed, which moves everything. All of `state` has one row a slot, and a step reads and writes it in
    place, without a wait for the device. ends: those of the latest group. processors: those of the first, which all
    groups share: what is captured reads their tensors.
    """

    def __init__(self, slots: int, device: torch.device, graphs: bool, whole: bool = False):
        self.slots, self.device, self.whole = slots, device, whole
        self.graphs = Graphs() if graphs else None
        self.rows = self.capacity = 0
        self.filled: dict[int, int] = {}  # row -> places of the cache it has taken, at most
        self.penalized: set[int] = set()  # rows of texts that have a penalty of their own
        self.cache: SlotCache | None = None
        self.ends: tuple[int, ...] | None = None
        self.kernels = False  # whether attention reads each row's own range of the cache
        self.turn = 0  # how often steps were run
        self.since: dict[int, int] = {}  # row -> the turn before which its text was not there
        self.looks: deque[Look] = deque()
        self.seen: Look | None = None  # the latest that has arrived
        self.logits: torch.Tensor | None = None  # of the latest step, where keep_logits is set
        self.keep_logits = False
        self.captures = True  # where there are graphs; not for a text whose frequencies change from step to step

    # ---- a group moves in ----

    def admit(self, group: Prefilled, rows: list[int], texts: list[Text]) -> None:
        """Let the texts of a group go on in these free rows."""
        if self.cache is None:
            self._start(group)
        self.penalized.update(row for row, text in zip(rows, texts) if text.penalty != 1)
        if self.looks_back and not hasattr(self.state, "ids"):
            # Rows that have been here go on without a history: nothing in it is penalized.
            self.state.ids, self.state.lengths = self.state.new[:, :0].clone(), torch.zeros_like(self.state.steps)
        limits = [text.limit for text in texts]
        self._grow(rows, [length + limit for length, limit in zip(group.lengths, limits)], limits, group)
        if group.ends != self.ends:
            self.ends, self.end_ids = group.ends, torch.tensor(group.ends, dtype=torch.int64, device=self.device)
            self._moved()
        place = self._there(rows)
        self.cache.write(place, group.cache, group.shift)
        state, seeds = self.state, self._there([text.seed for text in texts])
        steps = torch.zeros_like(seeds)
        penalties = self._there([text.penalty for text in texts], torch.float32) * self.processors.penalty
        ids, lengths = self._history(group)
        tokens = self.processors(group.logits, Rows(seeds, steps, penalties, ids, lengths)).argmax(-1)
        finite = group.logits.amax(-1).isfinite()
        ended = (tokens[:, None] == self.end_ids).any(-1)
        state.seeds[place], state.steps[place] = seeds, steps + 1
        state.limits[place], state.penalties[place] = self._there(limits), penalties
        state.positions[place] = self._there(group.lengths)
        state.tokens[place] = tokens[:, None]
        state.new[place, 0] = tokens
        state.flawed[place] = torch.where(finite, NEVER, 0)
        state.live[place] = ~ended & (state.limits[place] > 1)
        if ids is not None:
            state.ids[place, : ids.shape[1]] = ids
            state.ids[place, lengths] = tokens
            state.lengths[place] = lengths + 1
        for name, value in self._rowwise(group).items():
            ours = self.inputs[name]
            ours[place] = grown(value, 0, *ours.shape[1:])
        self.filled.update(zip(rows, group.lengths))
        self.since.update(dict.fromkeys(rows, self.turn))

    def _there(self, figures: list, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        """On the device, without a wait for it."""
        return send(torch.tensor(figures, dtype=dtype), self.device)

    def _start(self, group: Prefilled) -> None:
        empty = {"dtype": torch.int64, "device": self.device}
        self.state = SimpleNamespace(
            live=torch.zeros(0, dtype=torch.bool, device=self.device),
            positions=torch.zeros(0, **empty),  # where the next token goes in the cache
            steps=torch.zeros(0, **empty),  # tokens made
            limits=torch.zeros(0, **empty),
            seeds=torch.zeros(0, **empty),
            penalties=torch.zeros(0, device=self.device),
            flawed=torch.zeros(0, **empty),  # the first step whose logits were not finite
            tokens=torch.zeros(0, 1, **empty),  # the latest
            new=torch.zeros(0, 0, **empty),  # all tokens made
        )
        config = group.inner.config.get_text_config(decoder=True)
        self.kernels = attention.by_kernels(config, self.device)
        self.cache = SlotCache(self.state.positions, group.cache, self.kernels)
        self.inputs = {name: value[:0] for name, value in self._rowwise(group).items()}
        self.inner, self.mask_layers, self.processors = group.inner, group.mask_layers, group.processors
        self.constants = {
            name: value for name, value in group.step.items() if isinstance(value, (bool, int, str))
        }  # fmt: skip
        fit_positions(self.inner)
        self.window = getattr(config, "sliding_window", None)
        self.adds_masks = config._attn_implementation == "eager"
        if unknown := set(self.mask_layers or ()) - MASKED - STATEFUL:
            raise Unsupported(f"it has layers of {', '.join(sorted(unknown))}")

    def _rowwise(self, group: Prefilled) -> dict[str, torch.Tensor]:
        """The tensors of the next forward that every row has its own of, rows first."""
        step, found = group.step, {}
        encoder_mask = ["attention_mask"] if self._encodes(group) else []
        for name, value in step.items():
            value = value[0] if name == "encoder_outputs" else value
            if not torch.is_tensor(value) or name in ("input_ids", "decoder_input_ids", "decoder_attention_mask"):
                continue
            if name == "attention_mask" and not encoder_mask:
                continue
            if name.endswith("position_ids"):
                rows = value.expand(*value.shape[:-2], len(group.logits), value.shape[-1])
                value = rows.movedim(-2, 0)
            elif value.shape[0] != len(group.logits):
                raise Unsupported(f"its {name} has no row for each text")
            found[name] = value
        if encoder_mask and "attention_mask" not in found:
            raise Unsupported("its encoder's output comes without a mask")
        return found

    def _encodes(self, group: Prefilled) -> bool:
        return bool(group.inner.config.is_encoder_decoder)

    @property
    def looks_back(self) -> bool:
        """Whether a step needs the tokens before it."""
        return self.processors.looks_back or bool(self.penalized)

    def _history(self, group: Prefilled) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The prompts without their padding, and their lengths, if the next step wants them."""
        if not self.looks_back:
            return None, None
        ids, shift = group.ids, group.shift
        length = ids.shape[1]
        if shift is None:
            return ids, torch.full_like(ids[:, 0], length)
        place = (torch.arange(length, device=ids.device) + shift[:, None]).clamp(max=length - 1)
        return ids.gather(1, place), length - shift

    # ---- room ----

    def _grow(self, rows: list[int], lengths: list[int], limits: list[int], group: Prefilled) -> None:
        """Make room for texts of `lengths` in these rows, `limits` of it new."""
        whole = self.whole and not self.inner.config.is_encoder_decoder  # which computes all rows there are
        count = self.slots if whole else max(self.rows, self._parts(max(rows))[0])
        capacity = max(self.capacity, self.view(max(lengths)))
        most = self.view(max(limits))
        widths = {name: value.shape[1:] for name, value in self._rowwise(group).items()}
        widths |= {"new": (most,), "ids": (self.view(group.ids.shape[1] + most),)}
        tensors = {**vars(self.state), **self.inputs}
        larger = {
            name: grown(value, count, *widths.get(name, [0] * (value.dim() - 1))) for name, value in tensors.items()
        }
        if capacity == self.capacity and all(larger[name] is value for name, value in tensors.items()):
            return
        self._moved()
        self.rows, self.capacity = count, capacity
        self.inputs = {name: larger.pop(name) for name in self.inputs}
        self.state = SimpleNamespace(**larger)
        self.cache.grow(self.state.positions, count, capacity)

    def _parts(self, row: int) -> list[int]:
        """How many rows may be computed where `row` is the last with a text: few sizes, as each costs a captured graph.
        The smallest comes first."""
        parts = [self.slots]
        while parts[0] // PART > row:
            parts.insert(0, parts[0] // PART)
        return parts

    def _computed(self, view: int) -> int:
        """How many rows the next steps compute: the fewest, or the fewest of those that are worth their graph."""
        parts = self._parts(max(self.filled))
        if self.inner.config.is_encoder_decoder:
            return self.rows
        if not self.graphs:
            return parts[0]
        worth = (part for part in parts if part < self.rows and self.graphs.worth((view, part, self.looks_back)))
        return next(worth, self.rows)

    def compact(self) -> dict[int, int]:
        """Move texts into lower rows where fewer rows are computed then. Return the new row by the old."""
        part = self._parts(len(self.filled) - 1)[0]
        leaving = [row for row in self.filled if row >= part]
        if not leaving or self.inner.config.is_encoder_decoder:
            return {}
        moved = dict(zip(leaving, (row for row in range(part) if row not in self.filled)))
        source, target = self._there(list(moved)), self._there(list(moved.values()))
        self.cache.move(source, target)
        for tensor in (*vars(self.state).values(), *self.inputs.values()):
            tensor[target] = tensor[source]
        self.state.live[source] = False
        if not self.kernels:
            self.state.positions[source] = 0
        for row, place in moved.items():
            self.filled[place] = self.filled.pop(row)
            self.since[place] = self.turn
        self.penalized = {moved.get(row, row) for row in self.penalized}
        return moved

    @property
    def cache_bytes(self) -> Counter[torch.device]:
        """That it takes on each device."""
        return self.cache.nbytes if self.cache else Counter()

    def _moved(self) -> None:
        if self.graphs:
            self.graphs.clear()

    def view(self, length: int) -> int:
        """The room that is made for a text of this length."""
        if self.device.type == "cuda":
            return next((view for view in VIEWS if view >= length), length)
        return -(-length // CPU_VIEW) * CPU_VIEW

    # ---- steps ----

    def run(self, steps: int) -> None:
        """Make up to `steps` tokens in each row; rows that have come to their end stand still."""
        if not self.filled:
            return
        view = self.capacity if self.kernels else min(self.view(max(self.filled.values()) + steps), self.capacity)
        part = self._computed(view)
        for _ in range(steps):
            if self.graphs and self.captures:
                self.graphs.run((view, part, self.looks_back), self._step, self._undone)
            else:
                self._step(view, part, self.looks_back)
        for row in self.filled:
            self.filled[row] += steps
        self.turn += 1
        if self.device.type == "cuda":
            self.looks.append(Look(self.state, self.turn))

    @contextlib.contextmanager
    def _undone(self) -> Iterator[None]:
        """Steps within it see nothing alive, which so stays as it is; what they replace all the same is put back."""
        alive, rows = self.state.live.clone(), self._there(list(self.filled))
        states = self.cache.states_in(rows)
        self.state.live.zero_()
        try:
            yield
        finally:
            self.state.live.copy_(alive)
            self.cache.set_states(rows, states)

    def _step(self, view: int, part: int, looks_back: bool) -> None:
        state = SimpleNamespace(**{name: tensor[:part] for name, tensor in vars(self.state).items()})
        inputs = {name: tensor[:part] for name, tensor in self.inputs.items()}
        logits = self._forward(view, part, state, inputs)
        if self.keep_logits:
            self.logits = logits
        history = (state.ids, state.lengths) if looks_back else ()
        rows = Rows(state.seeds, state.steps, state.penalties, *history)
        tokens = self.processors(logits, rows).argmax(-1)
        live, place = state.live, state.steps.clamp(max=state.new.shape[1] - 1)[:, None]
        flaw = torch.where(live & ~logits.amax(-1).isfinite(), state.steps, NEVER)
        torch.minimum(state.flawed, flaw, out=state.flawed)
        state.tokens.copy_(torch.where(live[:, None], tokens[:, None], state.tokens))
        state.new.scatter_(1, place, torch.where(live[:, None], tokens[:, None], state.new.gather(1, place)))
        state.steps += live
        state.positions += live
        if rows.ids is not None:
            last = rows.lengths.clamp(max=rows.ids.shape[1] - 1)[:, None]
            rows.ids.scatter_(1, last, torch.where(live[:, None], tokens[:, None], rows.ids.gather(1, last)))
            state.lengths += live
        for name, value in inputs.items():
            if name.endswith("position_ids"):
                value += live.view(-1, *[1] * (value.dim() - 1))
        state.live &= ~(tokens[:, None] == self.end_ids).any(-1) & (state.steps < state.limits)

    def _forward(
        self, view: int, part: int, state: SimpleNamespace, inputs: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return fp32[part, vocabulary], the logits of the next token of each of the first `part` rows.

        state, inputs: of those rows.
        """
        decoder = "decoder_" if self.inner.config.is_encoder_decoder else ""
        inputs = {
            name: value.movedim(0, -2) if name.endswith("position_ids") else value
            for name, value in inputs.items()
        }  # fmt: skip
        if "encoder_outputs" in inputs:
            inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=inputs["encoder_outputs"])
        inputs[f"{decoder}input_ids"] = state.tokens
        inputs[f"{decoder}attention_mask"] = self._masks(view, state)
        inputs |= {**self.constants, "past_key_values": self.cache.seen(view, part)}
        inputs |= {"use_cache": True, "return_dict": True}
        return self.inner(**inputs).logits[:, -1].float()

    def _masks(self, view: int, state: SimpleNamespace) -> torch.Tensor | dict[str, torch.Tensor | None]:
        """Each row sees its own text, and no more of it than the window of the layer: [rows, 1, 1, view], or its first
        place and its end, [rows, 1, 1, 2]. None for layers that see a state."""
        if self.kernels:
            masks = {"full_attention": _range(state, None), "sliding_attention": _range(state, self.window)}
            if self.mask_layers is None:
                return masks["sliding_attention"]
            return {name: masks.get(name) for name in self.mask_layers}
        positions, place = state.positions[:, None], torch.arange(view, device=self.device)
        full = place <= positions
        masks = {"full_attention": full}
        if self.window:
            masks["sliding_attention"] = full & (place > positions - self.window)
        if self.mask_layers is None:
            return self._as_added(masks.get("sliding_attention", full))
        return {name: self._as_added(masks[name]) if name in masks else None for name in self.mask_layers}

    def _as_added(self, mask: torch.Tensor) -> torch.Tensor:
        mask = mask[:, None, None]
        if not self.adds_masks:
            return mask
        dtype = self.cache.layers[0].keys.dtype
        return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)

    # ---- texts that have ended ----

    def ended(self) -> list[int]:
        """The rows whose texts have come to their end, by a look at the state.

        A GPU is looked at behind the steps before the latest, so that it has work while the host waits and goes on.
        """
        if self.device.type != "cuda":
            self.seen = Look(self.state, self.turn + 1) if self.filled else None
        while len(self.looks) > 1 or (self.looks and self.looks[0].arrived()):
            self.seen = self.looks.popleft()
        seen = self.seen
        return [row for row in self.filled if seen and seen.turn > self.since[row] and not seen.live(row)]

    def take(self, rows: list[int]) -> list[tuple[list[int], int]]:
        """Free these rows, which have `ended`. Return each one's tokens, and the first step with a flaw, or NEVER."""
        taken = [self.seen.text(row) for row in rows]
        for row, (_, flaw) in zip(rows, taken):
            del self.filled[row]
            self.penalized.discard(row)
            if flaw != NEVER and not self.kernels:
                self.cache.clear(row)
        if rows and not self.kernels:
            self.state.positions[self._there(rows)] = 0  # within any view
        return taken

    def drop(self) -> None:
        """Let go of all texts as they are. The cache stays, and what was captured."""
        if self.filled:
            self.state.live.zero_()
            self.state.positions.zero_()
        for row in () if self.kernels else self.filled:
            self.cache.clear(row)
        for kept in (self.filled, self.since, self.penalized, self.looks):
            kept.clear()
        self.seen = None


def _range(state: SimpleNamespace, window: int | None) -> torch.Tensor:
    """int32[rows, 1, 1, 2]: first place and end of what each row sees."""
    end = torch.where(state.live, state.positions + 1, 0)
    first = (end - window).clamp(min=0) if window else torch.zeros_like(end)
    return torch.stack([first, end], 1).to(torch.int32)[:, None, None]
