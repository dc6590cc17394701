"""Where a family of models needs something of its own: each hook in this one place, with its reason."""

# Prompts of unlike lengths can't stand in one batch. By model_type:
UNPADDABLE = {
    # The text decoder counts positions from the left edge, padding included, and generate() overwrites the first
    # column with the start token (modeling_blip.py:919).
    "blip",
    # Positions of the prompt skip padding, those of later tokens count it (modeling_kosmos2.py:663).
    "kosmos-2",
}
