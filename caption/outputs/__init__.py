"""Outputs: the rows of a run and the formats that are made from them."""
