"""The second stage: scores for the captions of an output folder."""
