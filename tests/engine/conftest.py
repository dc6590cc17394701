"""Tiny checkpoints, written once a session."""

import pytest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """checkpoint("llava"): the folder of a tiny random model of that family."""
    from transformers.utils import logging

    from . import tiny

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    root, written = tmp_path_factory.mktemp("models"), {}

    def get(name: str) -> str:
        if name not in written:
            written[name] = str(tiny.write(name, root / name))
        return written[name]

    return get
