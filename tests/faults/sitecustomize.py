"""Imported by each Python process of a run under test: breaks the one thing that FAULT names.

Items whose id contains "poison" are the ones it hits; the do-nothing engine is the one it breaks.
"""

import fcntl
import json
import os
import signal
import sys
import time
from dataclasses import replace

FAULT = os.environ.get("FAULT", "")
marker = os.environ.get("FAULT_MARKER", "")  # a file that says that it has broken once


def _first_time():
    """True for the first process that asks."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _poisoned(engine):
    return [request for request in engine.held if b"poison" in request.inputs["text"].tobytes()]


def _break(step):
    def broken(engine):
        if _poisoned(engine):
            if FAULT == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if FAULT == "hang":
                time.sleep(1000)
            if FAULT == "device":
                raise RuntimeError("CUDA error: device-side assert triggered")
            if FAULT == "error" or (FAULT == "error in company" and len(engine.held) > 1):
                raise RuntimeError("this picture is poison")
            if FAULT == "memory":
                raise MemoryError("out of memory")
            if FAULT == "error after the first":
                if os.path.exists(marker):
                    raise RuntimeError("this picture is poison from its second try on")
                open(marker, "w").close()
            if FAULT == "error once alone" and (len(engine.held) > 1 or not os.path.exists(marker)):
                if len(engine.held) == 1:
                    open(marker, "w").close()
                raise RuntimeError("this picture is poison, once")
        return step(engine)

    return broken


def _put_on_fake_gpus(engine):
    """The engine fails as torch does when its GPU is lost, or is broken; see tests/fakegpus."""
    step, init = engine.step, engine.__init__

    def gpu():
        with open(os.environ["FAKE_GPUS"]) as file:
            gpus = json.load(file)["gpus"]
        return next((gpu for gpu in gpus if gpu["uuid"] == os.environ["CUDA_VISIBLE_DEVICES"]), {"lost": True})

    def step_on_gpu(self):
        if gpu().get("lost"):
            raise RuntimeError("CUDA error: unspecified launch failure")
        if gpu().get("broken"):
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        if FAULT == "gpu":
            return step(self)
        with open(os.environ["FAKE_GPUS"] + os.environ["CUDA_VISIBLE_DEVICES"], "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return step(self)

    def init_on_gpu(self, options):
        if gpu().get("lost"):
            raise RuntimeError("No CUDA GPUs are available")
        if gpu().get("full"):
            raise RuntimeError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 80.00 GiB"
            )
        init(self, options)

    engine.step, engine.__init__ = step_on_gpu, init_on_gpu


if FAULT:
    from caption.engine import Answer
    from caption.engine.null import NullEngine

    NullEngine.step = _break(NullEngine.step)
    if FAULT == "hang in load":
        sound = NullEngine.__init__

        def _hangs_once(self, options):
            if _first_time():
                time.sleep(1000)
            sound(self, options)

        NullEngine.__init__ = _hangs_once
    if FAULT == "hang in load" or FAULT == "hang at start":
        from caption import stall

        stall.LOADING = stall.LEAST_LOADING = 1  # so that the test need not wait
    if FAULT == "hang at start" and "caption.worker" in sys.orig_argv and _first_time():
        time.sleep(1000)
    if FAULT == "one by one":  # each picture ends by itself, as in slots; so each enters by itself

        def _first_ends(self):
            time.sleep(self.seconds)
            one = self.held.pop(0)
            text = one.inputs["text"].tobytes().decode()
            return [Answer(one.key, text, "stop", 1)]

        NullEngine.step = _first_ends
    if FAULT == "cut off":
        whole = NullEngine.step
        NullEngine.step = lambda self: [replace(answer, finish_reason="length") for answer in whole(self)]
    if FAULT == "held load":
        _load = NullEngine.__init__

        def _all_but_the_first_wait(self, options):
            held = not _first_time()
            while held and not os.path.exists(f"{marker}.go"):
                time.sleep(0.02)
            _load(self, options)

        NullEngine.__init__ = _all_but_the_first_wait
    if FAULT == "decoder":
        import ctypes

        from caption import image

        sound = image.read_image

        def _crashes(where, options):
            if b"poison" in os.fsencode(where):
                ctypes.string_at(0)
            return sound(where, options)

        image.read_image = _crashes
    if FAULT == "load":

        def _no_memory(self, options):
            raise MemoryError("out of memory while loading")

        NullEngine.__init__ = _no_memory
    if FAULT.startswith("gpu"):
        from caption import gpus

        gpus._PATIENCE = 3.0
    if FAULT in ("gpu", "gpu for one at a time"):
        from caption import growth

        growth.SPAN, growth._LEAST = 1.5, 8  # so that the test need not wait
        _put_on_fake_gpus(NullEngine)

if FAULT == "no peft":
    import importlib.util

    _find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *package: None if name == "peft" else _find(name, *package)

if FAULT in ("disk full", "sync error"):
    import errno

    from checkpoint import disk

    left = int(os.environ["FAULT_AFTER"])  # bytes, or calls, that still succeed

    def _limited(call, cost, error):
        def limited(fd, *rest):
            global left
            left -= cost(*rest)
            if left < 0:
                raise OSError(error, os.strerror(error))
            return call(fd, *rest)

        return limited

    if FAULT == "disk full":
        disk.write = _limited(disk.write, lambda data, offset: len(data), errno.ENOSPC)
    else:
        disk.sync = _limited(disk.sync, lambda: 1, errno.EIO)
