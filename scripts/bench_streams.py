"""Whether the one writer keeps up with the results of many workers, and where it ends.

    python scripts/bench_streams.py [--workers 64] [--rate 500] [--each 8] [--seconds 20] [--processes 8]
    python scripts/bench_streams.py --rate 0      # as fast as the writer takes them

A run as python -m caption.run does it: input, shards, leases, rows, commits. Only the workers are none: --processes
processes speak for --workers of them, and answer what each is handed with captions of 105 words, --rate images a second
and worker, --each in a message. So what is measured is all that the coordinator does for a caption, and all that it
keeps. Late is how far behind its pace the slowest worker ended. What was measured: bench_workers.md.
"""

import argparse
import contextlib
import os
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil

from caption import job
from caption.channel import Channel
from caption.devices import Seat
from caption.launch import Local
from caption.messages import (
    Batch,
    Begin,
    Captioned,
    Finish,
    Hello,
    Left,
    Load,
    Loaded,
    Ready,
    Result,
    Setup,
    Started,
    Stats,
)
from caption.runfile import read_run_file
from caption.settings import Settings

WORDS = "a photograph of two people who stand on a bridge beside a red bicycle while the sun goes down behind it " * 5
SLOTS = 64
_FULL = 0.002  # seconds until a full socket is tried again


class Stream:
    """The end of one worker in a process that speaks for several."""

    def __init__(self, sock: socket.socket, rate: float, each: int):
        self.channel, self._each = Channel(sock), each
        self._gap = each / rate if rate else 0.0
        self._refs: deque = deque()
        self._due = self._heard = 0.0
        self._begun = self._finishing = self.ended = False
        self.late = 0.0

    def wait(self, now: float) -> float:
        """Seconds until it has something to say."""
        if self.channel.unsent:
            return _FULL
        return max(0.0, min(self._due if self._begun and self._refs else now + 1, self._heard + 1) - now)

    def turn(self, now: float) -> None:
        for message in self.channel.receive():
            if isinstance(message, Setup):
                self.channel.send(Hello(os.getpid()))
            elif isinstance(message, Load):
                self.channel.send(Loaded(0.0, {}))
                self.channel.send(Ready({}))
            elif isinstance(message, Begin):
                self._begun, self._due = True, now
            elif isinstance(message, Batch):
                self._refs += [(message.lease, position) for position in range(len(message.items))]
            elif isinstance(message, Finish):
                self._finishing = True
        if now - self._heard >= 1:
            self._heard = now
            self.channel.send(Stats("generating", {"generating": 1.0}, int(now * 10), SLOTS))
        while self._begun and self._refs and now >= self._due and not self.channel.unsent:
            refs = tuple(self._refs.popleft() for _ in range(min(self._each, len(self._refs))))
            self.late = max(self.late, now - self._due) if self._gap else 0.0
            self._due += self._gap
            self.channel.send(Started(refs))
            self.channel.send(Captioned(tuple(Result(ref, WORDS, None, "stop", 90, 640, 480, 0.1, ()) for ref in refs)))
        if self._finishing and not self._refs and not self.ended:
            self.channel.send(Left(Stats("waiting", {"generating": 1.0}, 0, SLOTS)))
            self.ended = True
        self.channel.flush()


def speak(descriptors: list[int], rate: float, each: int) -> None:
    """The life of a process that speaks for several workers."""
    streams = [Stream(socket.socket(fileno=number), rate, each) for number in descriptors]
    selector = selectors.DefaultSelector()
    for stream in streams:
        selector.register(stream.channel, selectors.EVENT_READ)
    while not all(stream.ended and not stream.channel.unsent for stream in streams):
        now = time.monotonic()
        selector.select(min(stream.wait(now) for stream in streams))
        now = time.monotonic()
        for stream in streams:
            stream.turn(now)
            if stream.channel.ended:
                sys.exit("the coordinator is gone")
    print(f"{max(stream.late for stream in streams):.3f}")


class Spoken:
    """What the crew holds of such a worker, in the shape of a child process."""

    pid = load = None
    killed = taken = False

    def __init__(self, sock: socket.socket):
        self.channel = Channel(sock)

    def join(self, timeout: float) -> bool:
        return True

    def close(self) -> None:
        self.channel.close()

    def new_words(self) -> list[str]:
        return []

    def last_words(self) -> str:
        return "broke down"

    def kill(self) -> None:
        pass

    forget_words = stopped = whereabouts = kill


class Streams(Local):
    """The launcher of such workers."""

    def __init__(self, workers: int, processes: int, rate: float, each: int):
        super().__init__([Seat(f"w{number}", "cpu", "", None, 1) for number in range(workers)])
        pairs = [socket.socketpair() for _ in self.seats]
        self._ours = {seat.name: ours for seat, (ours, _) in zip(self.seats, pairs)}
        theirs = [sock for _, sock in pairs]
        self.processes = []
        for first in range(processes):
            given = [sock.fileno() for sock in theirs[first::processes]]
            speak = [sys.executable, __file__, "--speak", ",".join(map(str, given))]
            command = [*speak, "--rate", str(rate), "--each", str(each)]
            self.processes.append(subprocess.Popen(command, pass_fds=given, stdout=subprocess.PIPE, text=True))
        for sock in theirs:
            sock.close()

    def start(self, seat, environment, descriptors=()):
        return Spoken(self._ours[seat.name])


class Memory(threading.Thread):
    """Takes the resident bytes of this process, four times a second."""

    def __init__(self):
        super().__init__(daemon=True)
        self.taken: list[int] = []
        self.ended = threading.Event()

    def run(self) -> None:
        process = psutil.Process()
        while not self.ended.wait(0.25):
            self.taken.append(process.memory_info().rss)


def measure(given: argparse.Namespace, folder: Path) -> None:
    images = int(given.seconds * (given.rate * given.workers or 40_000))
    listed, out = folder / "list.txt", folder / "out"
    with listed.open("w") as file:
        file.writelines(f"pictures/{index // 1000:05d}/{index:08d}.jpg\n" for index in range(images))
    launcher = Streams(given.workers, given.processes, given.rate, given.each)
    job.open_launcher = lambda settings: contextlib.closing(launcher)
    settings = Settings(input=str(listed), output=str(out), model="null", device="cpu", batch_size=SLOTS)
    memory = Memory()
    memory.start()
    before = resource.getrusage(resource.RUSAGE_SELF)
    with contextlib.redirect_stdout(None), open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
        code = job.run_job(settings)
    after = resource.getrusage(resource.RUSAGE_SELF)
    memory.ended.set()
    late = max(float(process.communicate()[0]) for process in launcher.processes)
    totals = read_run_file(out)["runs"][-1]["totals"]
    if code or totals["captioned"] != images:
        sys.exit(f"the run ended with {code} after {totals['captioned']:,} of {images:,} images")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    pace = f"{given.workers} x {given.rate:g}/s" if given.rate else f"{given.workers}, as fast as they are taken"
    middle, peak = memory.taken[len(memory.taken) // 2], max(memory.taken)
    print(
        f"| {pace}, {given.each} in a message | {images:,} in {totals['seconds']:.1f} s: "
        f"**{images / totals['seconds']:,.0f} rows/s**, {late:.2f} s late | {1e6 * cpu / images:.1f} us of CPU a row, "
        f"{cpu / totals['total_seconds']:.0%} of a core | {middle / 2**20:.0f} MiB in the middle, "
        f"{peak / 2**20:.0f} at most |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64, help="streams")
    parser.add_argument("--processes", type=int, default=8, help="that speak for them")
    parser.add_argument("--rate", type=float, default=500, help="images a second and stream; 0: no limit")
    parser.add_argument("--each", type=int, default=8, help="captions in a message")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--speak", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.speak:
        speak([int(number) for number in given.speak.split(",")], given.rate, given.each)
        return
    with tempfile.TemporaryDirectory() as work:
        measure(given, Path(work))


if __name__ == "__main__":
    main()
