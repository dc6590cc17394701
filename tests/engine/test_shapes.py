"""The embedded model goes the same way as any other, and says what is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from caption.engine import Request, load_engine, load_preparer

from .helpers import caption_all, options

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / "caption" / "models" / "shapes"


@pytest.mark.skipif(not SHAPES.exists(), reason="the embedded model is not trained yet")
def test_scenes_are_captioned_exactly(tmp_path):
    draw = [sys.executable, "scripts/draw_shapes.py", str(tmp_path), "--count", "12", "--seed", "40417"]
    subprocess.run(draw, cwd=ROOT, check=True, capture_output=True, timeout=60)
    settings = options(str(SHAPES), max_new_tokens=64, batch_size=8)
    engine, preparer = load_engine(settings), load_preparer(settings)
    lines = (tmp_path / "truth.jsonl").read_text().splitlines()
    truth = {row["image"]: row["caption"] for row in map(json.loads, lines)}
    images = {name: Image.open(tmp_path / name).convert("RGB") for name in truth}
    answers = caption_all(engine, [Request(name, preparer.prepare(image), 0) for name, image in images.items()])
    right = [answers[name].text == caption for name, caption in truth.items()]
    assert sum(right) >= 11
    assert all(answer.finish_reason == "stop" for answer in answers.values())
