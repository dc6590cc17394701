"""A simulated cluster: the coordinator's own code, timed as it runs, over GPUs that only keep the time of an engine.

``caption.coordinator`` itself runs, with its source, schedule, dispatcher, rows and record; messages are pickled and
unpickled. Simulated are the engine (how long prefills and steps take, how long each caption gets), the system's calls
for messages, and the clock: it goes on by the CPU time that the coordinator takes, and by what was measured of a GPU.
"""

import gc
import heapq
import itertools
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import checkpoint
from caption.channel import frame
from caption.coordinator import Coordinator
from caption.cost import estimator
from caption.crew import Crew, Died, Member
from caption.devices import Seat
from caption.feed import Feed
from caption.item import Item
from caption.messages import Batch, Captioned, Result, Started, Stats
from caption.precision import Precision
from caption.schedule import make_schedule
from caption.settings import Settings
from caption.snapshot import Snapshot
from caption.sources import open_source
from caption.stall import StallWatch

_HALF = 0.4  # of the images: until about then the input is read on, and all slots are full
_LOOK_EVERY = 0.2  # seconds, as caption.lookout
CAPTION = "A red circle lies left of a small blue square on a grey ground. " * 6  # 384 letters, about 95 tokens


@dataclass(frozen=True)
class Engine:
    """What one GPU takes, in seconds. By default Qwen2.5-VL-7B's shape on an H200, from bench_engine.md.

    Attributes:
        prefill: vision and prompt of one picture of 640x480.
        step, row: a step of all slots is ``step`` + ``row`` for each text: 10.4 ms of 256 and 16.8 ms of 512.
        slots, group, steps: texts side by side, pictures in one prefill, steps between two looks.
        refill: so many slots are free before pictures are let in.
        first: from the first batch until the first pictures are prepared.
    """

    prefill: float = 0.0044 + 0.01029
    step: float = 0.0040
    row: float = 25e-6
    slots: int = 512
    group: int = 32
    steps: int = 4
    refill: int = 16
    first: float = 0.0


class Gpu:
    """A worker and its engine: what it holds, and what it says when.

    Attributes:
        inside: lease references of the texts in its slots; left: tokens that each still gets.
        busy: seconds that it computed; ended: when its latest caption ended; lost: seconds of work that died with it.
    """

    def __init__(self, engine: Engine, lengths: np.ndarray):
        self.engine, self._lengths = engine, lengths
        self.prepared: list[tuple] = []  # (ref, index) of items that have not entered the engine
        self.admitted: list[tuple] = []  # entered, and not prefilled yet
        self.inside: list[tuple] = []
        self.left = np.empty(0, np.int32)
        self.asleep, self.alive, self.begun = True, True, False
        self.busy = self.ended = self.lost = 0.0

    def receive(self, batch: Batch) -> None:
        self.prepared += [((batch.lease, place), item.index) for place, item in enumerate(batch.items)]

    def turn(self) -> tuple[float, list]:
        """One turn of the engine: its seconds, and the messages sent at its begin and at its end."""
        engine, said = self.engine, [None, None]
        free = min(engine.slots - len(self.inside), 2 * engine.group) - len(self.admitted)
        if self.prepared and free >= min(engine.slots / 4, engine.refill):
            entering, self.prepared = self.prepared[:free], self.prepared[free:]
            said[0] = Started(tuple(ref for ref, _ in entering))
            self.admitted += entering
        seconds = 0.0
        if self.inside:
            steps = min(engine.steps, int(self.left.max()))
            seconds += steps * (engine.step + engine.row * len(self.inside))
            self.left = self.left - steps
        if self.admitted:
            group, self.admitted = self.admitted[: engine.group], self.admitted[engine.group :]
            seconds += len(group) * engine.prefill
            self.inside += [ref for ref, _ in group]
            self.left = np.concatenate([self.left, self._lengths[[index % len(self._lengths) for _, index in group]]])
        done = self.left <= 0
        if done.any():
            ends = [self.inside[end] for end in np.flatnonzero(done).tolist()]
            results = [Result(ref, f"{ref} {CAPTION}", None, "stop", 95, 640, 480, 9.0, ()) for ref in ends]
            said[1] = Captioned(tuple(results))
            self.inside = [ref for ref, over in zip(self.inside, done.tolist()) if not over]
            self.left = self.left[~done]
        self.busy += seconds
        return seconds, said

    def die(self) -> None:
        tokens = self._lengths.mean() - self.left
        self.lost += len(self.inside) * self.engine.prefill
        self.lost += float(tokens.clip(0).sum()) * (self.engine.step / self.engine.slots + self.engine.row)
        self.prepared, self.admitted, self.inside = [], [], []
        self.left, self.alive, self.asleep = self.left[:0], False, True


@dataclass
class Figures:
    """What one run came to.

    Attributes:
        images, seconds: from when its first worker began to the last caption.
        coordinator: seconds of CPU in it.
        tail: seconds from when the first GPU had nothing left to do until the last caption.
        steady: images/s while all slots are full; share: of one core, that the coordinator takes in that time;
            messages: that it receives and sends a second.
        lost: GPU seconds of work that died with machines; again: images that were inside their engines.
    """

    images: int = 0
    seconds: float = 0.0
    coordinator: float = 0.0
    tail: float = 0.0
    steady: float = 0.0
    share: float = 0.0
    messages: float = 0.0
    lost: float = 0.0
    again: int = 0

    @property
    def rate(self) -> float:
        return self.images / self.seconds


def _seats(count: int) -> list[Seat]:
    return [Seat(f"gpu{number}", "cuda", str(number), None, 1) for number in range(count)]


class SimulatedCrew:
    """As ``caption.crew.Crew``, for the coordinator: the clock goes on while that waits, and by its own CPU time.

    Args:
        call: seconds of CPU that the system's calls for one message take.
        look: seconds that the real crew's look at all workers takes.
        deaths: at these times the GPUs of a machine die, and come back after ``away`` seconds.

    Attributes:
        now: seconds since the first worker began; spent: of them, in the coordinator; messages: received and sent.
        again: images that were inside engines that died.
    """

    patience = 0.0
    working = assembled = True

    def __init__(
        self, gpus: list[Gpu], call: float, look: float, deaths: Mapping[float, range] | None = None, away: float = 30.0
    ):
        self.members = list(map(Member, _seats(len(gpus))))
        for member, gpu in zip(self.members, gpus):
            member.state, member.stats = "ready", Stats("generating", {}, 0, gpu.engine.slots)
        self.now = self.spent = 0.0
        self.messages = self.again = 0
        self._gpus, self._call, self._look, self._away = gpus, call, look, away
        self._place = {member.name: place for place, member in enumerate(self.members)}
        self._plan = sorted((deaths or {}).items())
        self._returns: list[tuple[float, range]] = []
        self._turns: list[tuple[float, int]] = []  # when which GPU's turn ends
        self._coming: list[tuple[float, int, int, bytes]] = []  # messages on their way: when, which, of whom
        self._order = itertools.count()
        self._sent: list[tuple[Member, Batch]] = []
        self._since = time.thread_time()

    def send(self, member: Member, message: Batch) -> None:
        frame(message)
        self._sent.append((member, message))

    def begin(self, member: Member) -> None:
        member.begun = True

    def poll(self, timeout: float) -> list[tuple[Member, object]]:
        self.wait(time.thread_time() - self._since + self._look + self._call * len(self._sent))
        self._deliver()
        self._until_now()
        if timeout and not self._has_news():
            queues = (self._turns, self._coming, self._plan, self._returns)
            following = [queue[0][0] for queue in queues if queue]
            while following and not self._has_news():
                self.now = max(self.now, min(following))
                self._until_now()
                following = [queue[0][0] for queue in queues if queue]
        events = self._deaths()
        heard = []
        while self._coming and self._coming[0][0] <= self.now:
            heard.append(heapq.heappop(self._coming))
        self.wait(self._call * len(heard))
        self.messages += len(heard)
        self._since = time.thread_time()
        return events + [(self.members[place], pickle.loads(body)) for _, _, place, body in heard]

    def wait(self, seconds: float) -> None:
        """The coordinator is held up by something that is not simulated."""
        self.spent += seconds
        self.now += seconds

    def tell_all(self, message: object) -> None:
        self.working = False

    def take_in(self) -> list[Member]:
        return []

    def _has_news(self) -> bool:
        return bool((self._coming and self._coming[0][0] <= self.now) or (self._plan and self._plan[0][0] <= self.now))

    def _deliver(self) -> None:
        self.messages += len(self._sent)
        for member, batch in self._sent:
            gpu = self._gpus[self._place[member.name]]
            gpu.receive(batch)
            if gpu.asleep and gpu.alive:
                gpu.asleep = False
                at = self.now + (0.0 if gpu.begun else gpu.engine.first)
                gpu.begun = True
                heapq.heappush(self._turns, (at, self._place[member.name]))
        self._sent = []

    def _until_now(self) -> None:
        while self._turns and self._turns[0][0] <= self.now:
            at, place = heapq.heappop(self._turns)
            if self._gpus[place].alive:
                self._turn(place, at)
        while self._returns and self._returns[0][0] <= self.now:
            for place in self._returns.pop(0)[1]:
                self._gpus[place].alive, self.members[place].state = True, "ready"

    def _turn(self, place: int, at: float) -> None:
        gpu = self._gpus[place]
        seconds, said = gpu.turn()
        for when, message in ((at, said[0]), (at + seconds, said[1])):
            if message:
                heapq.heappush(self._coming, (when, next(self._order), place, pickle.dumps(message, protocol=5)))
        if said[1]:
            gpu.ended = at + seconds
        gpu.asleep = not (seconds or said[0])
        if not gpu.asleep:
            heapq.heappush(self._turns, (at + seconds, place))

    def _deaths(self) -> list[tuple[Member, object]]:
        events: list[tuple[Member, object]] = []
        while self._plan and self._plan[0][0] <= self.now:
            _, gone = self._plan.pop(0)
            for place in gone:
                self.again += len(self._gpus[place].inside) + len(self._gpus[place].admitted)
                self._gpus[place].die()
                self.members[place].state = "pausing"
                events.append((self.members[place], Died("its node is gone", False, True)))
            self._coming = [one for one in self._coming if one[2] not in gone or one[0] <= self.now]
            heapq.heapify(self._coming)
            self._returns.append((self.now + self._away, gone))
        return events


class _Lookout:
    """Takes a snapshot as often as the real one, and notes the pace while all slots are full."""

    def __init__(self, crew: SimulatedCrew, images: int, full: float):
        self._crew, self._images, self._full, self._last = crew, images, full, 0.0
        self.marks: list[tuple[float, int, float, int]] = []

    def say(self, text: str) -> None:
        pass

    announce = say

    def look(self, snapshot: Callable[[], Snapshot], last: bool = False) -> None:
        crew = self._crew
        if crew.now - self._last < _LOOK_EVERY:
            return
        self._last, ended = crew.now, snapshot().done
        if crew.now >= self._full and ended < _HALF * self._images:
            self.marks = [*self.marks[:1], (crew.now, ended, crew.spent, crew.messages)]


def round_cost(workers: int) -> float:
    """Seconds of CPU that one look of the real crew at so many workers takes, when nothing has come."""
    crew = Crew(_seats(workers), None, StallWatch(300))
    for member in crew.members:
        member.state, member.stats = "ready", Stats("generating", {}, 0, 512)
        member.child = SimpleNamespace(stopped=lambda: False, close=lambda: None)
    crew.poll(0)
    begin, rounds = time.thread_time(), max(20, 20_000 // workers)
    for _ in range(rounds):
        crew.poll(0)
    cost = (time.thread_time() - begin) / rounds
    crew.close()
    return cost


def run(
    engine: Engine,
    gpus: int,
    pictures: Path,
    images: int,
    lengths: np.ndarray,
    call: float,
    header: float = 0.0,
    full: float = 12.0,
    **deaths,
) -> Figures:
    """Simulates one run, from when its first worker began to the last caption.

    Args:
        pictures: a list of so many ``images``, which are not there; the record is written beside it.
        lengths: tokens of the captions, again and again.
        call, deaths: of SimulatedCrew.
        header: seconds that a look into the header of a picture's file takes, for its cost.
        full: seconds after which the slots are full.
    """
    devices = [Gpu(engine, lengths) for _ in range(gpus)]
    crew = SimulatedCrew(devices, call, round_cost(gpus), **deaths)
    out = pictures.with_name("out")
    settings = Settings(input=str(pictures), output=str(out), batch_size=engine.slots)
    source, lookout, estimate = open_source(pictures, 0, out), _Lookout(crew, images, full), estimator(settings)

    def estimated(items: list[Item]) -> list[Item]:
        crew.wait(header * len(items))
        return estimate(items)

    gc.collect()
    gc.disable()  # it would look at the objects of all simulated workers, which are not the coordinator's
    with checkpoint.open(out, {}) as record:
        coordinator = Coordinator(
            settings=settings,
            source=source,
            feed=Feed(source, None, record.done, estimated),
            count=SimpleNamespace(total=images),
            schedule=make_schedule("dynamic", [member.name for member in crew.members], engine.slots),
            record=record,
            crew=crew,
            lookout=lookout,
            run_file=SimpleNamespace(note=lambda **facts: None),
            precision=Precision("fp16"),
            stop=SimpleNamespace(asked=0, waited=0.0),
        )
        coordinator.run()
    gc.enable()
    last = max(gpu.ended for gpu in devices)
    figures = Figures(images, last, crew.spent, last - min(gpu.ended for gpu in devices), again=crew.again)
    figures.lost = sum(gpu.lost for gpu in devices)
    if len(lookout.marks) == 2:
        span, done, spent, messages = (late - early for early, late in zip(*lookout.marks))
        figures.steady, figures.share, figures.messages = done / span, spent / span, messages / span
    return figures
