"""Bench: a worker in a thread, on a real channel, with an engine that fails where a test wants it."""

import socket
import threading
import time

from caption.channel import Channel, ChildChannel
from caption.engine import Answer, EngineOptions
from caption.guard import GuardOptions
from caption.image import DecodeOptions
from caption.item import Item
from caption.loaderpool import InlineLoader
from caption.messages import Batch, Begin, Captioned, Failed, Finish, Load, Setup, Started
from caption.worker import Worker


class FakeEngine:
    """Answers each request with its key after ``steps`` steps.

    Args:
        fault: given the keys inside, the exception that a step raises, or None.
        unfit: by adapter, the exception that taking it raises.
        cold: the exception that warming up raises, or None.
    """

    check_seconds = late_seconds = 0.0

    def __init__(self, log, size=8, steps=1, fault=lambda keys: None, unfit=(), cold=None):
        self.log, self.size, self.steps, self.fault, self.unfit = log, size, steps, fault, dict(unfit)
        self.cold = cold
        self.left = {}
        self.go_on = threading.Event()  # a test can hold it inside a step
        self.go_on.set()

    @property
    def slots(self):
        return self.size

    @property
    def free(self):
        return self.size - len(self.left)

    def warm_up(self):
        self.log.append(("warm up", ()))
        if self.cold:
            raise self.cold

    def admit(self, requests):
        assert len(requests) <= self.free
        self.log.append(("admit", tuple(request.key for request in requests)))
        self.left.update((request.key, self.steps) for request in requests)

    def adapt(self, adapter):
        assert not self.left
        self.log.append(("adapt", adapter and adapter.path))
        if adapter and adapter.path in self.unfit:
            raise self.unfit[adapter.path]

    def step(self):
        self.log.append(("step", tuple(self.left)))
        assert self.go_on.wait(20)
        error = self.fault(set(self.left))
        if error:
            raise error
        self.left = {key: left - 1 for key, left in self.left.items()}
        ended = [key for key, left in self.left.items() if not left]
        for key in ended:
            del self.left[key]
        return [Answer(key, f"picture {key}.", "stop", 2) for key in ended]

    def reset(self):
        self.left.clear()

    def describe(self):
        return {"engine": "fake"}


class HeldLoader(InlineLoader):
    """Gives what the test puts into ``answers``, when it puts it there."""

    def __init__(self):
        self.answers, self.loading, self.steps = [], 0, 0

    def submit(self, items):
        self.loading += len(items)

    def take(self, timeout=0):
        if not self.answers:
            time.sleep(min(timeout, 0.01))
        done, self.answers = self.answers, []
        self.loading -= len(done)
        return done


class RecordingChannel(ChildChannel):
    """Notes what is sent in the log that the engine writes too, so that their order shows."""

    def __init__(self, sock, log):
        super().__init__(sock)
        self.log = log

    def send(self, message):
        self.log.append(message)
        super().send(message)


class Bench:
    """A worker in a thread, and the coordinator's end of its channel."""

    def __init__(self):
        self.log = []
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        self.theirs = RecordingChannel(theirs, self.log)
        self.raised = None
        self.leases = 0

    def start(self, model="null", begin=True):
        options = EngineOptions(model, "fp32", "cpu", 8, "Describe it.", 16)
        setup = Setup("cpu0", options, 1, DecodeOptions(1000, 1000), 10.0, GuardOptions("Describe it."))
        self.worker = Worker(self.theirs, setup)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self.channel.send(Load())
        if begin:
            self.channel.send(Begin())

    def _run(self):
        try:
            self.worker.run()
        except BaseException as error:
            self.raised = error

    def give(self, count, alone=False, name="x", lora=None):
        """Hands out a batch; returns its refs."""
        self.leases += 1
        items = tuple(Item(i, f"{name}{i}", f"{name}{i}", "/nowhere", 100 + i, lora=lora) for i in range(count))
        self.channel.send(Batch(self.leases, items, alone))
        return [(self.leases, position) for position in range(count)]

    def sent(self, kind):
        return [message for message in self.log if isinstance(message, kind)]

    def engine_saw(self, what):
        return [entry[1] for entry in list(self.log) if type(entry) is tuple and entry[0] == what]

    def captioned(self):
        return [result.ref for message in self.sent(Captioned) for result in message.results]

    def failed(self):
        return {one.ref: one.error for message in self.sent(Failed) for one in message.failures}

    def groups(self):
        return [started.refs for started in self.sent(Started)]

    def wait(self, condition, timeout=20.0):
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, self.log
            assert self.raised is None, self.raised
            time.sleep(0.002)

    def wait_for_results(self, count):
        self.wait(lambda: len(self.captioned()) + len(self.failed()) >= count)

    def finish(self):
        self.channel.send(Finish())
        self.end()

    def end(self):
        self.thread.join(20)
        assert not self.thread.is_alive(), self.log
        assert self.raised is None, self.raised
