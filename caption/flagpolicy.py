"""FlagPolicy: what becomes of a caption with flags: kept, tried again, or its image failed."""

from __future__ import annotations

from caption import retry
from caption.guard.actions import parse_actions
from caption.item import Item
from caption.messages import Result
from caption.settings import Settings

_SHOWN = 200  # letters of a caption that is not kept


class FlagPolicy:
    """Remembers the flagged caption while its image is tried again, because that try may fail."""

    def __init__(self, settings: Settings):
        self._settings, self._actions = settings, parse_actions(settings.on_flag)
        self._before: dict[int, tuple[Item, Result]] = {}  # by the item's index

    def next_try(self, item: Item, result: Result) -> Item | None:
        """The item for another try that a flag asks for, or None."""
        pixels = result.width * result.height
        again = retry.next_flagged_try(item, result.flags, self._actions, self._settings, pixels)
        if again:
            self._before[item.index] = item, result
        return again

    def objection(self, result: Result) -> str | None:
        """Why this caption fails its image, or None."""
        fatal = [flag for flag in result.flags if self._actions[flag] == "fail"]
        return f"its caption is {' and '.join(fatal)} (--on-flag): {result.caption[:_SHOWN]!r}" if fatal else None

    def before(self, item: Item) -> tuple[Item, Result] | None:
        """What stands if the item's try has failed: the last caption, and the item with all of its tries."""
        if item.index not in self._before:
            return None
        flagged, result = self._before[item.index]
        return flagged._replace(attempts=item.attempts, retries=item.retries), result

    def forget(self, item: Item) -> None:
        """The item has its row."""
        self._before.pop(item.index, None)
