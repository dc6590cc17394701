"""Where a family of models needs something of its own: each hook in this one place, with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # loaders read this file, and run without it
    import torch

# Prompts of unlike lengths can't stand in one batch. By model_type:
UNPADDABLE = {
    # The text decoder counts positions from the left edge, padding included, and generate() overwrites the first
    # column with the start token (modeling_blip.py:919).
    "blip",
    # Positions of the prompt skip padding, those of later tokens count it (modeling_kosmos2.py:663).
    "kosmos-2",
    # The same (modeling_kosmos2_5.py:712).
    "kosmos-2.5",
    # Positions count padding (modeling_git.py:101).
    "git",
    # The prompt is the beginning of the text, which the decoder reads from its left edge.
    "pix2struct",
}

# The tokenizer ends a prompt as if it were a whole text, but the text is to go on. (BLIP's does so, too, and its
# generate() takes the end off.) By model_type:
ENDED_PROMPTS = {"git"}

# Models that read no prompt: all their decoder sees is the picture. Of some checkpoints no file names a processor, as
# they have one for pictures and a tokenizer side by side; then it is this one. By model_type:
NO_PROMPT = {"vision-encoder-decoder": "TrOCRProcessor"}

# Packages that compute a kind of layers faster on a GPU, and the names they are installed by. transformers takes them
# where they are, and torch's operations where not. By what configs call the layers:
PACKAGES = {
    "linear_attention": {"fla": "flash-linear-attention", "causal_conv1d": "causal-conv1d"},
    "conv": {"causal_conv1d": "causal-conv1d"},
}

# Masks that the model makes of ones where it gets none, behind dropping empty tiles (modeling_smolvlm.py:490,
# modeling_idefics3.py:587): large arrays, made of nothing and sent for nothing. By model_type:
MADE_OF_ONES = {"smolvlm": "pixel_attention_mask", "idefics3": "pixel_attention_mask"}


def drop_ones(model_type: str, items: list[dict]) -> None:
    """Leave out of all these inputs what the model makes by itself, as loaders do: where all have it, and all ones."""
    name = MADE_OF_ONES.get(model_type)
    if all(name in one and one[name].all() for one in items):
        for one in items:
            del one[name]


def fit_positions(model: torch.nn.Module) -> None:
    """Let learned positions be those of each row.

    BART's decoder (Florence-2) counts positions from the length of its cache and takes no others
    (modeling_bart.py:621). Slots give it a length for each row, [rows, 1], and its embedding puts a dimension of 1
    before what it makes of that.
    """

    def drop(module, inputs, output):
        return output[0] if output.dim() == 4 else output

    for module in model.modules():
        if type(module).__name__.endswith("LearnedPositionalEmbedding") and not hasattr(module, "fits_rows"):
            module.fits_rows = module.register_forward_hook(drop)
