"""Whether a tower's layers may write into the states that they get."""

import contextlib
from collections.abc import Iterator

_owned = False


@contextlib.contextmanager
def owning() -> Iterator[None]:
    """Within it, nobody but the layers themselves holds what goes from one to the next."""
    global _owned
    before, _owned = _owned, True
    try:
        yield
    finally:
        _owned = before


def owned() -> bool:
    return _owned
