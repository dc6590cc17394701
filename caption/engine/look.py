"""A look at the slots' texts, which a GPU copies to the host while it goes on."""

from types import SimpleNamespace

import torch


class Look:
    """What stood in the state after steps had run, copied to the host while the device goes on."""

    def __init__(self, state: SimpleNamespace, turn: int):
        self.turn = turn
        self.alive: list[int] | None = None  # by row; known once it is here
        figures = torch.cat([torch.stack([state.live.long(), state.steps, state.flawed], 1), state.new], 1)
        self.event = None
        if figures.is_cuda:
            self.figures = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
            self.figures.copy_(figures, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()
        else:
            self.figures = figures

    def arrived(self) -> bool:
        return self.event is None or self.event.query()

    def live(self, row: int) -> bool:
        """Waits until it is here."""
        if self.alive is None:
            if self.event is not None:
                self.event.synchronize()
            self.alive = self.figures[:, 0].tolist()
        return bool(self.alive[row])

    def text(self, row: int) -> tuple[list[int], int]:
        """The tokens made, and the first step with a flaw."""
        _, steps, flaw, *ids = self.figures[row].tolist()
        return ids[:steps], flaw
