"""What the engines that run a model have in common: the model itself, batches of requests, and answers."""

import importlib.util
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from caption.engine import Adapter, Answer, EngineOptions, Request, library
from caption.engine.adapters import Adapters
from caption.engine.collate import collate
from caption.engine.families import NO_PROMPT, PACKAGES, UNPADDABLE
from caption.engine.ropes import Ropes

FLOOD = 8  # tokens, of which most are padding: what some models write in a precision that is too narrow for them
AUTO_SLOTS = 8  # where nobody said how many, and memory is not asked


@dataclass(frozen=True)
class Loaded:
    """A model ready to generate, and its processor."""

    model: torch.nn.Module
    processor: object
    dtype: torch.dtype  # as asked for: the model's own says fp32 where it keeps a part in that (BLIP-2)
    pad_id: int
    adapters: Adapters | None = None  # None: as the model is


def load(options: EngineOptions) -> Loaded:
    """Load processor and model, with the adapter that it begins with.

    Raises what load_model raises, DoesNotFit, and ValueError for options that exclude each other.
    """
    if options.temperature > 0 and options.num_beams > 1:
        raise ValueError("a beam search does not sample: temperature must be 0 with num_beams > 1")
    library.quiet()
    from caption.engine.model import DTYPES, load_model
    from caption.engine.processor import load_processor

    if options.threads:
        torch.set_num_threads(options.threads)
    processor = load_processor(options.model, options.trust_remote_code)
    model = load_model(options)
    pad_id = processor.tokenizer.pad_token_id or 0
    settle(model, pad_id)
    adapters = Adapters(model, options)
    if options.adapter:
        adapters.merge_first(options.adapter)
    return Loaded(model, processor, DTYPES[options.dtype], pad_id, adapters)


def settle(model: torch.nn.Module, pad_id: int) -> None:
    """Complete the generation_config of the model, and of an inner decoder that generates in its place."""
    for module in model.modules():
        config = getattr(module, "generation_config", None)
        if config is None:
            continue
        if config.pad_token_id is None:
            config.pad_token_id = pad_id
        config.forced_eos_token_id = None  # at the limit it would make a cut text look like a finished one


class ModelEngine(ABC):
    """An engine around a loaded model. Subclasses decide when what is computed.

    fallback: why another engine, which would have been faster, was not taken.
    alone: whether prompts are computed one by one.
    check_seconds: from the loaded model to this engine, the check included.
    late_seconds: as Engine's; 0 where nobody knows.
    """

    name: str
    check_seconds = 0.0
    late_seconds = 0.0

    def __init__(
        self, options: EngineOptions, loaded: Loaded | None = None, fallback: str | None = None, alone: bool = False
    ):
        loaded = loaded or load(options)
        self.options, self.fallback, self.alone = options, fallback, alone
        self.model, self.dtype, self.pad_id = loaded.model, loaded.dtype, loaded.pad_id
        self.adapters, self.ropes = loaded.adapters or Adapters(self.model, options), Ropes(self.model)
        self.processor, self.tokenizer = loaded.processor, loaded.processor.tokenizer
        self.image_processor = type(loaded.processor.image_processor).__name__

    @property
    def asks_memory(self) -> bool:
        """Whether a card's memory decides how many texts there are side by side."""
        return self.options.batch_size is None and self.options.device == "cuda"

    @property
    @abstractmethod
    def slots(self) -> int: ...

    @property
    @abstractmethod
    def free(self) -> int: ...

    def adapt(self, adapter: Adapter | None) -> None:
        """Caption with another adapter from now on, or with none. Raises DoesNotFit, and is without one then."""
        if self.busy:
            raise ValueError("texts of the adapter before are not at their end")
        parted = self.adapters.parted
        self._wait_for_device()
        try:
            self.adapters.change(adapter)
        except torch.OutOfMemoryError:
            self.reset()  # which gives back what texts took
            self.adapters.change(adapter)
        if self.adapters.parted > parted:
            self.reset()  # captured graphs read where the weight lay before
        self._wait_for_device()

    def _wait_for_device(self) -> None:
        """Prompts and texts are computed in streams of their own, which know nothing of a change."""
        for number in range(torch.cuda.device_count() if self.options.device == "cuda" else 0):
            torch.cuda.synchronize(number)

    def _checked(self, requests: Iterable[Request]) -> list[Request]:
        requests = list(requests)
        if len(requests) > self.free:
            raise ValueError(f"{len(requests)} requests for {self.free} free places")
        return requests

    def describe(self) -> dict:
        import transformers

        model = self.model
        return {
            "engine": self.name,
            "model": type(model).__name__,
            "image_processor": self.image_processor,
            "dtype": self.options.dtype,
            "device": torch.cuda.get_device_name() if self.options.device == "cuda" else self.options.device,
            "attention": getattr(model.config, "_attn_implementation", None),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            # As plain text: torch's own class would have the coordinator import torch to read it.
            "versions": {"torch": str(torch.__version__), "transformers": transformers.__version__},
            **({"fallback": self.fallback} if self.fallback else {}),
            **({"remarks": remarks} if (remarks := self._remarks()) else {}),
        }

    def _remarks(self) -> list[str]:
        """What a user should know of the model."""
        name, remarks = type(self.model).__name__, []
        if self.model.config.model_type in NO_PROMPT:
            remarks.append(f"{name} reads no prompt, so that --prompt changes nothing.")
        kinds = getattr(self.model.config.get_text_config(decoder=True), "layer_types", None) or ()
        packages = {key: value for kind in kinds for key, value in PACKAGES.get(kind, {}).items()}
        missing = [value for key, value in packages.items() if importlib.util.find_spec(key) is None]
        if missing and self.options.device == "cuda":
            remarks.append(f"{name} is faster with packages that are not installed: pip install {' '.join(missing)}")
        return remarks

    def _limit(self, request: Request) -> int:
        return request.max_new_tokens or self.options.max_new_tokens

    def grouped(
        self, requests: list[Request], apart: Callable[[Request], int] = lambda _: 0
    ) -> Iterator[list[Request]]:
        """The requests, parted where they can't be computed together. apart: a figure in which a group must agree."""
        together = self.model.config.model_type not in UNPADDABLE
        beside, single = [], []
        for request in requests:
            (single if self.alone or self.is_long(request) else beside).append(request)

        def key(request: Request) -> tuple[int, int]:
            return 0 if together else request.prompt_tokens, apart(request)

        for _, group in itertools.groupby(sorted(beside, key=key), key):
            yield list(group)
        yield from ([request] for request in single)

    def is_long(self, request: Request) -> bool:
        """Whether its text would change those that stand in a batch with it."""
        return request.prompt_tokens + self._limit(request) > self.ropes.reach

    def generate(self, requests: list[Request], custom_generate: Callable) -> None:
        """Let transformers' generate prepare a batch of the requests, and hand it to `custom_generate`."""
        penalty = self.options.repetition_penalty
        # As one object: of single settings, generate up to 5.17 looks through all of the config at each call, for 7 ms.
        settings = GenerationConfig(
            do_sample=False,  # custom_generate samples, each row by its own seed
            num_beams=self.options.num_beams,
            max_new_tokens=max(self._limit(request) for request in requests),
            return_dict_in_generate=False,
            **({"repetition_penalty": penalty} if penalty != 1 else {}),
        )
        self.ropes.settle(self.is_long(requests[0]))
        self.model.generate(**self._batch(requests), generation_config=settings, custom_generate=custom_generate)

    def _batch(self, requests: list[Request]) -> dict[str, torch.Tensor]:
        side = "right" if self.model.config.is_encoder_decoder else "left"
        inputs = [request.inputs for request in requests]
        return collate(inputs, self.pad_id, side, self.model.device, self.dtype)

    def _answer(self, request: Request, ids: Sequence[int], ends: set[int], first_non_finite: int) -> Answer:
        """ids: new tokens, what follows the end or the limit included. first_non_finite: the step of the first flaw."""
        ids = ids[: self._limit(request)]
        end = next((place for place, token in enumerate(ids) if token in ends), None)
        steps = len(ids) if end is None else end + 1
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        flags = ("non-finite",) if first_non_finite < steps else ()
        if len(ids[:end]) >= FLOOD and ids[:end].count(self.pad_id) * 2 > len(ids[:end]):
            flags += ("pad-flood",)
        return Answer(request.key, text, "length" if end is None else "stop", len(ids[:end]), flags)
