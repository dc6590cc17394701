"""How often the guard is right on its corpus, and what it costs: ``python -m tests.guard.score HALF``."""

import hashlib
import json
import sys
import timeit
from pathlib import Path

from caption.guard import GuardOptions, check, judge

PROMPT = "Describe this image in detail."
_FOLLOWS_A_CUT = {"cut-off", "bad-json"}


def corpus(half):
    """The rows of "development" or "held-out"."""
    lines = (Path(__file__).parent / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if _half_of(row["text"]) == half]


def _half_of(text):
    return "development" if hashlib.sha256(text.encode()).digest()[0] % 2 == 0 else "held-out"


def score(rows):
    """(precision, recall, mistakes): a bad text is found if all its kinds are flagged; any other flag is false."""
    found = missed = false = 0
    mistakes = []
    for row in rows:
        kinds = set(row["kinds"])
        flags = set(check(row["text"], row["finish_reason"], row.get("prompt", PROMPT), row["language"]))
        natural = _FOLLOWS_A_CUT if kinds and row["finish_reason"] == "length" else set()
        wrong = flags - kinds - natural
        found += bool(kinds) and kinds <= flags
        missed += not kinds <= flags
        false += bool(wrong)
        if wrong or not kinds <= flags:
            mistakes.append((sorted(kinds), sorted(flags), row["text"][:100]))
    return found / (found + false), found / (found + missed), mistakes


def cost(text, language=None):
    """Microseconds that the guard takes for this text, the best of some tries."""
    options = GuardOptions(PROMPT, language, strip_preamble=True, trim_to_sentence=True)
    return min(timeit.repeat(lambda: judge(text, "length", options), number=100, repeat=9)) * 1e4


def main():
    half = sys.argv[1]
    rows = corpus(half)
    precision, recall, mistakes = score(rows)
    print(f"{half}: {len(rows)} texts, precision {precision:.3f}, recall {recall:.3f}")
    for mistake in mistakes:
        print("  ", *mistake)
    good = [row["text"] for row in rows if not row["kinds"] and row["language"] == "en" and '"' not in row["text"]]
    for length in (100, 400, 1600):
        text = " ".join(good)[:length]
        print(f"{length} letters: {cost(text):.0f} us, with a language {cost(text, 'en'):.0f} us")


if __name__ == "__main__":
    main()
