"""A decode step as CUDA graphs: its hundreds of kernels are started by one call."""

from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager

import torch

# Turns after which a graph of fewer rows has saved what it costs: for the shape of Qwen2.5-VL-7B on an H200 a capture
# takes 0.06 to 0.12 s, and 16 steps of 256 rows instead of 512 save 0.10.
PAYS = 4


class Graphs:
    """One graph for each shape of a step. All that `step` reads and writes must stay where it is until `clear`."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        self.graphs: dict[tuple[Hashable, ...], torch.cuda.CUDAGraph] = {}
        self.wanted: Counter[tuple[Hashable, ...]] = Counter()
        self.pool = None

    def worth(self, shape: tuple[Hashable, ...]) -> bool:
        """Whether to run this one in the next turn, where a larger one can be run as well: if it is captured, or has
        been wanted for as long as pays for that. Nobody knows how long it will be wanted (the ski rental problem)."""
        self.wanted[shape] += 1
        return shape in self.graphs or self.wanted[shape] > PAYS

    def run(
        self, shape: tuple[Hashable, ...], step: Callable[..., None], undone: Callable[[], AbstractContextManager]
    ) -> None:
        """Do `step(*shape)`, captured at its first time.

        undone: within it, steps change nothing for good: the runs before a capture, and the capture itself.
        """
        if shape not in self.graphs:
            with undone():
                self.graphs[shape] = self._capture(shape, step)
        self.graphs[shape].replay()

    def _capture(self, shape: tuple[Hashable, ...], step: Callable[..., None]) -> torch.cuda.CUDAGraph:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):  # libraries choose kernels and take their workspaces in the first runs
            for _ in range(2):
                step(*shape)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            # torch.cuda.graph would collect garbage and give all spare memory back first, which takes longer than this.
            # Of this thread alone: another one locks pages for the loaders.
            graph.capture_begin(self.pool, capture_error_mode="thread_local")
            try:
                step(*shape)
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(beside)
        self.pool = self.pool or graph.pool()
        return graph
