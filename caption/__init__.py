"""Batch image captioning with vision-language models: one caption for every image of a data set, none lost."""

__version__ = "0.1.0"
__all__ = ["CaptionPool", "CaptionResult"]


def __getattr__(name: str):
    """The names of the Python interface, imported when they are asked for: each worker imports this file too."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from caption import pool

    return getattr(pool, name)
