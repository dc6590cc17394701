"""Tally: what can be said of all captions together, from one pass over their rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from caption.choose.scores import SCORE
from caption.precision import AFTER_FP16
from caption.report.counters import Bounded, Spread
from caption.report.scored import Scored
from caption.report.words import COMMON, opening, words_of
from caption.sametext import Texts

_ROOM = 200_000  # words or openings that are counted apart
_LONGEST_WORD = 40  # letters; of a longer one this many count
_PROMPTS = 100  # that are counted apart
_SHORT, _LONG = 2, 4  # words of an opening


class Tally:
    """Attributes:
    captions: rows so far.
    words, letters, tokens: lengths of the captions.
    flags: how often each was set; flagged: rows with one that is a doubt.
    cut: captions that the token limit ended.
    retried: rows that took more than one attempt; reasons: of their retries.
    prompts: by the name of its prompt, the lengths of the captions in words.
    scores: of all captions that have one; prompt_scores: by the name of the prompt.
    texts: which captions are equal.
    vocabulary: in how many captions each word stands.
    """

    def __init__(self):
        self.captions = self.flagged = self.cut = self.retried = 0
        self.words, self.letters, self.tokens = Spread(), Spread(1_000_000), Spread()
        self.flags: Counter[str] = Counter()
        self.reasons = Bounded(1000)
        self.prompts: dict[str, Spread] = {}
        self.scores = Scored()
        self.prompt_scores: dict[str, Scored] = {}
        self.texts = Texts()
        self.vocabulary = Bounded(_ROOM)
        self._short, self._long = Bounded(_ROOM), Bounded(_ROOM)

    def add(self, row: dict[str, Any]) -> list[str]:
        """Notes one row of ``captions.jsonl``, with its score if it has one; returns the words of its caption."""
        text = row["caption"]
        words = words_of(text)
        self.captions += 1
        self.words.add(len(words))
        self.letters.add(len(text))
        self.tokens.add(row["tokens"])
        self.texts.add(text)
        self.vocabulary.update({word[:_LONGEST_WORD] for word in words})
        self._short.update((opening(text, _SHORT),))
        self._long.update((opening(text, _LONG),))
        if row["flags"]:
            self.flagged += any(flag != AFTER_FP16 for flag in row["flags"])
            self.flags.update(row["flags"])
        self.cut += row["finish_reason"] == "length"
        if row["attempts"] > 1:
            self.retried += 1
        self.reasons.update(change["reason"] for change in row.get("retries", ()))
        if (name := row.get("prompt_name")) and (name in self.prompts or len(self.prompts) < _PROMPTS):
            self.prompts.setdefault(name, Spread()).add(len(words))
        if SCORE in row:
            self.scores.add(row[SCORE])
            if name in self.prompts:
                self.prompt_scores.setdefault(name, Scored()).add(row[SCORE])
        return words

    def openings(self, number: int) -> list[tuple[str, int, list[tuple[str, int]]]]:
        """The commonest first two words, their count, and how most of those go on (four words and their count)."""
        going_on = self._long.most_common(1000)
        return [
            (first, count, [one for one in going_on if one[0] != first and one[0].startswith(first)][:2])
            for first, count in self._short.most_common(number + 1)
            if first
        ][:number]

    def telling_words(self, number: int) -> list[tuple[str, int]]:
        """Words that stand in most captions, less those that stand in any English text; with their captions."""
        found = self.vocabulary.most_common(number + len(COMMON))
        return [(word, count) for word, count in found if word not in COMMON][:number]
