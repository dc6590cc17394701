"""Worker: one GPU's life. ``python -m caption.worker FD`` is started by a launcher; FD is its end of the channel.

It waits for its turn to load the model, then captions what it is handed until it is told to end. Loaders prepare
ahead of it. It writes no output: all goes through the channel to the coordinator.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence

from caption.channel import ChildChannel
from caption.engine import OVERFLOW, Adapter, DoesNotFit, Refusal, import_engine, in_words
from caption.errors import AdapterUnusable, EngineFailed, NoScore, OutOfMemory
from caption.lanes import Group, Lanes
from caption.laps import Laps
from caption.loaderpool import InlineLoader, LoaderPool
from caption.messages import (
    Adapted,
    Batch,
    Begin,
    Broken,
    Captioned,
    Drain,
    Failed,
    Failure,
    Finish,
    Hello,
    Left,
    Load,
    Loaded,
    LoaderSetup,
    NotLoaded,
    Overflowed,
    Prepared,
    Ready,
    Ref,
    Refused,
    Setup,
    Started,
)
from caption.model import with_model_here
from caption.process import child_socket, leave_stopping_to_parent
from caption.pulse import Pulse
from caption.result import Inside, make_result

_WAIT = 0.2  # seconds between looks at the mail while there is nothing to do
_FOLLOWS = 0.02  # seconds in which a batch follows another that was handed out with it


class _Unusable(Exception):
    """This process can't caption any more; ``last_word`` tells the coordinator why."""

    def __init__(self, last_word: Broken | NotLoaded):
        super().__init__(last_word.message)
        self.last_word = last_word


class Worker:
    """Args:
    channel: to the coordinator.
    setup: what it said first.
    """

    def __init__(self, channel: ChildChannel, setup: Setup):
        self._channel, self._setup = channel, setup
        self._mail: queue.SimpleQueue = queue.SimpleQueue()
        self._engine = None
        self._loaders = None
        self._begun = self._finishing = self._draining = False
        self._lanes = Lanes(setup.adapters.run)  # of what is free to join any group
        self._apart: dict[Ref, Group] = {}  # in the loaders, and to run by themselves
        self._groups: deque[list[Prepared]] = deque()  # groups that run by themselves, one after the other
        self._inside: dict[Ref, Inside] = {}  # what the engine holds
        self._alone = False  # what is inside runs by itself
        self._capacity = sys.maxsize  # images side by side, as far as memory bears them
        self._borne = 1  # the most that it has borne
        self._items: dict[Ref, object] = {}
        self._pulse = Pulse(channel, self._slots)

    def run(self) -> None:
        """Returns when told to end; raises EOFError when the coordinator is gone."""
        threading.Thread(target=self._listen, name="mail", daemon=True).start()
        self._channel.send(Hello(os.getpid()))
        self._laps = Laps()
        self._loaders = self._start_loaders()
        self._laps.end("loaders")
        self._pulse.start(self._loaders)
        with contextlib.suppress(Exception):  # what can't be imported is said when the model is loaded
            import_engine(self._setup.options)
            self._laps.end("libraries")
        if not isinstance(self._mail.get(), Load) or not self._load():
            return
        try:
            self._warm_up()
            while self._turn():
                pass
        except _Unusable as error:
            self._channel.send(error.last_word)
        else:
            self._channel.send(Left(self._pulse.last_stats()))

    # ---- mail ----

    def _listen(self) -> None:
        try:
            while True:
                self._mail.put(self._channel.receive())
        except EOFError:
            os._exit(1)  # the coordinator is gone: nobody would keep what is still computed

    def _slots(self) -> int:
        return min(self._engine.slots, self._capacity) if self._engine else 0

    def _read_mail(self, wait: float) -> bool:
        """Whether there was any, now or within ``wait`` seconds."""
        read = False
        while True:
            try:
                message = self._mail.get(timeout=wait) if wait else self._mail.get_nowait()
            except queue.Empty:
                return read
            wait, read = 0, True
            if isinstance(message, Batch):
                self._pulse.enter("preprocessing")
                self._accept(message)
            elif isinstance(message, Begin):
                self._begun = True
            elif isinstance(message, Finish):
                self._finishing = True
            elif isinstance(message, Drain):
                self._draining = True

    def _accept(self, batch: Batch) -> None:
        items = {(batch.lease, position): item for position, item in enumerate(batch.items)}
        self._items |= items
        if batch.alone:
            self._prepare_apart(list(items))
        else:
            for item in batch.items:
                self._lanes.expect(self._setup.adapters.of(item))
            self._loaders.submit(items)

    def _prepare_apart(self, refs: Sequence[Ref]) -> None:
        """Has them prepared as a group that runs by itself."""
        self._apart |= dict.fromkeys(refs, Group(len(refs)))
        self._loaders.submit({ref: self._items[ref] for ref in refs})

    # ---- loading ----

    def _start_loaders(self) -> InlineLoader | LoaderPool:
        from caption.engine import is_light, load_preparer, pinned

        setup = self._setup
        if is_light(setup.options):
            return InlineLoader(load_preparer(setup.options))
        lock = pinned.lock_pages if setup.options.device == "cuda" else None
        told = LoaderSetup(setup.options, setup.decode)
        return LoaderPool(setup.loaders, told, setup.decode_timeout, lock, shared=setup.shared)

    def _load(self) -> bool:
        from caption.engine import DoesNotLoad, ModelError, classify, load_engine

        started = time.monotonic()
        self._laps.end("turn to load")
        try:
            import_engine(self._setup.options)
            self._laps.end("libraries")
            self._engine = load_engine(self._setup.options)
        except ModelError as error:
            self._channel.send(NotLoaded(type(error).__name__, str(error)))
            return False
        except Exception as error:
            kind = classify(error)
            kind = kind if kind in ("memory", "device") else DoesNotLoad.__name__
            larger = " A model larger than one GPU needs --gpus-per-worker 2 or more" * (kind == "memory")
            self._channel.send(NotLoaded(kind, in_words(error) + larger))
            return False
        self._laps.end("model", time.monotonic() - self._engine.check_seconds)
        self._laps.end("check")
        self._channel.send(Loaded(time.monotonic() - started, self._engine.describe()))
        return True

    def _warm_up(self) -> None:
        """The device, while the loaders prepare the first pictures."""
        wait = _WAIT
        while self._read_mail(wait):
            wait = _FOLLOWS
        self._pulse.enter("loading")
        try:
            self._engine.warm_up()
        except Exception as error:  # nothing is inside that could be to blame
            raise _Unusable(Broken(in_words(error))) from error
        self._laps.end("warm-up")
        self._pulse.enter("waiting")
        self._channel.send(self._pulse.stats())  # it may know by now how many it can hold
        self._channel.send(Ready(self._laps.seconds))

    # ---- one turn: mail, loaders, engine ----

    def _turn(self) -> bool:
        idle = not (self._items and self._begun)
        self._pulse.enter("waiting" if idle else "preprocessing")
        self._read_mail(_WAIT if idle else 0)
        if self._loaders.failure:
            raise _Unusable(self._loaders.not_loaded or Broken(self._loaders.failure))
        if not self._inside and (self._draining or (self._finishing and not self._items)):
            return False
        # Only while the engine is empty is there nothing better to do than to wait for the loaders.
        self._sort(self._loaders.take(0 if idle or self._inside or self._group_is_ready() else _WAIT))
        if self._begun:
            self._run_engine()
        return True

    def _sort(self, answers: list[Prepared | Refused]) -> None:
        failures = []
        for answer in answers:
            group, prepared = self._apart.pop(answer.ref, None), isinstance(answer, Prepared)
            if not group:
                self._lanes.arrive(self._wanted(answer.ref), answer if prepared else None)
            elif group.complete_with(answer if prepared else None):
                self._groups.append(group.prepared)
            if not prepared:
                del self._items[answer.ref]
                failures.append(Failure(answer.ref, answer.error, answer.message))
        if failures:
            self._channel.send(Failed(tuple(failures)))

    def _group_is_ready(self) -> bool:
        lanes = self._lanes
        full = len(lanes.ready) >= self._free() or not lanes.coming or self._loaders.full
        return bool(self._groups) or (bool(lanes.ready) and full) or bool(lanes.following(self._loaders.full))

    def _wanted(self, ref: Ref) -> Adapter | None:
        return self._setup.adapters.of(self._items[ref])

    def _free(self) -> int:
        return min(self._engine.free, self._capacity - len(self._inside))

    def _run_engine(self) -> None:
        try:
            self._admit()
            if not self._inside:
                return
            self._pulse.enter("generating")
            hungry, begin, late = self._hungry(), time.monotonic(), self._engine.late_seconds
            answers = self._engine.step()
            late = self._engine.late_seconds - late
            self._pulse.late(late)
            self._pulse.starved(hungry * max(0.0, time.monotonic() - begin - late))
        except EOFError:  # the coordinator is gone
            raise
        except Exception as error:
            self._survive(error)
            return
        self._pulse.steps += 1
        self._borne = max(self._borne, len(self._inside))
        if answers:
            self._report(answers)

    def _hungry(self) -> float:
        """The share of the places that are empty because no picture is prepared yet."""
        if self._draining or self._groups or self._alone or self._lanes.ready or not self._lanes.coming:
            return 0.0
        free = self._free()
        return free / (free + len(self._inside))

    def _admit(self) -> None:
        """Lets in what there is room for: a group that must run alone when the engine is empty, else what is ready."""
        if self._draining or (self._inside and (self._groups or self._alone)):
            return
        if self._groups:
            group = self._groups.popleft()
            if self._adapt(self._wanted(group[0].ref), group):
                self._alone = True
                room = self._free()
                if group[room:]:
                    self._groups.appendleft(group[room:])
                self._enter_engine(group[:room])
            return
        if not self._inside and (turn := self._lanes.following(self._loaders.full)) and not self._adapt(*turn):
            return
        if (ready := self._lanes.ready) and (self._inside or self._group_is_ready()):
            self._alone = False
            self._enter_engine([ready.popleft() for _ in range(min(self._free(), len(ready)))])

    def _adapt(self, adapter: Adapter | None, group: Sequence[Prepared] = ()) -> bool:
        """Gives the empty engine this adapter, for a group or for its lane; False: it does not fit, and they failed."""
        if adapter == self._lanes.open:
            return True
        self._pulse.enter("loading")
        try:
            seconds = self._lanes.change(self._engine, adapter)
        except DoesNotFit as error:
            doomed = group or self._lanes.clear(adapter)
            for one in doomed:
                del self._items[one.ref]
            self._channel.send(Failed(tuple(Failure(one.ref, AdapterUnusable.__name__, str(error)) for one in doomed)))
            return False
        if adapter:
            self._channel.send(Adapted(*adapter, seconds))
        return True

    def _enter_engine(self, group: list[Prepared]) -> None:
        from caption.engine import Request

        if not group:
            return
        self._channel.send(Started(tuple(prepared.ref for prepared in group)))
        now, requests = time.monotonic(), []
        for prepared in group:
            item = self._items[prepared.ref]
            self._inside[prepared.ref] = Inside(prepared.width, prepared.height, now)
            requests.append(Request(prepared.ref, prepared.inputs, item.seed, item.max_new_tokens, item.penalty))
        self._engine.admit(requests)

    def _survive(self, error: Exception) -> None:
        """The engine raised: find out whose fault it is. Raises _Unusable if the process can't go on."""
        from caption.engine import classify

        kind = classify(error)
        if kind == "device" or not self._inside:  # or it was the change of the adapter that failed
            raise _Unusable(Broken(in_words(error)))
        if kind == "model":
            raise _Unusable(NotLoaded(type(error).__name__, str(error)))
        inside = dict(self._inside)
        self._inside.clear()
        self._engine.reset()
        if len(inside) > 1:
            half = (len(inside) + 1) // 2
            self._prepare_apart(list(inside)[:half])
            self._prepare_apart(list(inside)[half:])
            if kind == "memory":
                self._capacity = half
        else:
            if kind == "memory":  # this picture alone is too much: that says nothing of others
                self._capacity = max(self._capacity, self._borne)
            name = OutOfMemory.__name__ if kind == "memory" else EngineFailed.__name__
            [(ref, alone)] = inside.items()
            self._refuse(ref, alone, name, error)
        self._pulse.steps += 1

    def _refuse(self, ref: Ref, alone: Inside, name: str, error: Exception) -> None:
        del self._items[ref]
        self._channel.send(Failed((Failure(ref, name, in_words(error), alone.pixels),)))

    def _report(self, answers: list) -> None:
        now, results, overflowed = time.monotonic(), [], []
        for answer in answers:
            inside = self._inside.pop(answer.key)
            if isinstance(answer, Refusal):
                self._refuse(answer.key, inside, EngineFailed.__name__, answer.error)
                continue
            prompt = self._items.pop(answer.key).prompt
            if self._setup.options.dtype == "fp16" and set(answer.flags) & set(OVERFLOW):
                overflowed.append(answer.key)
                continue
            try:
                seconds = round(now - inside.since, 3)
                results.append(make_result(answer, self._setup, prompt, inside.width, inside.height, seconds))
            except NoScore as error:
                self._channel.send(Failed((Failure(answer.key, NoScore.__name__, str(error), inside.pixels),)))
        if results:
            self._channel.send(Captioned(tuple(results)))
        if overflowed:
            self._channel.send(Overflowed(tuple(overflowed)))

    def close(self) -> None:
        if self._loaders:
            self._loaders.close()


def main() -> None:
    leave_stopping_to_parent(with_parent=True)
    faulthandler.register(signal.SIGUSR1)  # the coordinator asks where it hangs
    try:
        channel = ChildChannel(child_socket())
        worker = Worker(channel, with_model_here(channel.receive()))
        worker.run()
        worker.close()
    except EOFError:
        pass
    sys.stdout.flush()
    os._exit(0)  # threads of libraries must not hold up an end that has been announced


if __name__ == "__main__":
    main()
