"""A decode step as CUDA graphs: its hundreds of kernels are started by one call."""

from collections.abc import Callable

import torch


class Graphs:
    """One graph for each view of the cache. All that `step` reads and writes must stay where it is until `clear`."""

    def __init__(self):
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.pool = None

    def clear(self) -> None:
        self.graphs = {}
        self.pool = None

    def run(self, view: int, step: Callable[[int], None], live: torch.Tensor) -> None:
        """Do `step(view)`, captured at its first time.

        live: bool[rows]. The runs before a capture and the capture itself see nothing alive, and so change nothing.
        """
        if view not in self.graphs:
            alive = live.clone()
            live.zero_()
            try:
                self.graphs[view] = self._capture(view, step)
            finally:
                live.copy_(alive)
        self.graphs[view].replay()

    def _capture(self, view: int, step: Callable[[int], None]) -> torch.cuda.CUDAGraph:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):  # libraries choose kernels and take their workspaces in the first runs
            for _ in range(2):
                step(view)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            step(view)
        self.pool = self.pool or graph.pool()
        return graph
