"""What crosses processes. A ``ref`` is (lease, position in the batch): a result under another lease is dropped."""

from __future__ import annotations

from typing import NamedTuple

from caption.adapter import Adapters
from caption.item import Item

Ref = tuple[int, int]


# coordinator -> worker


class Setup(NamedTuple):
    """First message to a worker: all that it needs to know.

    Attributes:
        flags: of all captions that it makes.
        highest: rating that a judge can give, where that is known.
        shared: descriptor of the memory that a Python caller's pictures lie in, which it has inherited.
        host: as of its seat.
    """

    name: str
    options: object  # caption.engine.EngineOptions
    loaders: int
    decode: object  # caption.image.DecodeOptions
    decode_timeout: float
    guard: object  # caption.guard.GuardOptions
    flags: tuple[str, ...] = ()
    highest: float | None = None
    shared: int | None = None
    adapters: Adapters = Adapters()
    host: str = ""


class Load(NamedTuple):
    """Your turn to load the model (loading takes up to twice the memory, so one after the other)."""


class Begin(NamedTuple):
    """Caption what you hold, and what follows."""


class Batch(NamedTuple):
    """Items to caption, all with the same adapter. ``alone``: run them as one group that nothing else joins, because
    one of them is suspect."""

    lease: int
    items: tuple[Item, ...]
    alone: bool = False


class Finish(NamedTuple):
    """No more batches will come: end when all is done."""


class Drain(NamedTuple):
    """Stop: finish what is inside the engine, leave the rest."""


# worker -> coordinator


class Hello(NamedTuple):
    """The process runs and waits for its turn to load."""

    pid: int


class Loaded(NamedTuple):
    """The next may load; and pictures can be prepared.

    Attributes:
        facts: what the engine says of itself, for run.json.
    """

    seconds: float
    facts: dict


class Ready(NamedTuple):
    """Its device has done what it does only once.

    Attributes:
        laps: seconds from Hello to this, part by part in their order.
    """

    laps: dict[str, float]


class NotLoaded(NamedTuple):
    """The model can't be loaded, say the worker or its loaders; the worker ends after this.

    Attributes:
        error: class of caption.engine.errors; or "memory" or "device", which another try may get past.
    """

    error: str
    message: str


class Adapted(NamedTuple):
    """The engine has loaded an adapter, for the images that follow."""

    path: str
    scale: float
    seconds: float


class Started(NamedTuple):
    """These are about to enter the engine: the only suspects if the worker dies."""

    refs: tuple[Ref, ...]


class Result(NamedTuple):
    """One caption: as the engine gave it, with what the loader saw of the picture; or the score of one.

    Attributes:
        score, parts: None where captions are made.
    """

    ref: Ref
    caption: str
    raw: str | None
    finish_reason: str
    tokens: int
    width: int
    height: int
    seconds: float
    flags: tuple[str, ...]
    score: float | None = None
    parts: dict[str, float] | None = None


class Captioned(NamedTuple):
    results: tuple[Result, ...]


class Overflowed(NamedTuple):
    """fp16 was not enough for these: they are to be done again in numbers of a larger range."""

    refs: tuple[Ref, ...]


class Failure(NamedTuple):
    """An item that failed by itself.

    Attributes:
        error: name of a class below caption.errors.ItemError.
        pixels: of the upright original, or 0 where it isn't known.
    """

    ref: Ref
    error: str
    message: str
    pixels: int = 0


class Failed(NamedTuple):
    failures: tuple[Failure, ...]


class Broken(NamedTuple):
    """The device is unusable for this process; it ends after this and its started items are suspect."""

    message: str


class Stats(NamedTuple):
    """Sent about once a second by a thread of its own, so it also says that the process lives.

    Attributes:
        stage: "loading", "waiting", "preprocessing" or "generating".
        seconds: since the worker's start, by stage; "ending" is the last of its "waiting", told by Left alone, and
            "starved" that part of "generating" in which slots stood empty because no picture was prepared, times
            the share of those, and "late" the part in which the device waited for the host.
        steps: changes whenever the engine or a loader got something done, or another megabyte of the model was read.
        slots: images side by side, as far as the engine knows by now; 0 before it is loaded.
    """

    stage: str
    seconds: dict[str, float]
    steps: int
    slots: int = 0


class Left(NamedTuple):
    """Last word of a worker that ends as told."""

    stats: Stats


# worker -> its loaders, and back


class LoaderSetup(NamedTuple):
    options: object  # caption.engine.EngineOptions
    decode: object  # caption.image.DecodeOptions
    held: tuple = ()  # caption.sharedmemory.Held: what a loader before it has left in their memory


class LoaderReady(NamedTuple):
    pass


class LoaderTask(NamedTuple):
    """Attributes:
    freed: the blocks of shared memory that the loader can use again.
    """

    ref: Ref
    item: Item
    freed: tuple[tuple[int, int], ...] = ()


class Prepared(NamedTuple):
    """Comes, as Refused does, in a caption.sharedmemory.Parcel.

    Attributes:
    inputs: name -> array of one image (batch dimension 1), as the engine wants them.
    width, height: pixels of the upright original.
    """

    ref: Ref
    inputs: dict
    width: int
    height: int


class Refused(NamedTuple):
    """No inputs: ``error`` names a class below ItemError."""

    ref: Ref
    error: str
    message: str
