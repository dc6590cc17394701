"""The engine: prepared pictures in, texts or scores out. It knows nothing of files, retries or checkpoints.

This package is the only one that imports torch and transformers, and it does so only when something is loaded:
what stands in this file is plain data, for processes that never compute.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from caption.engine.errors import (
    DoesNotFit,
    DoesNotLoad,
    ModelError,
    NeedsRemoteCode,
    NoSafetensors,
    NotAVisionModel,
    NotFound,
    classify,
    in_words,
)

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from caption.engine.pixels import Packed

__all__ = [
    "JUDGE", "OVERFLOW", "REFERENCE", "SIMILARITY", "Adapter", "Answer", "DoesNotFit", "DoesNotLoad", "Engine",
    "EngineOptions", "ModelError", "NeedsRemoteCode", "NoSafetensors", "NotAVisionModel", "NotFound", "Preparer",
    "Refusal", "Request", "Scored", "classify", "import_engine", "in_words", "is_light", "load_engine", "load_preparer",
]  # fmt: skip


OVERFLOW = ("non-finite", "pad-flood")  # flags of what comes of numbers that left their range
SIMILARITY, JUDGE, REFERENCE = "similarity", "judge", "reference"  # what scores captions


class Adapter(NamedTuple):
    """A LoRA adapter: path of its folder or .safetensors file, and a factor on its own strength."""

    path: str
    scale: float = 1.0


@dataclass(frozen=True)
class EngineOptions:
    """All that is needed to load a model, to prepare pictures for it and to generate."""

    model: str  # a local folder; "null" or "null:MS" for the engine that computes nothing, MS milliseconds a picture
    dtype: str  # "fp16", "bf16" or "fp32"
    device: str  # "cuda", "cpu" or "mps"; a worker sees its own GPUs only, so a number is never needed
    batch_size: int | None  # pictures side by side; None: as many as the memory of a GPU bears, few on a CPU
    prompt: str  # the user turn
    max_new_tokens: int
    system_prompt: str = ""  # the system's turn before it
    num_beams: int = 1
    temperature: float = 0.0  # 0 is greedy: the likeliest token each step
    top_p: float = 1.0  # with a temperature only, as top_k
    top_k: int = 0
    repetition_penalty: float = 1.0  # 1 leaves it to the checkpoint's generation_config
    max_pixels: int | None = None  # larger pictures are scaled down to this many before they are prepared
    trust_remote_code: bool = False
    allow_pickled_weights: bool = False
    adapter: Adapter | None = None  # that the engine begins with
    threads: int | None = None  # CPU threads of torch
    gpus: int = 1  # that the model is spread over
    memory_share: float = 1.0  # the part of a GPU's memory that may be taken: others may sit on the same card
    scorer: str = ""  # SIMILARITY, JUDGE or REFERENCE: captions are scored, which come as the items' prompts
    model_identity: str | None = None  # changes when a file of the model changes; what a check found is kept by it


@dataclass(frozen=True, eq=False)
class Request:
    """One picture to caption. `inputs` is what Preparer.prepare returned; each array has its batch dimension.

    The inputs lie in memory that the loaders use again once they are let go: an engine keeps them no longer than it
    needs them.
    """

    key: Hashable
    inputs: "dict[str, np.ndarray | Packed]"
    seed: int
    max_new_tokens: int | None = None  # None: the options' figure
    penalty: float = 1.0  # a factor on the repetition penalty of the options or the checkpoint

    @property
    def prompt_tokens(self) -> int:
        """The picture's included; 1 where the model reads no prompt and a text has its start alone."""
        ids = self.inputs.get("input_ids", self.inputs.get("decoder_input_ids"))
        return 1 if ids is None else ids.shape[1]


@dataclass(frozen=True)
class Answer:
    """The text of the request with the same key."""

    key: Hashable
    text: str
    finish_reason: str  # "stop": the model ended the text; "length": it was cut at max_new_tokens
    tokens: int  # generated ones, without the one that ends the text
    # "non-finite": NaN or infinity came out of the model on the way; "pad-flood": most of the tokens are padding.
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scored:
    """The score of the request with the same key, and the parts that it is made of, by name."""

    key: Hashable
    score: float
    parts: dict[str, float]
    flags: tuple[str, ...] = ()  # "non-finite": there is none


@dataclass(frozen=True)
class Refusal:
    """The request with the same key can't be captioned, though it was tried alone; all others go on."""

    key: Hashable
    error: Exception


class Engine(Protocol):
    """Holds up to `slots` requests and brings them to their end, in any order.

    check_seconds: of its loading, those after the model was there.
    late_seconds: those of its steps in which the device had nothing to do because the host came late with its next
    work, as far as that is seen.
    """

    check_seconds: float
    late_seconds: float

    @property
    def slots(self) -> int:
        """How many requests it holds at most, as far as it knows by now."""

    @property
    def free(self) -> int:
        """How many more requests it takes now."""

    @property
    def busy(self) -> int:
        """How many requests it holds."""

    def warm_up(self) -> None:
        """Do what a device does only once, such as making kernels and taking memory, before the first pictures come."""

    def admit(self, requests: Iterable[Request]) -> None:
        """Take requests in. Raises ValueError for more than `free`, and then takes none."""

    def adapt(self, adapter: Adapter | None) -> None:
        """Caption with another adapter from now on, or with none. Only while nothing is held.

        Raises DoesNotFit, and is without an adapter then.
        """

    def step(self) -> list[Answer | Scored | Refusal]:
        """Go on with what it holds, and return what ended.

        Exceptions of torch pass unchanged (see `classify`); after one, `reset` before the next `admit`.
        """

    def reset(self) -> None:
        """Forget everything admitted."""

    def describe(self) -> dict:
        """What answers: engine, model class, dtype, device, attention, parameters, versions. Plain values, for JSON.

        "fallback", where it stands: why a faster engine could not be taken, one sentence for the user.
        """


class Preparer(Protocol):
    """Makes of one picture what the model wants. Never touches a GPU."""

    needs_image: bool  # False: `prepare` wants no picture, so none need be decoded
    chat_template: str | None  # the template that wraps the prompt; None: the prompt is used as it stands

    def prepare(
        self,
        image: "Image.Image | None",
        prompt: str | None = None,
        max_pixels: int | None = None,
        key: str = "",
    ) -> "dict[str, np.ndarray | Packed]":
        """Return C-contiguous arrays, named as the model names them, each with its batch dimension.

        image: RGB, upright. prompt, max_pixels: in place of the options'; where similarity or agreement is scored, the
        prompt is what is scored. key: the item's id; only the null engine uses it, to answer with something that
        belongs to the item. Raises what the processor raises (ValueError
        mostly): the picture's fault, or the prompt's.
        """


def load_engine(options: EngineOptions) -> Engine:
    """Load the model and return what runs it. Raises ModelError; a GPU's exceptions pass unchanged."""
    if is_null(options.model):
        from caption.engine.null import NullEngine

        return NullEngine(options)
    if options.scorer == REFERENCE:
        from caption.engine.reference import ReferenceEngine

        return ReferenceEngine(options)
    if options.scorer == SIMILARITY:
        from caption.engine.similarity import SimilarityEngine

        return SimilarityEngine(options)
    from caption.engine.check import load_fastest

    return load_fastest(options)


def import_engine(options: EngineOptions) -> None:
    """Import the libraries that load_engine will need: seconds of work that need not wait for a turn to load."""
    if not is_light(options):
        from caption.engine import library

        library.import_all()


def load_preparer(options: EngineOptions, own_process: bool = False) -> Preparer:
    """Load the model's processor. Raises ModelError.

    own_process: the calling process only prepares and will never compute. Then transformers is loaded without torch,
    which takes a third of the time and a fifth of the memory; `import torch` fails there from then on.
    """
    if is_null(options.model):
        from caption.engine.null import NullPreparer

        return NullPreparer()
    if options.scorer == REFERENCE:
        from caption.engine.reference import ReferencePreparer

        return ReferencePreparer()
    if options.scorer == SIMILARITY:
        from caption.engine.pairs import PairPreparer

        return PairPreparer(options, own_process)
    from caption.engine.prepare import ProcessorPreparer

    return ProcessorPreparer(options, own_process)


def is_null(model: str) -> bool:
    """Whether this names the engine that computes nothing."""
    return model == "null" or model.startswith("null:")


def is_light(options: EngineOptions) -> bool:
    """Whether nothing is loaded for it, and no picture wanted: it can be prepared for in the worker itself."""
    return is_null(options.model) or options.scorer == REFERENCE
