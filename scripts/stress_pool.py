"""Kill and stop the workers and loaders of a CaptionPool, again and again, while it captions scenes in all forms.

    python scripts/stress_pool.py [--seconds 300] [--seed 1] [--workers 2]

The embedded model captions drawn scenes: as paths, as pictures of Pillow, as encoded bytes and as arrays, in calls of a
random size, some of them left early, in order or not. Meanwhile a thread kills (SIGKILL) or stops (SIGSTOP) a random
worker or loader. Each caption must be the one that the scene got at first, undisturbed; each image must end with one
after at most a few tries; and after the end no process may be left. Ends with status 1 at the first lie.
"""

import argparse
import contextlib
import io
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import psutil
from PIL import Image

from caption import CaptionPool

ROOT = Path(__file__).parents[1]
FORMS = (
    lambda path: path,
    lambda path: Image.open(path),
    lambda path: path.read_bytes(),
    lambda path: np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")),
)


def disturb(pool: CaptionPool, chance: random.Random, over: threading.Event, done: dict) -> None:
    """Every few seconds, until it is over. A seat is given up when its worker dies three times before it is ready, so
    only workers that are ready, and their loaders, are disturbed.
    """
    while not over.wait(chance.uniform(2, 15)):
        ready = [member.child for member in pool._thread._crew.members if member.state == "ready"]
        number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
        with contextlib.suppress(psutil.Error, IndexError):  # it has just ended, or there is none
            victim, kind = psutil.Process(chance.choice(ready).pid), "worker"
            if chance.random() < 0.3:
                victim, kind = chance.choice(victim.children()), "loader"
            victim.send_signal(number)
            done[f"{kind} {number.name}"] = done.get(f"{kind} {number.name}", 0) + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    chance, disturbances, over = random.Random(given.seed), {}, threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        draw = [sys.executable, str(ROOT / "scripts" / "draw_shapes.py"), folder, "--count", "40", "--seed", "11"]
        subprocess.run(draw, check=True, capture_output=True)
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix != ".jsonl")
        options = {"model": "shapes", "device": "cpu", "workers": given.workers, "max_retries": 10}
        with CaptionPool(**options, stall_timeout=10, decode_timeout=5) as pool:
            truth = {path: result.caption for path, result in zip(paths, pool.caption(paths))}
            thread = threading.Thread(target=disturb, args=(pool, random.Random(given.seed), over, disturbances))
            thread.start()
            end, images, calls = time.monotonic() + given.seconds, 0, 0
            try:
                while time.monotonic() < end:
                    chosen = chance.choices(paths, k=chance.randrange(1, 120))
                    stop = chance.randrange(len(chosen)) if chance.random() < 0.3 else None
                    asked = (chance.choice(FORMS)(path) for path in chosen)
                    results = pool.caption(asked, ordered=chance.random() < 0.5)
                    for result in itertools.islice(results, stop):
                        images += 1
                        if result.caption != truth[chosen[result.index]]:
                            print(f"image {result.index} of call {calls}: {result}\nits caption at first: "
                                  f"{truth[chosen[result.index]]!r}")  # fmt: skip
                            return 1
                    results.close()
                    calls += 1
            finally:
                over.set()
                thread.join()
    for process in psutil.Process().children(recursive=True):
        process.wait(10)  # a stopped loader is killed by the kernel when its worker has ended
    shown = ", ".join(f"{count} {name}" for name, count in sorted(disturbances.items()))
    print(f"{images} captions in {calls} calls, all right; {shown}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
