"""What each kind of process has to import, and what it prints."""

import contextlib
import gc
import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caption.engine import DoesNotLoad, EngineOptions, Request, library, load_engine, load_preparer

from .helpers import caption_all, options, picture, unpacked
from .tiny import FAMILIES, prompts_for

ROOT = Path(__file__).parents[2]


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )


def test_plain_data_imports_no_torch():
    done = python("import sys, caption.engine; print({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules))")
    assert done.stdout.strip() == "set()"


def test_the_null_engine_imports_no_torch():
    code = """
import sys
from caption.engine import EngineOptions, Request, load_engine, load_preparer
options = EngineOptions("null", "fp32", "cpu", 4, "", 5)
engine, preparer = load_engine(options), load_preparer(options)
engine.admit([Request(1, preparer.prepare(None, key="a"), 0)])
print(engine.step()[0].text, {"torch", "transformers"} & set(sys.modules))
"""
    assert python(code).stdout.strip() == "a set()"


def test_null_captions_stand_on_their_item():
    null = EngineOptions("null", "fp32", "cpu", 3, "", 5)
    engine, preparer = load_engine(null), load_preparer(null)
    assert not preparer.needs_image and preparer.chat_template is None
    images = [picture(i, 30 + i, 20) for i in range(5)]
    requests = [Request(i, preparer.prepare(image, key=f"ü/{i}.jpg"), 0) for i, image in enumerate(images)]
    texts = [caption_all(engine, requests)[i].text for i in range(5)]
    assert [text.split()[:2] for text in texts] == [[f"ü/{i}.jpg", f"{30 + i}x20"] for i in range(5)]
    assert len({text.split()[2] for text in texts}) == 5


PREPARE = """
import pickle
import sys
from PIL import Image
from caption.engine import EngineOptions, load_preparer
out, *rest = sys.argv[1:]
image = Image.open(out + "/picture.png")
for name, folder, prompt in zip(rest[::3], rest[1::3], rest[2::3]):
    preparer = load_preparer(EngineOptions(folder, "fp32", "cpu", 1, prompt, 5), own_process=True)
    with open(f"{out}/{name}", "wb") as file:
        pickle.dump(preparer.prepare(image), file)
print("with torch" if sys.modules.get("torch") else "without torch")
"""


def test_what_an_engine_says_of_itself_is_read_without_torch(checkpoint, tmp_path):
    (tmp_path / "said").write_bytes(pickle.dumps(load_engine(options(checkpoint("llava"))).describe()))
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')); print({'torch'} & set(sys.modules))"
    assert python(code, str(tmp_path / "said")).stdout.strip() == "set()"


def test_a_loader_process_prepares_the_same_without_torch(checkpoint, tmp_path):
    image = picture(5, 90, 120)
    image.save(tmp_path / "picture.png")
    prompts = {name: prompts_for(name)[0] for name in FAMILIES}
    jobs = [(name, checkpoint(name), prompts[name]) for name in FAMILIES]
    done = python(PREPARE, str(tmp_path), *next(job for job in jobs if job[0] == "qwen2_5_vl"))
    assert (done.stdout.strip(), done.stderr) == ("without torch", "")
    # Before 5.23, Pillow's processor for SmolVLM is written in torch: then it is shown again.
    assert not python(PREPARE, str(tmp_path), *itertools.chain(*jobs)).stderr
    for name in FAMILIES:
        expected = load_preparer(options(checkpoint(name), prompt=prompts[name])).prepare(image)
        made = pickle.loads((tmp_path / name).read_bytes())
        assert set(made) == set(expected)
        for key, array in expected.items():
            assert type(made[key]) is type(array)
            assert unpacked(made[key]).dtype == unpacked(array).dtype
            np.testing.assert_array_equal(unpacked(made[key]), unpacked(array))


def test_a_processor_written_in_torch_still_loads(checkpoint, tmp_path):
    """Torch is hidden first, found to be needed, and shown again."""
    import json
    import shutil

    folder = Path(shutil.copytree(checkpoint("llava"), tmp_path / "model"))
    (folder / "own.py").write_text(
        "import torch\nfrom transformers import LlavaProcessor\n\nclass OwnProcessor(LlavaProcessor):\n    pass\n"
    )
    settings = json.loads((folder / "processor_config.json").read_text())
    settings |= {"processor_class": "OwnProcessor", "auto_map": {"AutoProcessor": "own.OwnProcessor"}}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    picture(5).save(tmp_path / "picture.png")
    code = PREPARE.replace("1, prompt, 5)", "1, prompt, 5, trust_remote_code=True)")
    assert python(code, str(tmp_path), "own", str(folder), "Say.").stdout.strip() == "with torch"


def test_a_worker_prints_nothing(checkpoint):
    code = """
import sys
from PIL import Image
from caption.engine import EngineOptions, Request, load_engine, load_preparer
image = Image.new("RGB", (70, 50), "red")
for folder, prompt in zip(sys.argv[1::2], sys.argv[2::2]):
    options = EngineOptions(folder, "fp32", "cpu", 4, prompt, 5, threads=1)
    engine, preparer = load_engine(options), load_preparer(options)
    engine.admit([Request(i, preparer.prepare(image), i) for i in range(2)])
    assert len(engine.step()) == 2
"""
    names = ["smolvlm", "paligemma", "florence2"]
    done = python(code, *(part for name in names for part in (checkpoint(name), prompts_for(name)[0])))
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("fault", [None, DoesNotLoad("no model")])
def test_garbage_is_looked_for_again_after_an_import_also_one_that_failed(fault, monkeypatch):
    monkeypatch.setattr(library, "hide_torch", lambda: False)  # this process goes on
    seen = []

    def load():
        seen.append(gc.isenabled())
        if fault:
            raise fault

    try:
        with pytest.raises(DoesNotLoad) if fault else contextlib.nullcontext():
            library.loaded(load, own_process=True)
        assert seen == [False] and gc.isenabled()
    finally:
        gc.unfreeze()
