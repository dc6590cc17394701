import itertools
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from fakedisk import FakeDisk
from jobs import TEMP


@pytest.fixture
def tmp_path():
    with tempfile.TemporaryDirectory(dir=TEMP) as folder:
        yield Path(folder)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def fake(monkeypatch):
    disk = FakeDisk()
    with disk.installed():
        yield disk


@pytest.fixture
def folders(tmp_path):
    """Fresh folders, one after the other."""
    return (tmp_path / f"out-{number}" for number in itertools.count())
