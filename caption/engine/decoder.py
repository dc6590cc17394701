"""Rows of text decoded side by side, each at a step of its own: the state of all slots, and one step of all of them."""

from types import SimpleNamespace

import torch
from transformers.modeling_outputs import BaseModelOutput

from caption.engine.families import fit_positions
from caption.engine.graph import Graphs
from caption.engine.prefill import Prefilled
from caption.engine.rows import Rows, Unsupported
from caption.engine.sampling import NonFiniteWatch
from caption.engine.slotcache import SlotCache, grown

NEVER = NonFiniteWatch.NEVER
# Views of the cache on a GPU: few, as each costs a captured graph. On a CPU, a multiple of CPU_VIEW.
VIEWS = (256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768)
CPU_VIEW = 64


class Decoder:
    """The slots' texts and their cache.

    slots: the most rows; fewer are allocated while fewer are wanted. Rows are added and lengthened as needed, which
    moves everything. All of `state` has one row a slot, and a step reads and writes it in place, without a wait for
    the device. processors and ends: those of the latest group.
    """

    def __init__(self, slots: int, device: torch.device, graphs: bool):
        self.slots, self.device = slots, device
        self.graphs = Graphs() if graphs else None
        self.rows = self.capacity = 0
        self.filled: dict[int, int] = {}  # row -> places of the cache it has taken, at most
        self.cache: SlotCache | None = None
        self.ends: tuple[int, ...] | None = None
        self.logits: torch.Tensor | None = None  # of the latest step, where keep_logits is set
        self.keep_logits = False

    # ---- a group moves in ----

    def admit(self, group: Prefilled, rows: list[int], seeds: list[int], limits: list[int]) -> None:
        """Let the texts of a group go on in these free rows. seeds: int64; limits: new tokens at most, of each."""
        if self.cache is None:
            self._start(group)
        self._grow(rows, [length + limit for length, limit in zip(group.lengths, limits)], limits, group)
        if group.ends != self.ends:
            self.ends, self.end_ids = group.ends, torch.tensor(group.ends, dtype=torch.int64, device=self.device)
            self._moved()
        self.processors = group.processors
        place = torch.tensor(rows, device=self.device)
        self.cache.write(place, group.cache, group.shift)
        state, seeds = self.state, torch.tensor(seeds, device=self.device)
        steps = torch.zeros_like(seeds)
        ids, lengths = self._history(group)
        tokens = group.processors(group.logits, Rows(seeds, steps, ids, lengths)).argmax(-1)
        finite = group.logits.amax(-1).isfinite()
        ended = (tokens[:, None] == self.end_ids).any(-1)
        state.seeds[place], state.steps[place] = seeds, steps + 1
        state.limits[place] = torch.tensor(limits, device=self.device)
        state.positions[place] = torch.tensor(group.lengths, device=self.device)
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

    def _start(self, group: Prefilled) -> None:
        empty = {"dtype": torch.int64, "device": self.device}
        self.state = SimpleNamespace(
            live=torch.zeros(0, dtype=torch.bool, device=self.device),
            positions=torch.zeros(0, **empty),  # where the next token goes in the cache
            steps=torch.zeros(0, **empty),  # tokens made
            limits=torch.zeros(0, **empty),
            seeds=torch.zeros(0, **empty),
            flawed=torch.zeros(0, **empty),  # the first step whose logits were not finite
            tokens=torch.zeros(0, 1, **empty),  # the latest
            new=torch.zeros(0, 0, **empty),  # all tokens made
        )
        if group.processors.looks_back:
            self.state.ids, self.state.lengths = torch.zeros(0, 0, **empty), torch.zeros(0, **empty)
        self.cache = SlotCache(self.state.positions, group.cache)
        self.inputs = {name: value[:0] for name, value in self._rowwise(group).items()}
        self.inner, self.mask_layers = group.inner, group.mask_layers
        self.constants = {
            name: value for name, value in group.step.items() if isinstance(value, (bool, int, str))
        }  # fmt: skip
        fit_positions(self.inner)
        config = self.inner.config.get_text_config(decoder=True)
        self.window = getattr(config, "sliding_window", None)
        self.adds_masks = config._attn_implementation == "eager"
        if unknown := set(self.mask_layers or ()) - {"full_attention", "sliding_attention"}:
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

    def _history(self, group: Prefilled) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The prompts without their padding, and their lengths, if a processor wants them."""
        if not group.processors.looks_back:
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
        wanted = self.slots
        while wanted // 2 > max(rows):
            wanted //= 2
        count, capacity = max(self.rows, wanted), max(self.capacity, self._view(max(lengths)))
        most = max(limits)
        widths = {name: value.shape[1:] for name, value in self._rowwise(group).items()}
        widths |= {"new": (most,), "ids": (self._view(group.ids.shape[1] + most),)}
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

    def _moved(self) -> None:
        if self.graphs:
            self.graphs.clear()

    def _view(self, length: int) -> int:
        if self.device.type == "cuda":
            return next((view for view in VIEWS if view >= length), length)
        return -(-length // CPU_VIEW) * CPU_VIEW

    # ---- steps ----

    def run(self, steps: int) -> None:
        """Make up to `steps` tokens in each row; rows that have come to their end stand still."""
        if not self.filled:
            return
        view = min(self._view(max(self.filled.values()) + steps), self.capacity)
        for _ in range(steps):
            if self.graphs:
                self.graphs.run(view, self._step, self.state.live)
            else:
                self._step(view)
        for row in self.filled:
            self.filled[row] += steps

    def _step(self, view: int) -> None:
        state = self.state
        logits = self._forward(view)
        if self.keep_logits:
            self.logits = logits
        rows = Rows(state.seeds, state.steps, getattr(state, "ids", None), getattr(state, "lengths", None))
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
        for name, value in self.inputs.items():
            if name.endswith("position_ids"):
                value += live.view(-1, *[1] * (value.dim() - 1))
        state.live &= ~(tokens[:, None] == self.end_ids).any(-1) & (state.steps < state.limits)

    def _forward(self, view: int) -> torch.Tensor:
        """Return fp32[rows, vocabulary], the logits of each row's next token."""
        decoder = "decoder_" if self.inner.config.is_encoder_decoder else ""
        inputs = {
            name: value.movedim(0, -2) if name.endswith("position_ids") else value
            for name, value in self.inputs.items()
        }  # fmt: skip
        if "encoder_outputs" in inputs:
            inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=inputs["encoder_outputs"])
        inputs[f"{decoder}input_ids"] = self.state.tokens
        inputs[f"{decoder}attention_mask"] = self._masks(view)
        inputs |= {**self.constants, "past_key_values": self.cache.seen(view), "use_cache": True, "return_dict": True}
        return self.inner(**inputs).logits[:, -1].float()

    def _masks(self, view: int) -> torch.Tensor | dict[str, torch.Tensor]:
        """[rows, 1, 1, view]: each row sees its own text, and no more of it than the window of the layer."""
        positions, place = self.state.positions[:, None], torch.arange(view, device=self.device)
        full = place <= positions
        masks = {"full_attention": full}
        if self.window:
            masks["sliding_attention"] = full & (place > positions - self.window)
        if self.mask_layers is None:
            return self._as_added(masks.get("sliding_attention", full))
        return {name: self._as_added(masks[name]) for name in self.mask_layers}

    def _as_added(self, mask: torch.Tensor) -> torch.Tensor:
        mask = mask[:, None, None]
        if not self.adds_masks:
            return mask
        dtype = self.cache.layers[0].keys.dtype
        return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)

    # ---- texts that have ended ----

    def ended(self) -> list[int]:
        """The rows whose texts have come to their end. Waits for the device."""
        live = self.state.live.tolist() if self.filled else []
        return [row for row in self.filled if not live[row]]

    def take(self, rows: list[int]) -> list[tuple[list[int], int]]:
        """Free these rows. Return each one's tokens, and the first step with a flaw (NEVER: none)."""
        if not rows:
            return []
        state, place = self.state, torch.tensor(rows, device=self.device)
        made, steps, flawed = state.new[place].tolist(), state.steps[place].tolist(), state.flawed[place].tolist()
        state.positions[place] = 0  # within any view
        for row, flaw in zip(rows, flawed):
            del self.filled[row]
            if flaw != NEVER:
                self.cache.clear(row)
        return [(ids[:count], flaw) for ids, count, flaw in zip(made, steps, flawed)]
