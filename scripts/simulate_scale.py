"""How a run would do on 1 to 1,000 GPUs and a billion images: pace, the coordinator's load, lost work, idle ends.

    python scripts/simulate_scale.py [--gpus 1,8,64,256,512,1000] [--images 1000000000] [--each 3000]
        [--header 0.000024] [--lifetime 24] [--away 600] [--machine 8]
    python scripts/simulate_scale.py --calibrate

Each number of GPUs is simulated image by image (simulated_cluster.py), EACH images a GPU, or 1.5 million in all: long
enough to see the pace of full slots and the end. What a billion takes follows from that pace, the deaths of machines,
and for shards from a draw of what each gets. --calibrate measures what the simulation takes from this machine, and
compares it with a real run. What came out: scale.md.
"""

import argparse
import heapq
import os
import pickle
import platform
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from caption.channel import Channel, ChildChannel
from caption.messages import Captioned, Result
from scripts.bench_checkpoint import processor
from scripts.bench_workers import write_list
from scripts.simulated_cluster import Engine, Figures, run

ROOT = Path(__file__).parents[1]
CALL = 6e-6  # seconds of the system's calls for one message, by --calibrate
NAMES = 190_000  # of a list that a job reads a second, to find its own among them; README.md
HEADER = 24e-6  # seconds for the header of a file that is in memory; 0 for tars and tables; bench_sources.py
MOST = 1_500_000  # images that are simulated one by one
LOAD = 60.0  # seconds from the start of a job to its first batch, its model at hand
# Seconds until the first pictures are in: fitted to the first line of MEASURED, the others are predictions.
FIRST = 1.86
# GPUs, images, images/s: bench_workers.md.
MEASURED = ((1, 960, 48.6), (1, 3840, 55.3), (4, 3840, 196.9))
CAPTION = "A red circle lies left of a small blue square on a grey ground. " * 6


def lengths(count: int) -> np.ndarray:
    """Tokens of each caption, as in bench_engine.py: about 91 on average."""
    least, mean, most, spread = 16, 95, 256, 0.5
    return np.random.default_rng(1).lognormal(np.log(mean) - spread**2 / 2, spread, count).clip(least, most).astype(int)


def simulated(engine: Engine, gpus: int, images: int, tokens: np.ndarray, **more) -> Figures:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        return run(engine, gpus, write_list(Path(folder), images), images, tokens, CALL, **more)


def beside_measured() -> None:
    print("| GPUs | images | measured | simulated | |\n| ---: | ---: | ---: | ---: | --- |")
    rates = {}
    for gpus, images, measured in MEASURED:
        found = rates[gpus, images] = simulated(Engine(first=FIRST), gpus, images, lengths(960)).rate
        note = "fitted" if (gpus, images) == MEASURED[0][:2] else f"{100 * (found / measured - 1):+.1f} %"
        print(f"| {gpus} | {images:,} | {measured:.1f} images/s | {found:.1f} images/s | {note} |", flush=True)
    (one, few, a), (_, many, b), (four, _, c) = MEASURED
    for what, real, ours in (
        ("the same work each", c / a, rates[four, many] / rates[one, few]),
        ("the same total", c / b, rates[four, many] / rates[one, many]),
    ):
        print(f"| {four} against 1 | {what} | {real:.2f} times | {ours:.2f} times | {100 * (ours / real - 1):+.1f} % |")


def one_run(counts: list[int], each: int, header: float) -> dict[int, Figures]:
    print("\n| GPUs | images/s | of linear | coordinator, of a core | messages/s | microseconds an image | idle end |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    found: dict[int, Figures] = {}
    for gpus in counts:
        images = min(gpus * each, MOST)
        figures = found[gpus] = simulated(Engine(first=FIRST), gpus, images, lengths(100_000), header=header)
        alone = found[counts[0]].steady / counts[0]
        print(
            f"| {gpus:,} | {figures.steady:,.0f} | {100 * figures.steady / gpus / alone:.0f} % | {figures.share:.2f} | "
            f"{figures.messages:,.0f} | {1e6 * figures.share / figures.steady:.0f} | {idle(figures)} |",
            flush=True,
        )
    return found


def idle(figures: Figures) -> str:
    return "starved" if figures.share > 0.98 else f"{figures.tail:.1f} s"


def a_death(machine: int, each: int) -> float:
    """GPU seconds of work that die with one machine of eight."""
    middle = each / 2 / 55
    gpus = 8 * machine
    figures = simulated(Engine(first=FIRST), gpus, gpus * each, lengths(100_000), deaths={middle: range(machine)})
    print(
        f"\nA machine of {machine} GPUs that dies among {gpus} takes {figures.lost:.0f} GPU seconds of work with it; "
        f"{figures.again:,} images were inside its engines and are done again."
    )
    return figures.lost


def shards(images: int, machines: int, jobs: int, rate: float, deaths: float, lost: float) -> tuple[float, float]:
    """Hours until all jobs have ended, and the share of the machines' time in which they had none any more.

    Args:
        rate: images/s of one machine; deaths: of it, a second; lost: seconds that each costs.
    """
    random = np.random.default_rng(7)
    free = [0.0] * machines
    for size in random.multinomial(images, [1 / jobs] * jobs):
        seconds = max(size / rate, images / NAMES)  # each job reads all names
        at = heapq.heappop(free)
        heapq.heappush(free, at + LOAD + seconds + random.poisson(deaths * seconds) * (lost + LOAD))
    end = max(free)
    return end / 3600, sum(end - at for at in free) / (end * machines)


def whole(found: dict[int, Figures], given: argparse.Namespace, lost: float) -> None:
    deaths = 1 / (given.lifetime * 3600)  # of one machine, a second
    each_death = given.away + lost / given.machine  # seconds in which the whole machine does nothing that stays
    up = 1 / (1 + deaths * each_death)
    alone = found[min(found)].steady / min(found)
    print("\n| GPUs | one run: hours | machines that die | lost with them | idle at the end | "
          "shards, one a machine: hours | idle | four a machine: hours | idle |")  # fmt: skip
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for gpus, figures in found.items():
        machines = max(1, gpus // given.machine)
        hours = given.images / (figures.steady * up) / 3600
        died = machines * hours * 3600 * deaths
        row = f"| {gpus:,} | {hours:,.1f} | {died:,.0f} | {100 * (1 - up):.2f} % | {idle(figures)} |"
        pace = alone * min(gpus, given.machine)
        for jobs in (machines, 4 * machines):
            took, unused = shards(given.images, machines, jobs, pace, deaths, each_death)
            row += f" {took:,.1f} | {100 * unused:.1f} % |"
        print(row, flush=True)


def calibrate() -> None:
    print(f"system's calls for one message: {1e6 * calls():.1f} microseconds (the simulation takes {1e6 * CALL:.0f})")
    with tempfile.TemporaryDirectory() as folder:
        small, large = (coordinator_seconds(Path(folder), count) for count in (50_000, 250_000))
    nothing = Engine(prefill=1e-4, step=1e-9, row=0.0, slots=64, group=64, steps=256, refill=64)
    figures = simulated(nothing, 8, 250_000, np.full(1000, 95), full=0.5)
    print(
        "coordinator of 8 workers that do nothing, microseconds of CPU an image: "
        f"real run {1e6 * (large - small) / 200_000:.1f}, simulated {1e6 * figures.coordinator / 250_000:.1f}"
    )


def calls() -> float:
    """Seconds of CPU for one message through a real socket: waiting for it and receiving it, without its unpickling."""
    texts = (f"{place} {CAPTION}" for place in range(22))
    results = tuple(Result((1, 0), text, None, "stop", 95, 640, 480, 9.0, ()) for text in texts)
    ours, theirs = socket.socketpair()
    channel, child, count = Channel(ours), ChildChannel(theirs), 3000
    body = pickle.dumps(Captioned(results), protocol=5)
    selector, spent = selectors.DefaultSelector(), 0.0
    selector.register(channel, selectors.EVENT_READ)
    for _ in range(count):
        child.send(Captioned(results))
        begin = time.thread_time()
        selector.select(0)
        channel.receive()
        received = time.thread_time()
        pickle.loads(body)
        spent += received - begin - (time.thread_time() - received)
    channel.close()
    theirs.close()
    return spent / count


def coordinator_seconds(folder: Path, count: int) -> float:
    """CPU seconds of the coordinator's process in a real run with an engine that does nothing."""
    words = [str(write_list(folder, count)), "--output", str(folder / str(count)), "--model", "null", "--device", "cpu"]
    words += ["--workers", "8", "--batch-size", "64"]
    code = f"import time; from caption.run import main; assert main({words!r}) == 0; print(time.process_time())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", default="1,8,64,256,512,1000", help="numbers of GPUs (default %(default)s)")
    parser.add_argument("--images", type=int, default=1_000_000_000, help="of the whole job (default %(default)s)")
    parser.add_argument("--each", type=int, default=3000, help="images a GPU that are simulated (default %(default)s)")
    parser.add_argument("--header", type=float, default=HEADER, help="seconds a look in a file (default %(default)s)")
    parser.add_argument("--machine", type=int, default=8, help="GPUs of a machine (default %(default)s)")
    parser.add_argument("--lifetime", type=float, default=24, help="hours that a machine lives (default %(default)s)")
    parser.add_argument("--away", type=float, default=600, help="seconds until another is there (default %(default)s)")
    parser.add_argument("--calibrate", action="store_true", help="measure what is taken from this machine")
    given = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, "
          f"numpy {np.__version__}, orjson {metadata.version('orjson')}\n")  # fmt: skip
    if given.calibrate:
        calibrate()
        return
    beside_measured()
    found = one_run(sorted(map(int, given.gpus.split(","))), given.each, given.header)
    whole(found, given, a_death(given.machine, given.each))


if __name__ == "__main__":
    main()
