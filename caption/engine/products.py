"""Products of many rows with weights, each shape in the way of cuBLASLt that was fastest when tried.

The library has hundreds of ways for a product, and names one by a heuristic, which torch takes. Where a side of the
weight is short, as in vision towers, others are up to a quarter faster on an H200, to the same bits. Which one is found
by trial while an engine warms up, and kept for the next run.
"""

import contextlib
import hashlib
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn import functional

from caption import cache
from caption.engine import cublaslt
from caption.engine.attention import HALVES
from caption.engine.cublaslt import Product, Shape

MANY = 8192  # rows from which on a product is worth it; fewer come in steps, and in the last groups
SOME = 1024  # the same in the small group that an engine warms up with
SHORT = 1536  # a side of the weight; where both are longer, none of the others was faster under load
ALIGNED = 256  # bytes, as the heuristic supposes
OUTPUTS = 2**26  # numbers that a trial makes: so many that the last tiles, which are not full, count for little
START_SECONDS = 2.0  # after which no trial begins any more: the rest may be tried when the next run starts
AWAKE_SECONDS = 0.03  # of work, for an idle GPU's clock to rise: without it the first way took up to 1.6 times as long
TRIAL_SECONDS = 0.3  # of a shape, for all ways, one after the other
RUNS = 2  # of each
FINALISTS, ROUNDS = 4, 5  # then so many of the fastest, and of the first of those near it, in turn,
FINAL_SECONDS = 4e-3  # each so long
FASTER = 0.98  # what another way must take of the time of the library's choice
NEAR = 0.9  # what the fastest takes of the time of another that is as good, as far as a trial can tell


def linear(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """As torch's. states: [..., inner]; weight: [columns, inner]; bias: [columns]."""
    return _make("plain" if bias is None else "bias", states, weight, bias)


def linear_gelu(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """GELU in its tanh form of `linear`, as the product's end. states: [rows, inner]."""
    return _make("gelu", states, weight, bias)


def add_linear(
    total: torch.Tensor, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Add `linear` to total, [rows, columns], in place. states: [rows, inner]."""
    return _make(_adding(bias), states, weight, bias, total)


def added_at_once(
    total: torch.Tensor, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> bool:
    """The same where a way for that is chosen. False: nothing was done; for torch there may be something better."""
    return _by_chosen_way(_adding(bias), states, weight, bias, total) is not None


def trying() -> bool:
    """Whether products are made within `tried`."""
    return _seen is not None


def any_chosen() -> bool:
    return any(_chosen.values())


def forget() -> None:
    """All chosen ways, for as long as this process lives: what was made with them is not right."""
    _chosen.update(dict.fromkeys(_chosen))


def _adding(bias: torch.Tensor | None) -> str:
    return "added" if bias is None else "added bias"


def _make(
    kind: str, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, total: torch.Tensor | None = None
) -> torch.Tensor:
    made = _by_chosen_way(kind, states, weight, bias, total)
    return _by_torch(kind, states, weight, bias, total) if made is None else made


def _by_torch(
    kind: str, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, total: torch.Tensor | None
) -> torch.Tensor:
    if kind == "added":
        return total.addmm_(states, weight.t())
    if kind == "added bias":
        return total.add_(functional.linear(states, weight, bias))
    if kind == "gelu":
        return torch._addmm_activation(bias, states, weight.t(), use_gelu=True)
    return functional.linear(states, weight, bias)


def may_win(shape: Shape) -> bool:
    """Whether a trial of other ways is worth its time."""
    return min(shape.columns, shape.inner) <= SHORT


def _by_chosen_way(
    kind: str, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, made: torch.Tensor | None
) -> torch.Tensor | None:
    """None where torch is to do it."""
    rows = states.numel() // states.shape[-1]
    if rows < (MANY if _seen is None else SOME) or not states.is_cuda:
        return None
    shape = Shape(kind, *weight.shape, states.dtype)
    if not may_win(shape):
        return None
    if _seen is not None:
        _seen[states.device, shape] += rows * shape.columns * shape.inner
    chosen = _chosen.get((states.device, shape))
    if chosen is None or rows < MANY:
        return None
    made = states.new_empty(*states.shape[:-1], shape.columns) if made is None else made
    if not all(one is None or _lies_plain(one) for one in (states, weight, bias, made)):
        return None
    product, way = chosen
    flat = states.view(rows, shape.inner)
    return made if product.run(way, flat, weight, bias, made.view(rows, shape.columns)) else None


def _lies_plain(one: torch.Tensor) -> bool:
    return one.is_contiguous() and one.data_ptr() % ALIGNED == 0


_chosen: dict[tuple[torch.device, Shape], tuple[Product, bytes] | None] = {}  # None: torch's way
_seen: Counter[tuple[torch.device, Shape]] | None = None  # how much work it was


@contextlib.contextmanager
def tried() -> Iterator[None]:
    """Find the fastest ways for all products that are made within it, at its end, the largest first. What is not in
    halves stays as it is; so does all where memory is short, or there is no such library."""
    global _seen
    _seen = Counter()
    try:
        yield
        seen = [one for one, _ in _seen.most_common() if one[1].dtype in HALVES]
    finally:
        _seen = None
    end = time.monotonic() + START_SECONDS
    for device, shape in seen:
        if (device, shape) not in _chosen:
            with contextlib.suppress(cublaslt.Failed, torch.OutOfMemoryError):
                _chosen[device, shape] = _choose(shape, device, end)
    if seen:
        torch.cuda.empty_cache()


def _choose(shape: Shape, device: torch.device, end: float) -> tuple[Product, bytes] | None:
    """As kept, or by a trial that begins before `end`, by time.monotonic."""
    sizes = f"{shape.kind} {shape.columns} {shape.inner} {shape.dtype}"
    names = (sizes, torch.cuda.get_device_name(device), torch.__version__, cublaslt.version())
    digest = hashlib.blake2b("\0".join(names).encode(), digest_size=16)
    for source in (__file__, cublaslt.__file__):
        digest.update(Path(source).read_bytes())
    name = f"products/{digest.hexdigest()}"
    kept, product = cache.recall(name), Product(shape, device)
    try:
        way = bytes.fromhex(kept["way"])
    except (TypeError, KeyError, ValueError):
        if time.monotonic() > end:
            return None
        way = fastest(product, device)
        cache.keep(name, {"of": sizes, "way": way.hex()})
    return (product, way) if way else None


class Trial:
    """A product of noise, `rows` of it."""

    def __init__(self, product: Product, rows: int, device: torch.device):
        kind, columns, inner, dtype = product.shape
        generator = torch.Generator(device).manual_seed(0)

        def noise(*sizes: int) -> torch.Tensor:
            return torch.randn(*sizes, generator=generator, device=device, dtype=dtype)

        self.product, self.kind = product, kind
        self.states, self.weight = noise(rows, inner), noise(columns, inner) * inner**-0.5
        self.bias = noise(columns) if kind not in ("plain", "added") else None
        self.made = torch.zeros(rows, columns, device=device, dtype=dtype)

    def by_torch(self) -> torch.Tensor:
        return _by_torch(self.kind, self.states, self.weight, self.bias, self.made)

    def by(self, way: bytes) -> bool:
        """Into `made`, or added to it. False: the library refused."""
        return self.product.run(way, self.states, self.weight, self.bias, self.made)

    def same(self, way: bytes) -> bool:
        """Whether it makes torch's bits."""
        self.made.zero_()
        expected = self.by_torch().clone()
        self.made.zero_()
        return self.by(way) and torch.equal(self.made, expected)


@torch.inference_mode()
def fastest(product: Product, device: torch.device) -> bytes:
    """The way that is, of those that make the same bits as torch; b"" where torch's own is as good. Of ways that are
    nearly as fast it is the first: under load a GPU is at the limit of its power, where the most frugal way is the
    fastest, and no trial is long enough to see that."""
    rows = max(SOME, OUTPUTS // product.shape.columns)
    trial, times = Trial(product, rows, device), {}
    awake = time.monotonic() + AWAKE_SECONDS
    while time.monotonic() < awake:
        seconds(trial.by_torch, RUNS)
    end = awake + TRIAL_SECONDS
    for way in product.ways(rows):
        if time.monotonic() < end and trial.by(way):  # the library loads it
            times[way] = seconds(lambda way=way: trial.by(way), RUNS)
    finalists = dict.fromkeys([*_near(times)[:FINALISTS], *sorted(times, key=times.get)[:FINALISTS]])
    works = {way: lambda way=way: trial.by(way) for way in finalists}
    works[b""] = trial.by_torch
    runs = math.ceil(FINAL_SECONDS / seconds(trial.by_torch, RUNS))
    rounds = [{way: seconds(work, runs) for way, work in works.items()} for _ in range(ROUNDS)]
    took = {way: statistics.median(one[way] for one in rounds) for way in works}
    enough = {way: took[way] for way in times if way in took and took[way] < FASTER * took[b""]}
    return next(filter(trial.same, [*_near(enough), *sorted(enough, key=enough.get)]), b"")


def _near(times: dict[bytes, float]) -> list[bytes]:
    """The ways that are nearly as fast as the fastest, in their order."""
    least = min(times.values(), default=0.0)
    return [way for way, took in times.items() if NEAR * took <= least]


def seconds(work: Callable, runs: int) -> float:
    """Of one of so many runs, on the device."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(runs):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / runs
