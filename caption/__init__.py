"""Batch image captioning with vision-language models: one caption for every image of a data set, none lost."""

__version__ = "0.1.0"
