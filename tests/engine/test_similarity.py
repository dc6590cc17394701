"""Similarity: the cosine that transformers itself computes, whatever else is in the batch; long captions in windows."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers as T
from PIL import Image

from caption.engine import REFERENCE, SIMILARITY, NotAVisionModel, Request, load_engine, load_preparer
from caption.engine.reference import told
from caption.model import EMBEDDED
from tests.runs import ROOT

from . import tiny
from .helpers import caption_all, options, picture

sys.path.insert(0, str(ROOT / "scripts"))

import eval_scorer

TEXTS = ["a dog", "A small red circle left of a large blue star.", "", "a cat on a mat, " * 12]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a tiny random CLIP that reads 32 tokens."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    words = tiny.tokenizer(eos="<|endoftext|>", bos_token="<|startoftext|>")
    words.model_max_length = 32
    words.backend_tokenizer.post_processor = tiny.processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[(one, words.convert_tokens_to_ids(one)) for one in ("<|startoftext|>", "<|endoftext|>")],
    )
    text = {**tiny.VISION, "vocab_size": len(words), "max_position_embeddings": 32, "eos_token_id": words.eos_token_id,
            "bos_token_id": words.bos_token_id, "pad_token_id": words.pad_token_id}  # fmt: skip
    vision = {**tiny.VISION, "image_size": 56, "patch_size": 14}
    T.CLIPModel(T.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    pictures = T.models.clip.image_processing_pil_clip.CLIPImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    T.CLIPProcessor(pictures, words).save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=["clip", "siglip"])
def folder(request):
    return str(EMBEDDED["shapes-scorer"]) if request.param == "siglip" else request.getfixturevalue("clip")


def cosine(folder: str, image: Image.Image, text: str) -> float:
    """By transformers alone, picture and text by themselves."""
    processor, model = T.AutoProcessor.from_pretrained(folder), T.AutoModel.from_pretrained(folder).eval()
    whole = "siglip" in model.config.model_type
    inputs = processor(text=[text], images=[image], padding="max_length" if whole else True, return_tensors="pt")
    with torch.inference_mode():
        made = model(**inputs)
    return float(F.cosine_similarity(made.image_embeds, made.text_embeds))


def scored(folder: str, pairs, **changes):
    asked = options(folder, scorer=SIMILARITY, **changes)
    preparer = load_preparer(asked)
    requests = [Request(key, preparer.prepare(image, text), 0) for key, (image, text) in enumerate(pairs)]
    return caption_all(load_engine(asked), requests), preparer


def test_a_short_caption_has_the_cosine_of_transformers_beside_any_others(folder):
    pairs = [(picture(seed, 90 - 7 * seed, 60 + 9 * seed), text) for seed, text in enumerate(TEXTS)]
    answers, _ = scored(folder, pairs, batch_size=3)
    for key in (0, 1 if "shapes" in folder else 0, 2):
        assert answers[key].score == pytest.approx(cosine(folder, *pairs[key]), abs=2e-5)
    assert answers[0].parts == {"window1": answers[0].score} and not answers[0].flags


def test_a_long_caption_is_scored_in_windows_of_one_length_and_counts_as_their_mean(folder):
    image = picture(5)
    answers, preparer = scored(folder, [(image, TEXTS[-1])])
    windows = preparer.windows(TEXTS[-1])["input_ids"]
    ids = preparer.tokenizer(TEXTS[-1], add_special_tokens=False, verbose=False)["input_ids"]
    special = len(preparer.before) + len(preparer.after)
    pad = preparer.tokenizer.pad_token_id
    lengths = [int((row != pad).sum()) - special for row in windows]
    assert sum(lengths) == len(ids) and len(windows) == -(-len(ids) // (windows.shape[1] - special)) > 1
    assert max(lengths) - min(lengths) <= len(windows)
    parts = answers[0].parts
    assert list(parts) == [f"window{number}" for number in range(1, len(windows) + 1)]
    assert answers[0].score == pytest.approx(np.mean(list(parts.values())), abs=1e-5)
    first = preparer.tokenizer.decode(ids[: lengths[0]])
    assert parts["window1"] == pytest.approx(cosine(folder, image, first), abs=2e-5)


def test_a_model_that_only_writes_is_refused_in_one_sentence(checkpoint):
    with pytest.raises(NotAVisionModel, match="compares no pictures with texts"):
        load_engine(options(checkpoint("llava"), scorer=SIMILARITY))


def test_agreement_counts_the_nearest_reference_and_is_exact_up_to_case_and_full_stop():
    pytest.importorskip("sacrebleu")
    asked = options(REFERENCE, scorer=REFERENCE)
    preparer = load_preparer(asked)
    told_of = [("A red dog.", ["a  red dog", "a blue cat"]), ("A red dog.", ["A red dot."]), ("A dog.", ["xyz"])]
    requests = [Request(key, preparer.prepare(None, told(*one)), 0) for key, one in enumerate(told_of)]
    same, near, far = (one for _, one in sorted(caption_all(load_engine(asked), requests).items()))
    assert same.parts["exact"] == 1 and near.parts["exact"] == far.parts["exact"] == 0
    assert 1 >= same.score > near.score > 0.5 > far.score >= 0


def test_on_unseen_scenes_right_captions_score_higher_than_shuffled_ones_in_99_percent_of_pairs():
    shuffled, pairs, changed, _ = eval_scorer.shares(eval_scorer.Encoder(EMBEDDED["shapes-scorer"]), 909, 64)
    assert pairs > 4000 and shuffled >= 0.99
    assert changed >= 0.75  # the card of the model has the figures
