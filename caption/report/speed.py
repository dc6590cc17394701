"""Speed: where the time of all runs went, and the one thing that would make the next one faster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from caption import idle
from caption.report.figures import percent
from caption.report.timeline import Timeline

PARTS = {
    "computing": "computing",
    "slots": "computing with slots that waited for pictures",
    "host": "GPU waiting for its worker",
    "pictures": "waiting for pictures",
    "work": "waiting for work",
    "start": "starting: processes, libraries, the model",
    "end": "waiting for the others at the end",
}
_SHORT = 10.0  # seconds: what a shorter run did says nothing of the next
_MUCH = {"host": 0.1, "pictures": 0.1, "work": 0.1, "start": 0.25, "end": 0.25}  # losses that are worth an advice
_BUSY = 85.0  # percent: cores that have nothing to spare
_EMPTY = 0.6  # of a GPU's memory


class Advice(NamedTuple):
    """Attributes:
    headline: what to do, or what limits, in a few words.
    reason: the figures behind it, in sentences.
    gain: times as fast at most; None where nobody can say.
    """

    headline: str
    reason: str
    gain: float | None = None


def where_time_went(runs: Sequence[Mapping[str, Any]], timeline: Timeline) -> dict[str, dict[str, float]]:
    """Of each worker the shares of all its time, by ``PARTS``; from run.json, or of a run that died or is at work,
    from its statistics."""
    seconds: dict[str, Counter[str]] = {}
    for place, run in enumerate(runs):
        totals = run.get("totals") or {}
        total, found = totals.get("total_seconds") or 0.0, totals.get("idle") or {}
        if not found and place in timeline.runs:
            total = timeline.runs[place].length
            found = {name: idle.shares(spent, total) for name, spent in timeline.runs[place].stages.items()}
        for worker, shares in found.items():
            mine = seconds.setdefault(worker, Counter())
            mine.update({part: share * total for part, share in shares.items() if part in PARTS})
    return {
        worker: {part: max(0.0, spent[part]) / spent.total() for part in PARTS}
        for worker, spent in sorted(seconds.items(), key=lambda item: (len(item[0]), item[0]))
        if spent.total() > 0
    }


def mean_shares(workers: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of the workers, part by part; empty if there are none."""
    return {part: sum(one[part] for one in workers.values()) / len(workers) for part in PARTS} if workers else {}


def advise(
    shares: Mapping[str, float],
    seconds: float,
    runs: Sequence[Mapping[str, Any]],
    cpu: float | None,
    memory: float | None,
    tokens: float,
) -> Advice:
    """The largest thing to gain.

    Args:
        shares: of the mean worker, by ``PARTS``.
        seconds: of all runs.
        runs: entries of run.json.
        cpu: mean percent of all cores, or None.
        memory: the most that a GPU's memory was filled, as a share of 1, or None.
        tokens: of a caption, on average.
    """
    if not shares:
        return Advice("Nothing to say about speed", "No run has left figures in this folder.")
    if seconds < _SHORT:
        return Advice("Too short to say", f"All took {seconds:.0f} seconds, most of it to start and to end.")
    run = runs[-1] if runs else {}
    settings = run.get("settings") or {}
    losses = {
        "host": shares["host"],
        "pictures": shares["pictures"] + shares["slots"],
        "work": shares["work"],
        "start": shares["start"],
        "end": shares["end"],
    }
    large = {part: share for part, share in losses.items() if share >= _MUCH[part]}
    if not large:
        return _computing(shares["computing"], run, settings, memory, tokens)
    worst = max(large, key=large.get)
    share = large[worst]
    gain = 1 / (1 - min(share, 0.99))
    if worst == "host":
        return _host(share, gain, run, cpu)
    if worst == "pictures":
        return _pictures(share, gain, run, cpu)
    if worst == "work":
        return _work(share, gain, settings)
    if worst == "start":
        times = f"{len(runs)} runs loaded the model each" if len(runs) > 1 else "the model is loaded once a run"
        return Advice(
            "Give one run more images",
            f"Starting took {percent(share)} of the time; {times}, so that share shrinks as a run gets longer.",
            gain,
        )
    return Advice(
        "Fewer images side by side, near the end",
        f"{percent(share)} of the time workers had ended and waited for the last one. In a longer run that share "
        "shrinks; a smaller --batch-size makes the last images more even.",
        gain,
    )


def _host(share: float, gain: float, run: Mapping[str, Any], cpu: float | None) -> Advice:
    waited = f"The GPUs waited {percent(share)} of the time for their workers to hand them the next work"
    if cpu is not None and cpu >= _BUSY:
        return Advice(
            f"Lower --loaders{_loaders(run)}",
            f"{waited}, and the cores of this machine were {cpu:.0f} % busy: loaders take them away from the workers.",
            gain,
        )
    return Advice("A machine with faster cores", f"{waited}. A worker does that on one core.", gain)


def _pictures(share: float, gain: float, run: Mapping[str, Any], cpu: float | None) -> Advice:
    waited = f"The workers waited for pictures {percent(share)} of the time"
    if cpu is not None and cpu >= _BUSY:
        return Advice(
            "Smaller pictures, or more cores",
            f"{waited}, and the cores of this machine were {cpu:.0f} % busy, so more loaders would not help: lower "
            "--max-pixels, store the pictures smaller, or use a machine with more cores.",
            gain,
        )
    busy = f" while the cores of this machine were {cpu:.0f} % busy" if cpu is not None else ""
    return Advice(f"Raise --loaders{_loaders(run)}", f"{waited}{busy}.", gain)


def _loaders(run: Mapping[str, Any]) -> str:
    found = [seat["loaders"] for seat in run.get("seats") or () if isinstance(seat, dict) and "loaders" in seat]
    return f" (now {found[0]} a worker)" if found else ""


def _work(share: float, gain: float, settings: Mapping[str, Any]) -> Advice:
    waited = f"The workers waited for work {percent(share)} of the time"
    schedule = settings.get("schedule", "dynamic")
    if schedule != "dynamic":
        return Advice("Use --schedule dynamic", f"{waited}: under {schedule} none takes work from another.", gain)
    return Advice(
        "Put the input on a faster disk",
        f"{waited}: the list of images was read more slowly than they were captioned.",
        gain,
    )


def _computing(
    share: float, run: Mapping[str, Any], settings: Mapping[str, Any], memory: float | None, tokens: float
) -> Advice:
    """The model itself is the limit."""
    computed = f"The workers computed {percent(share)} of the time"
    facts = [one for one in (run.get("workers") or {}).values() if isinstance(one, dict)]
    devices = {seat.get("device") for seat in run.get("seats") or () if isinstance(seat, dict)}
    beams = settings.get("num_beams") or 1
    if devices and devices <= {"cpu"}:
        return Advice("A GPU", f"{computed}, on a CPU. Nothing else was lost worth a change.")
    if beams > 1:
        return Advice("Use --num-beams 1", f"{computed}, on {beams} versions of each caption at once.")
    if fallback := next((one["fallback"] for one in facts if one.get("fallback")), None):
        return Advice("A model that decodes in slots", f"{computed}, batch by batch: {fallback}")
    if any(one.get("dtype") == "fp32" for one in facts):
        return Advice("Use --dtype fp16 or bf16", f"{computed}, in fp32, which is the slowest precision.")
    if settings.get("batch_size") and memory is not None and memory < _EMPTY:
        return Advice(
            "Leave out --batch-size",
            f"{computed}, and the fullest GPU used {percent(memory)} of its memory: there is room for more images side "
            f"by side than {settings['batch_size']}.",
        )
    return Advice(
        "More GPUs, or shorter captions",
        f"{computed}: nothing was lost worth a change. A caption has {tokens:.0f} tokens on average, and the time "
        "grows with them.",
    )
