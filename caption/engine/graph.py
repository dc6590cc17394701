"""A decode step as CUDA graphs: its hundreds of kernels are started by one call."""

from collections.abc import Callable, Hashable

import torch


class Graphs:
    """One graph for each shape of a step. All that `step` reads and writes must stay where it is until `clear`."""

    def __init__(self):
        self.graphs: dict[tuple[Hashable, ...], torch.cuda.CUDAGraph] = {}
        self.pool = None

    def clear(self) -> None:
        self.graphs = {}
        self.pool = None

    def run(self, shape: tuple[Hashable, ...], step: Callable[..., None], live: torch.Tensor) -> None:
        """Do `step(*shape)`, captured at its first time.

        live: bool[rows]. The runs before a capture and the capture itself see nothing alive, and so change nothing.
        """
        if shape not in self.graphs:
            alive = live.clone()
            live.zero_()
            try:
                self.graphs[shape] = self._capture(shape, step)
            finally:
                live.copy_(alive)
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
