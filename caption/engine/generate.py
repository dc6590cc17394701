"""The plain engine: transformers' own generate, a batch at a time, for any model that has it."""

import itertools
from collections.abc import Iterable, Iterator

import torch

from caption.engine import Answer, EngineOptions, Request, library
from caption.engine.collate import collate
from caption.engine.errors import DoesNotLoad
from caption.engine.families import UNPADDABLE
from caption.engine.loop import Loop


class GenerateEngine:
    """Collects requests up to the batch size; each step captions all of them. Raises what load_model raises."""

    def __init__(self, options: EngineOptions):
        if options.temperature > 0 and options.num_beams > 1:
            raise ValueError("a beam search does not sample: temperature must be 0 with num_beams > 1")
        library.quiet()
        from caption.engine.model import DTYPES, load_model
        from caption.engine.processor import load_processor

        if options.threads:
            torch.set_num_threads(options.threads)
        self.options = options
        processor = load_processor(options.model, options.trust_remote_code)
        self.tokenizer = processor.tokenizer
        self.image_processor = type(processor.image_processor).__name__
        self.model = load_model(options)
        self.dtype = DTYPES[options.dtype]  # the model's own says fp32 where it keeps a part in that (BLIP-2)
        self.pad_id = self.tokenizer.pad_token_id or 0
        _settle(self.model, self.pad_id)
        self.held: list[Request] = []

    @property
    def free(self) -> int:
        return self.options.batch_size - len(self.held)

    @property
    def busy(self) -> int:
        return len(self.held)

    def admit(self, requests: Iterable[Request]) -> None:
        requests = list(requests)
        if len(requests) > self.free:
            raise ValueError(f"{len(requests)} requests for {self.free} free places")
        self.held += requests

    def step(self) -> list[Answer]:
        answers = [answer for group in self._groups() for answer in self._caption(group)]
        self.held = []
        return answers

    def reset(self) -> None:
        self.held = []

    def describe(self) -> dict:
        import transformers

        model = self.model
        return {
            "engine": "generate",
            "model": type(model).__name__,
            "image_processor": self.image_processor,
            "dtype": self.options.dtype,
            "device": torch.cuda.get_device_name() if self.options.device == "cuda" else self.options.device,
            "attention": getattr(model.config, "_attn_implementation", None),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }

    def _limit(self, request: Request) -> int:
        return request.max_new_tokens or self.options.max_new_tokens

    def _groups(self) -> Iterator[list[Request]]:
        """The requests, parted where they can't be computed together."""
        together = self.model.config.model_type not in UNPADDABLE

        def key(request: Request) -> tuple[int, int]:
            length = 0 if together else request.inputs["input_ids"].shape[1]
            # A beam search with a later end can choose another beginning, so it can't be cut afterwards.
            return length, self._limit(request) if self.options.num_beams > 1 else 0

        for _, group in itertools.groupby(sorted(self.held, key=key), key):
            yield list(group)

    def _caption(self, group: list[Request]) -> list[Answer]:
        side = "right" if self.model.config.is_encoder_decoder else "left"
        inputs = [request.inputs for request in group]
        batch = collate(inputs, self.pad_id, side, self.model.device, self.dtype)
        loop = Loop(self.options, [request.seed for request in group])
        penalty = self.options.repetition_penalty
        self.model.generate(
            **batch,
            custom_generate=loop,
            do_sample=False,  # Loop samples, each row by its own seed
            num_beams=self.options.num_beams,
            max_new_tokens=max(self._limit(request) for request in group),
            return_dict_in_generate=False,
            **({"repetition_penalty": penalty} if penalty != 1 else {}),
        )
        if not loop.generated:
            raise DoesNotLoad(f"{type(self.model).__name__} generates in a way of its own, which can't be followed")
        return [self._answer(request, loop, row) for row, request in enumerate(group)]

    def _answer(self, request: Request, loop: Loop, row: int) -> Answer:
        ids = loop.generated[row][: self._limit(request)]
        end = next((place for place, token in enumerate(ids) if token in loop.ends), None)
        steps = len(ids) if end is None else end + 1
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        flags = ("non-finite",) if loop.non_finite[row] < steps else ()
        return Answer(request.key, text, "length" if end is None else "stop", len(ids[:end]), flags)


def _settle(model: torch.nn.Module, pad_id: int) -> None:
    """Complete the generation_config of the model, and of an inner decoder that generates in its place."""
    for module in model.modules():
        config = getattr(module, "generation_config", None)
        if config is None:
            continue
        if config.pad_token_id is None:
            config.pad_token_id = pad_id
        config.forced_eos_token_id = None  # at the limit it would make a cut text look like a finished one
