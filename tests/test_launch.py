"""Launchers: what --launcher ray refuses, before Ray itself is asked."""

import importlib.util
import socket

import pytest

from caption.errors import UsageError
from caption.launch import open_launcher
from caption.settings import Settings


def test_without_the_package_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *package: None)
    with pytest.raises(UsageError, match="needs the package ray: pip install"):
        open_launcher(Settings(launcher="ray"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"gpus": "0,1"}, "--gpus 0,1: Ray says"), ({"device": "mps"}, "--device mps"),
     ({"workers_per_gpu": None}, "--workers-per-gpu auto"), ({"ray_address": "ray://host:10001"}, "Ray's client"),
     ({"gpus_per_worker": 2, "workers_per_gpu": 2}, "--gpus-per-worker")],
)  # fmt: skip
def test_what_has_no_meaning_on_a_cluster_is_refused_by_its_name(wrong, words):
    pytest.importorskip("ray", reason="the package ray is not installed")
    with pytest.raises(UsageError, match=words):
        open_launcher(Settings(launcher="ray", **wrong))


def test_an_address_where_nobody_answers_is_told_at_once():
    pytest.importorskip("ray", reason="the package ray is not installed")
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"{address}: nobody answers"):
            open_launcher(Settings(launcher="ray", ray_address=address))


def test_an_address_without_ray_is_refused():
    with pytest.raises(UsageError, match="--ray-address is of --launcher ray"):
        open_launcher(Settings(ray_address="auto"))
