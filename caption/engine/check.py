"""Which engine a model gets: slots if they make of it what its own generate makes, generate itself if not.

Told at load, by a look at two small pictures: once for a model on a kind of device, as verdict.py keeps what was found.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import LogitsProcessorList, MaxLengthCriteria, StoppingCriteriaList

from caption.engine import EngineOptions, Request, attention, deepstack, packing, positions, tilefeatures
from caption.engine.agreement import LOGITS, apart
from caption.engine.base import Loaded, ModelEngine, load
from caption.engine.checkpoint import first_line
from caption.engine.collate import tile_kernels
from caption.engine.decoder import Text
from caption.engine.errors import DoesNotLoad, classify
from caption.engine.families import MADE_OF_ONES, drop_ones
from caption.engine.generate import GenerateEngine
from caption.engine.prompt import make_prompter
from caption.engine.rows import Unsupported
from caption.engine.slots import SlotEngine
from caption.engine.verdict import Verdict, keep, recall

TOKENS = 4  # of each picture
SIZES = ((96, 64), (64, 160))


class Way(NamedTuple):
    """lost: what is missing. fast: with our attention and kernels. graphs: with CUDA graphs.

    alone: with prompts computed one by one.
    """

    lost: str
    fast: bool
    graphs: bool
    alone: bool = False


# By what the model is on, best first; what comes after the last is generate. Kernels and graphs belong to one GPU.
BESIDE = "prompts side by side"
WAYS = {
    "GPU": (
        Way("", True, True), Way("our kernels", False, True), Way("our kernels and CUDA graphs", False, False),
        Way(BESIDE, True, True, True), Way(f"our kernels, CUDA graphs and {BESIDE}", False, False, True),
    ),
    "GPUs": (Way("", False, False), Way(BESIDE, False, False, True)),
    "other": (
        Way("", True, False), Way("our attention", False, False),
        Way(BESIDE, True, False, True), Way(f"our attention and {BESIDE}", False, False, True),
    ),
}  # fmt: skip


def load_fastest(options: EngineOptions) -> ModelEngine:
    """Load the model once, and return the fastest engine that is right for it. Raises what load raises."""
    loaded = load(options)
    began = time.monotonic()
    engine = _fastest(options, loaded)
    engine.check_seconds = time.monotonic() - began
    # Kernels for tiles are made now, not while the first pictures wait.
    cuts = options.device == "cuda" and loaded.model.config.model_type in MADE_OF_ONES
    if cuts and tile_kernels(options.device) is None and not engine.fallback:
        engine.fallback = "tiles are cut by the worker's CPU, which is slower: the kernels that cut them don't run here"
    return engine


def _fastest(options: EngineOptions, loaded: Loaded) -> ModelEngine:
    if options.num_beams > 1:
        return GenerateEngine(options, loaded)  # what was asked for, so no fallback
    ways = _ways(options)
    verdict = recall(options)
    if verdict is None:
        verdict = _compare(options, loaded)
        keep(options, verdict)
    name = type(loaded.model).__name__
    if verdict.way >= len(ways):
        alone = verdict.way > len(ways)
        slower = "one by one, which is much slower" if alone else "in slower batches"
        reason = f"{name} can't be captioned in slots, only {slower}: {verdict.faults[-1]}"
        return GenerateEngine(options, loaded, reason, alone)
    way = ways[verdict.way]
    if way.fast:
        _install(loaded.model, [])
    engine = SlotEngine(options, loaded, way.graphs, way.alone)
    if verdict.faults:
        engine.fallback = f"{name} is decoded without {way.lost}, which is slower: {verdict.faults[0]}"
    return engine


def _ways(options: EngineOptions) -> tuple[Way, ...]:
    return WAYS["other" if options.device != "cuda" else "GPU" if options.gpus == 1 else "GPUs"]


def _compare(options: EngineOptions, loaded: Loaded) -> Verdict:
    """Try one way after the other until one answers as generate does. Leaves the model as it was.

    Behind the ways comes generate in batches, and behind that generate for one picture at a time.
    """
    if options.batch_size:  # the pictures, and an empty slot
        options = dataclasses.replace(options, batch_size=max(options.batch_size, len(SIZES) + 1))
    ways, faults = _ways(options), []
    try:
        requests, expected = _ask_generate(options, loaded)
    except Exception as error:
        return Verdict(len(ways), (f"its own generate failed with a small picture: {_fault(error)}",))
    for number, way in enumerate(ways):
        undo: list[Callable[[], None]] = []
        try:
            if way.fast:
                _install(loaded.model, undo)
            fault = difference(SlotEngine(options, loaded, way.graphs, way.alone), requests, expected)
        except Exception as error:
            fault = _fault(error)
        finally:
            for one in reversed(undo):
                one()
        if fault is None:
            return Verdict(number, tuple(faults))
        faults.append(fault)
    together = difference_of_batches(GenerateEngine(options, loaded), requests, expected)
    return Verdict(len(ways) + bool(together), (*faults, together or faults[-1]))


def _fault(error: Exception) -> str:
    """What is to be said of it. Raises it where it is not the model's."""
    if classify(error) != "item":
        raise error
    return str(error) if isinstance(error, Unsupported) else first_line(error)


def _install(model: torch.nn.Module, undo: list[Callable[[], None]]) -> None:
    """Give the model what is faster than its own. undo: gets what takes it away again."""
    if model.device.type == "cuda":
        from caption.engine import fused

        undo += [fused.install(model), *(part.install(model) for part in (positions, tilefeatures, deepstack))]
    undo.append(attention.install(model))
    if packed := packing.install(model):
        undo.append(packed)


@torch.inference_mode()
def difference(engine: SlotEngine, requests: list[Request], expected: list[torch.Tensor]) -> str | None:
    """Say where the engine's logits lie too far from those of generate; None: nowhere.

    expected: fp32[TOKENS, vocabulary] for each request. Each step goes on with the token of `expected`, so that a tie
    can't lead to another text.
    """
    decoder = engine.decoder
    decoder.keep_logits = True
    rows, made = [], []  # one slot is left empty, as happens
    for group in engine.grouped(requests):
        places = [len(rows) + 1 + place for place in range(len(group))]
        filled = dataclasses.replace(engine.prefilled(group), ends=())
        engine.move_in(filled, places, [Text(seed=0, limit=TOKENS)] * len(group))
        rows += zip(places, group)
        made += filled.logits
    place = torch.tensor([row for row, _ in rows], device=decoder.device)
    references = torch.stack([expected[request.key] for _, request in rows], 1)
    made = torch.stack(made)
    for step, reference in enumerate(references):
        if step:
            decoder.state.tokens[place] = references[step - 1].argmax(-1, keepdim=True)
            decoder.run(1)
            made = decoder.logits[place]
        if not reference.isfinite().any(-1).all():
            break  # fp16 that overflows tells nothing, and goes on telling nothing
        if fault := _apart(made, reference, step, engine.options.dtype):
            return fault
    return None


def difference_of_batches(
    engine: GenerateEngine, requests: list[Request], expected: list[torch.Tensor]
) -> str | None:
    """The same of generate itself, where it gets several at a time: as far as all write what is expected."""
    for group in engine.grouped(requests):
        recorder = Recorder()
        try:
            engine.generate(group, recorder)
        except Exception as error:
            return _fault(error)
        for step, made in enumerate(recorder.logits):
            reference = torch.stack([expected[request.key][step] for request in group])
            if fault := _apart(made, reference, step, engine.options.dtype):
                return fault
            if not torch.equal(made.argmax(-1), reference.argmax(-1)):
                break  # a tie
    return None


def _apart(made: torch.Tensor, reference: torch.Tensor, step: int, dtype: str) -> str | None:
    distance = apart(made, reference)
    if distance <= LOGITS[dtype]:  # NaN is too far as well
        return None
    return f"logits of step {step} lie {distance:.2g} of the largest apart"


def _ask_generate(options: EngineOptions, loaded: Loaded) -> tuple[list[Request], list[torch.Tensor]]:
    """Two small pictures, prompts of unlike lengths where the model bears them, and the logits that generate has."""
    prompter = make_prompter(options, loaded.processor)
    noise, engine = np.random.default_rng(0), GenerateEngine(options, loaded)
    requests, expected = [], []
    for key, (width, height) in enumerate(SIZES):
        image = Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8))
        try:
            arrays = prompter(image, " ".join([options.prompt] * (key + 1)))
        except Exception:  # a prompt that is a task's name, or holds the picture's token, can't stand there twice
            arrays = prompter(image, options.prompt)
        inputs = {name: np.asarray(value) for name, value in arrays.items()}
        requests.append(Request(key, inputs, 0, TOKENS))
        recorder = Recorder()
        engine.generate(requests[-1:], recorder)
        if not recorder.logits:
            raise DoesNotLoad(f"{type(loaded.model).__name__} generates in a way of its own, which can't be followed")
        expected.append(torch.cat(recorder.logits))
    drop_ones(loaded.model.config.model_type, [one.inputs for one in requests])
    return requests, expected


class Recorder:
    """Handed to generate as `custom_generate`: its own greedy loop, with each step's logits kept."""

    def __init__(self):
        self.logits: list[torch.Tensor] = []

    def __call__(self, model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
        limits = StoppingCriteriaList([one for one in stopping_criteria if isinstance(one, MaxLengthCriteria)])
        return model._sample(
            input_ids,
            logits_processor=LogitsProcessorList([self._keep]),
            stopping_criteria=limits,
            generation_config=generation_config,
            **kwargs,
        )

    def _keep(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.logits.append(scores.clone())
        return scores
