"""Kills real runs at random instants, resumes them, and compares every row with the truth.

    python scripts/stress_kill.py --rounds 900 --seed 1 --engine null
    python scripts/stress_kill.py --rounds 100 --seed 1 --engine shapes
    python scripts/stress_kill.py --rounds 100 --seed 1 --engine sampled
    python scripts/stress_kill.py --rounds 100 --seed 1 --engine null --launcher ray

A round starts the run again with other settings that may change (workers, batch size, checkpoint interval, schedule,
loaders, start, stall timeout), and, if it has not finished before, after a random time kills the coordinator, a worker,
a loader or the whole group with SIGKILL, ends it with SIGINT or SIGTERM, stops a worker or loader for good, or stops
one process or all and lets them go on. After each round, rows written whole before must still stand as they were. When
a job is complete, its rows are compared word by word with an undisturbed run of the same job, and that run's with the
truth (sampled ones are drawn by chance). Then the next job begins. Ctrl-C stops between rounds; the same command goes
on. The last line says what was checked.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SAME = ("caption", "finish_reason", "tokens", "width", "height", "seed")
IMAGES = {"null": 4000, "shapes": 60, "sampled": 60}
LONGEST = {"null": 2.5, "shapes": 15.0, "sampled": 15.0}  # seconds until the kill, at most
STARTING = {"local": 0.0, "ray": 6.0}  # seconds more
MODEL = {
    "null": ["--model", "null:2"],
    "shapes": ["--model", "shapes"],
    "sampled": ["--model", "shapes", "--temperature", "2", "--max-new-tokens", "24"],
}


class Stress:
    """A stress test that lives in a folder and can be stopped and go on there."""

    def __init__(self, folder: Path, engine: str, seed: int, launcher: str):
        self.folder, self.engine, self.seed, self.launcher = folder, engine, seed, launcher
        self.input, self.out = folder / "input", folder / "out"
        self._state = folder / "state.json"
        folder.mkdir(parents=True, exist_ok=True)
        state = json.loads(self._state.read_text()) if self._state.exists() else {}
        if state and (state["engine"], state["seed"]) != (engine, seed):
            sys.exit(f"{folder} holds another stress test: choose another --folder, or remove it.")
        self.starts, self.round = state.get("starts", 0), state.get("round", 0)
        self.jobs, self.checked = state.get("jobs", 0), state.get("checked", 0)
        self.kills = Counter(state.get("kills", {}))
        self._truth = self._draw()

    def run(self, rounds: int) -> None:
        reference = self._reference()
        while self.round < rounds:
            before = self._whole_rows()
            victim = self._one_round()
            after = self._whole_rows()
            if not after.startswith(before):
                sys.exit(f"round {self.round}: rows that were whole before have changed (folder {self.folder})")
            self.starts += 1
            if victim == "finished":
                self._compare(reference)
                self._next_job()
            else:
                self.round += 1
                self.kills[victim] += 1
                if self.round % 20 == 0:
                    print(f"round {self.round}/{rounds}: {self.jobs} jobs complete, {dict(self.kills)}", flush=True)
            self._save()
        while self._one_round(disturb=False) != "finished":
            pass
        self._compare(reference)
        self._next_job()
        self._save()
        print(
            f"{self.round} rounds, {self.starts} starts, {self.jobs} jobs, {self.checked} rows right, "
            f"none lost or twice: {dict(self.kills)}"
        )

    # ---- one round ----

    def _one_round(self, disturb: bool = True) -> str:
        """Runs until the end or the kill; returns who was killed, or "finished"."""
        rng = random.Random(f"{self.seed} {self.starts}")
        longest = LONGEST[self.engine] + STARTING[self.launcher]
        limit = time.monotonic() + (rng.uniform(0, longest) if disturb else 600)
        victims = ["coordinator", "worker", "worker", "group", "loader", "SIGINT", "SIGTERM", "stopped", "paused"]
        victim = rng.choice(victims)
        with (self.folder / "run.log").open("ab") as log:
            process = subprocess.Popen(
                self._command(self.out, rng), stdout=log, stderr=log, start_new_session=True, cwd=ROOT
            )
        while time.monotonic() < limit:
            if process.poll() is not None:
                return self._finished(process)
            time.sleep(0.01)
        if not disturb:
            os.killpg(process.pid, signal.SIGKILL)
            sys.exit(f"an undisturbed run does not end (folder {self.folder})")
        return self._kill(process, victim, rng)

    def _command(self, out: Path, rng: random.Random | None) -> list[str]:
        command = [sys.executable, "-m", "caption.run", str(self.input), "--output", str(out), *MODEL[self.engine]]
        command += ["--launcher", self.launcher]
        if rng:
            choices = {
                "--workers": [1, 2, 3] if self.engine == "null" else [1, 2, 4],
                "--batch-size": [1, 3, 8, 32],
                "--checkpoint-every": [1, 7, 50, 1000],
                "--schedule": ["dynamic", "round-robin", "lockstep"],
                "--loaders": [1, 2],
                "--start": ["together", "each"],
                "--stall-timeout": [3, 6],
            }
            for option, values in choices.items():
                command += [option, str(rng.choice(values))]
        return command

    def _kill(self, process: subprocess.Popen, victim: str, rng: random.Random) -> str:
        if victim in ("SIGINT", "SIGTERM"):
            os.killpg(process.pid, signal.Signals[victim])
        elif victim == "group":
            os.killpg(process.pid, signal.SIGKILL)
        elif victim == "coordinator":
            process.kill()
        else:
            # The run must survive this: let it go on for a moment, then kill it all.
            {"stopped": self._stop, "paused": self._pause}.get(victim, self._kill_one)(process, victim, rng)
            if process.poll() is not None:
                return self._finished(process)
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait(60)
        if victim in ("SIGINT", "SIGTERM") and code == 0:
            return "finished"
        deadline = time.monotonic() + 10
        while left := children(process.pid, "caption."):
            if time.monotonic() > deadline:
                sys.exit(f"round {self.round}: processes {left} outlive the run by 10 s")
            time.sleep(0.02)
        return victim

    def _kill_one(self, process: subprocess.Popen, victim: str, rng: random.Random) -> None:
        if pids := children(process.pid, f"caption.{victim}"):
            os.kill(rng.choice(pids), signal.SIGKILL)
        time.sleep(rng.uniform(0, 1))

    def _stop(self, process: subprocess.Popen, _: str, rng: random.Random) -> None:
        """For good: only --stall-timeout gets the run on."""
        if pids := children(process.pid, f"caption.{rng.choice(['worker', 'worker', 'loader'])}"):
            os.kill(rng.choice(pids), signal.SIGSTOP)
        time.sleep(rng.uniform(3, 12))

    def _pause(self, process: subprocess.Popen, _: str, rng: random.Random) -> None:
        """One process, or all as by a Ctrl-Z."""
        everybody = children(process.pid, "caption.")
        pids = rng.choice([[process.pid], everybody, everybody[-1:]])
        for sign, pause in ((signal.SIGSTOP, rng.uniform(0, 5)), (signal.SIGCONT, rng.uniform(0, 1))):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sign)
            time.sleep(pause)

    def _finished(self, process: subprocess.Popen) -> str:
        if process.returncode:
            sys.exit(f"round {self.round}: the run ended with {process.returncode}, see {self.folder / 'run.log'}")
        return "finished"

    # ---- what must hold ----

    def _whole_rows(self) -> bytes:
        path = self.out / "captions.jsonl"
        data = path.read_bytes() if path.exists() else b""
        return data[: data.rfind(b"\n") + 1]

    def _compare(self, reference: dict[str, dict]) -> None:
        rows = read_rows(self.out / "captions.jsonl")
        failed = read_rows(self.out / "failed.jsonl")
        if failed:
            sys.exit(f"round {self.round}: images failed: {failed[:3]}")
        by_id = {row["id"]: row for row in rows}
        if len(by_id) != len(rows) or set(by_id) != set(self._truth):
            sys.exit(f"round {self.round}: {len(rows)} rows of {len(by_id)} ids for {len(self._truth)} images")
        for id, row in by_id.items():
            if any(row[field] != reference[id][field] for field in SAME):
                sys.exit(f"round {self.round}: {row} is not the row of an undisturbed run, {reference[id]}")
        verified = subprocess.run(
            [sys.executable, "-m", "caption.verify", str(self.out), str(self.input)], cwd=ROOT, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if verified.returncode:
            sys.exit(f"round {self.round}: caption.verify says: {verified.stdout}{verified.stderr}")
        self.checked += len(rows)

    def _next_job(self) -> None:
        self.jobs += 1
        shutil.rmtree(self.out)

    def _reference(self) -> dict[str, dict]:
        """Rows by id of a run that nothing disturbs, themselves compared with the truth."""
        out = self.folder / "undisturbed"
        subprocess.run(self._command(out, None), check=True, capture_output=True, cwd=ROOT)
        rows = {row["id"]: row for row in read_rows(out / "captions.jsonl")}
        right = sum(rows[id]["caption"] == text for id, text in self._truth.items())
        print(f"undisturbed: {right} of {len(self._truth)} captions are the truth of their picture", flush=True)
        if self.engine != "sampled" and right < 0.97 * len(self._truth):
            sys.exit("the undisturbed run is wrong already")
        return rows

    def _draw(self) -> dict[str, str]:
        """The pictures, and what stands on each."""
        count, truth = IMAGES[self.engine], self.folder / "truth.json"
        if not truth.exists():
            if self.engine == "null":
                self.input.mkdir(exist_ok=True)
                names = [f"{number:05}.jpg" for number in range(count)]
                for name in names:
                    (self.input / name).touch()
                found = {name: name for name in names}
            else:
                draw = [sys.executable, "scripts/draw_shapes.py", str(self.input), "--count", str(count)]
                subprocess.run([*draw, "--seed", str(self.seed)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
                rows = read_rows(self.input / "truth.jsonl")
                found = {row["image"]: row["caption"] for row in rows}
            truth.write_text(json.dumps(found))
        return json.loads(truth.read_text())

    def _save(self) -> None:
        state = {"engine": self.engine, "seed": self.seed, "starts": self.starts, "round": self.round,
                 "jobs": self.jobs, "checked": self.checked, "kills": self.kills}  # fmt: skip
        temporary = self._state.with_suffix(".tmp")
        temporary.write_text(json.dumps(state))
        temporary.replace(self._state)


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def children(session: int, module: str) -> list[int]:
    """Live processes of a session whose command line names a module."""
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        try:
            if os.getsid(process.pid) == session and any(module in word for word in process.info["cmdline"] or []):
                found.append(process.pid)
        except ProcessLookupError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=sorted(IMAGES), default="null")
    parser.add_argument("--launcher", choices=sorted(STARTING), default="local", help="ray: started for each run")
    parser.add_argument("--folder", type=Path, help="where it lives; default build/stress-ENGINE-SEED-LAUNCHER")
    options = parser.parse_args()
    folder = options.folder or ROOT / "build" / f"stress-{options.engine}-{options.seed}-{options.launcher}"
    try:
        Stress(folder, options.engine, options.seed, options.launcher).run(options.rounds)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")


if __name__ == "__main__":
    main()
