"""LoaderPool: the loaders of one worker, fed and watched by a thread, replaced when one crashes or hangs."""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from caption.awake import AwakeClock
from caption.errors import DecoderCrashed, DecoderHung, ItemError
from caption.item import Item
from caption.messages import LoaderReady, LoaderSetup, LoaderTask, NotLoaded, Prepared, Ref, Refused
from caption.process import LAST_SECONDS, Child
from caption.sharedmemory import Incoming, Parcel, new_memory

if TYPE_CHECKING:
    import numpy as np

_AHEAD = 2  # tasks sent to a loader: one in work, one to follow
_STARTS = 3  # loaders that may die in a row before one becomes ready
_START_TIMEOUT = 900.0  # seconds that one has to become ready: many may load their libraries from one slow disk
_MOST_HELD = 4 << 30  # bytes of prepared pictures that wait, for a loader or in the engine, before loading pauses
_LOCK_PAUSE = 4.0  # times what the latest piece of memory took to be locked
_PAUSE = 0.02  # seconds between looks at what has been let go
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    # Memory of each picture's arrays is used again for the next: without this glibc gives it back to the system, and
    # fetches it again page by page, a third of the time that many tiles take.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}


class InlineLoader:
    """Loading in the worker itself, for an engine that wants no picture (``preparer.needs_image`` is False)."""

    failure = not_loaded = None
    full = False

    def __init__(self, preparer):
        self._preparer = preparer
        self._done: list[Prepared] = []
        self.loading = 0
        self.steps = 0

    def submit(self, items: Mapping[Ref, Item]) -> None:
        self._done += [
            Prepared(ref, self._preparer.prepare(None, item.prompt, key=item.id), 0, 0) for ref, item in items.items()
        ]
        self.steps += len(items)

    def take(self, timeout: float = 0) -> list[Prepared]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        self._done.clear()


class LoaderPool:
    """Prepared arrays come by shared memory. At most ``most_held`` bytes of them are held, and what the loaders have in
    work on top: then no more is begun until some are let go, or until somebody waits and has nothing else to do.

    Args:
        count: loader processes.
        setup: what each is told first.
        timeout: seconds that one image may take.
        lock_pages: given to the memory (sharedmemory.Incoming); None: as it is.
        shared: descriptor of the memory that a Python caller's pictures lie in.

    Attributes:
        loading: images submitted and not yet taken out as Prepared or Refused.
        steps: images answered, for the watch over progress.
    """

    def __init__(
        self,
        count: int,
        setup: LoaderSetup,
        timeout: float,
        lock_pages: Callable[[np.ndarray], bool] | None = None,
        most_held: int = _MOST_HELD,
        shared: int | None = None,
    ):
        self._shared = [] if shared is None else [shared]
        self._setup, self._timeout, self._lock_pages, self._most_held = setup, timeout, lock_pages, most_held
        self._memories = [Incoming(new_memory()) for _ in range(count)]
        self._lock_next = 0.0
        self._wanted = False  # somebody waits for an answer
        self.full = False  # loading pauses until memory is let go
        self._waiting: deque[LoaderTask] = deque()
        self._done: deque = deque()
        self._lock = threading.Condition()
        self._wake_read, self._wake_write = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._loaders: list[_Loader] = []
        self._clock = AwakeClock()
        self._dead_starts = 0
        self._closing = False
        self.failure: str | None = None  # why no loader can be started
        self.not_loaded: NotLoaded | None = None  # the same, where the model is to blame
        self.loading = 0
        self.steps = 0
        for memory in self._memories:
            self._start(memory)
        self._thread = threading.Thread(target=self._run, name="loaders", daemon=True)
        self._thread.start()

    def submit(self, items: Mapping[Ref, Item]) -> None:
        """All at once: each call wakes the thread, which takes the interpreter's lock for a while."""
        with self._lock:
            self._waiting += [LoaderTask(ref, item) for ref, item in items.items()]
            self.loading += len(items)
        os.write(self._wake_write, b"x")

    def take(self, timeout: float = 0) -> list:
        """What has been prepared or refused since; waits up to ``timeout`` seconds for the first."""
        with self._lock:
            if not self._done and timeout and not self.failure:
                self._wanted = True
                self._lock.wait(timeout)
                self._wanted = False
            done = list(self._done)
            self._done.clear()
            self.loading -= len(done)
        return done

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")
        self._thread.join(10)  # longer than it waits for the end of a loader
        for loader in self._loaders:
            loader.child.close()
        for memory in self._memories:
            memory.close()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # ---- in the thread ----

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # a thread must not end in silence: the worker would wait for ever
            self._fail(f"the loaders broke down: {type(error).__name__}: {error}")

    def _serve(self) -> None:
        while not self._closing:
            self._write_when_possible()
            busy = any(loader.tasks or not loader.ready for loader in self._loaders)
            timeout = _PAUSE if self.full else 0.5 if busy else None
            for key, mask in self._selector.select(timeout):
                if key.fd == self._wake_read:
                    os.read(self._wake_read, 65536)
                    continue
                if mask & selectors.EVENT_WRITE:
                    key.data.child.channel.flush()
                if mask & selectors.EVENT_READ:
                    self._listen(key.data)
            self._watch()
            self._feed()
            if self._lock_pages and time.monotonic() >= self._lock_next:
                self._lock_one()

    def _lock_one(self) -> None:
        """A piece of memory. The engine's calls to the driver may have to wait for it, so they get most of the time."""
        began = time.monotonic()
        if any(memory.lock_pages(self._lock_pages) for memory in self._memories):
            ended = time.monotonic()
            self._lock_next = ended + (ended - began) * _LOCK_PAUSE

    def _start(self, memory: Incoming) -> None:
        child = Child("caption.loader", ENVIRONMENT, [memory.descriptor, *self._shared])
        loader = _Loader(child, memory, self._clock.now())
        loader.child.channel.send(self._setup._replace(held=memory.held()))
        self._loaders.append(loader)
        self._selector.register(loader.child.channel, selectors.EVENT_READ, loader)

    def _write_when_possible(self) -> None:
        """A message that the socket did not take whole goes on as the loader reads it."""
        for loader in self._loaders:
            channel = loader.child.channel
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.unsent else 0)
            if self._selector.get_key(channel).events != wanted:
                self._selector.modify(channel, wanted, loader)

    def _listen(self, loader: _Loader) -> None:
        for message in loader.child.channel.receive():
            if isinstance(message, LoaderReady):
                loader.ready, self._dead_starts = True, 0
            elif isinstance(message, NotLoaded):
                self.not_loaded = message
                self._fail(message.message)
            elif isinstance(message, Parcel):
                loader.tasks.popleft()
                loader.since = self._clock.now()
                self._answer(loader.memory.unpack(message))
        if loader.child.channel.ended:
            loader.child.join(LAST_SECONDS)
            end = loader.child.last_words()
            self._blame(loader, DecoderCrashed, f"the process that decoded it {end}")
            self._replace(loader, end)

    def _watch(self) -> None:
        now = self._clock.now()
        for loader in list(self._loaders):
            loader.child.forget_words()
            if loader.ready and loader.tasks and now - loader.since > self._timeout:
                if not loader.child.stopped():  # by somebody: then it is not the picture's fault
                    self._blame(loader, DecoderHung, f"decoding took longer than {self._timeout:g} s")
                self._replace(loader, "hung")
            elif not loader.ready and now - loader.since > _START_TIMEOUT:
                self._replace(loader, f"was not ready after {_START_TIMEOUT:g} s")

    def _blame(self, loader: _Loader, error: type[ItemError], message: str) -> None:
        """The picture in work gets the blame for what became of its loader."""
        if loader.ready and loader.tasks:
            self._answer(Refused(loader.tasks.popleft().ref, error.__name__, message))

    def _replace(self, loader: _Loader, end: str) -> None:
        """end: how it ended, if that was before it was ready."""
        self._loaders.remove(loader)
        self._selector.unregister(loader.child.channel)
        loader.child.close()
        self._dead_starts += not loader.ready
        with self._lock:
            self._waiting.extendleft(reversed(loader.tasks))
        if self.failure:
            return
        if self._dead_starts >= _STARTS:
            self._fail(f"the loader {end}")
        else:
            self._start(loader.memory)

    def _fail(self, why: str) -> None:
        with self._lock:
            self.failure = why
            self._lock.notify_all()

    def _feed(self) -> None:
        self.full = bool(self._waiting) and sum(memory.bytes_held for memory in self._memories) >= self._most_held
        if self.full and not self._wanted:
            return
        for _ in range(_AHEAD):
            for loader in self._loaders:
                if not loader.ready or len(loader.tasks) >= _AHEAD:
                    continue
                with self._lock:
                    if not self._waiting:
                        return
                    task = self._waiting.popleft()
                if not loader.tasks:
                    loader.since = self._clock.now()
                loader.tasks.append(task)
                loader.child.channel.send(task._replace(freed=loader.memory.freed()))

    def _answer(self, answer) -> None:
        with self._lock:
            self._done.append(answer)
            self.steps += 1
            self._lock.notify_all()


class _Loader:
    def __init__(self, child: Child, memory: Incoming, since: float):
        self.child, self.memory = child, memory
        self.ready = False
        self.tasks: deque[LoaderTask] = deque()  # sent and unanswered; the first is the one in work
        self.since = since  # when it was started, or the first one's turn began
