"""The picture's place in the prompt is found whatever the checkpoint brings."""

import json
import shutil
from pathlib import Path

import pytest

from caption.engine import DoesNotLoad, load_preparer

from .helpers import options, picture
from .tiny import CHAT


@pytest.fixture
def folder(checkpoint, tmp_path):
    return Path(shutil.copytree(checkpoint("llava"), tmp_path / "model"))


def prepared(folder: Path, prompt: str = "Say."):
    """Return the prompt as the model sees it, and how often the picture's token stands in it."""
    preparer = load_preparer(options(str(folder), prompt=prompt))
    ids = preparer.prepare(picture(1))["input_ids"][0]
    tokenizer = preparer.prompter.processor.tokenizer
    return tokenizer.decode(ids), int((ids == tokenizer.convert_tokens_to_ids("<image>")).sum())


def test_a_template_for_pictures(folder):
    text, count = prepared(folder)
    assert count == 16
    assert text == "<|im_start|>user\n" + "<image>" * 16 + "Say.<|im_end|>\n<|im_start|>assistant\n"


def test_the_system_prompt_is_a_turn_before_the_users(folder):
    preparer = load_preparer(options(str(folder), prompt="Say.", system_prompt="Be short."))
    ids = preparer.prepare(picture(1))["input_ids"][0]
    text = preparer.prompter.processor.tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n<image>"), text


def test_a_system_prompt_without_a_template_is_refused(folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(DoesNotLoad, match="--system-prompt"):
        load_preparer(options(str(folder), prompt="USER: <image> Say.", system_prompt="Be short."))


def test_a_template_for_texts_only(folder):
    """As a language model brings it: content is a string."""
    template = "{% for m in messages %}[{{ m['content'] + '' }}]{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    text, count = prepared(folder)
    assert (text, count) == ("[" + "<image>" * 16 + "\nSay.]", 16)


def test_a_template_in_the_tokenizer(folder):
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    template = CHAT.replace("IMAGE", "<image>")
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    assert prepared(folder)[1] == 16
    assert load_preparer(options(str(folder))).chat_template == template


@pytest.mark.parametrize("prompt", ["Say.", "<image>Say."])
def test_no_template(folder, prompt):
    (folder / "chat_template.jinja").unlink()
    assert prepared(folder, prompt) == ("<image>" * 16 + "Say.", 16)
    assert load_preparer(options(str(folder))).chat_template is None


def test_a_prompt_of_the_request_takes_the_place_of_the_options(folder):
    preparer = load_preparer(options(str(folder), max_pixels=1000))
    tokenizer = preparer.prompter.processor.tokenizer
    ids = preparer.prepare(picture(1), "Another one, longer.", max_pixels=500)["input_ids"][0]
    assert "Another one, longer." in tokenizer.decode(ids)
    assert "Another" not in tokenizer.decode(preparer.prepare(picture(1))["input_ids"][0])


def test_a_template_that_places_no_picture(folder):
    (folder / "chat_template.jinja").write_text("{{ messages[0]['role'] }}")
    with pytest.raises(DoesNotLoad, match="no place for a picture"):
        load_preparer(options(str(folder)))


def test_a_tokenizer_without_padding_pads_with_the_end(folder):
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.exists():
            settings = json.loads(path.read_text())
            settings.pop("pad_token", None)
            path.write_text(json.dumps(settings))
    tokenizer = load_preparer(options(str(folder))).prompter.processor.tokenizer
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.padding_side == "left"
