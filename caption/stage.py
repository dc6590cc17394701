"""Stage: one model over all items of a source, from its workers' start to their end."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import checkpoint
from caption.adapter import AdapterCheck, Adapters
from caption.console import say
from caption.coordinator import Coordinator
from caption.cost import estimator
from caption.crew import Crew
from caption.feed import Count, Feed
from caption.item import Item
from caption.laps import Laps
from caption.launch import Launcher
from caption.lookout import Lookout
from caption.metrics import Metrics
from caption.model import Model
from caption.outcome import Outcome
from caption.outputfolder import record_errors
from caption.outputs.rows import CAPTION_FILES, RowFiles
from caption.precision import Precision
from caption.runfile import RunFile
from caption.schedule import make_schedule, usual_slots
from caption.scorer import Scorer
from caption.settings import Settings
from caption.setup import make_setup
from caption.sources import Source
from caption.stall import watch_for
from caption.stop import StopSignals
from caption.twins import Twins

_NONE = Adapters()
# A run makes tuples by the million, but no cycles: looking for some at Python's own pace took a seventh of its time.
_COLLECTIONS = 50_000, 20, 100


@dataclass
class Stage:
    """Attributes:
    open_source: gives the input anew at each call.
    dtype: that the model begins in.
    record: open, for its row files.
    laps: of the command so far.
    metrics: to be served, if they are.
    adapters: that the run or its items name.
    scorer: what scores captions, where none are made.
    files: where the rows go.
    when_done: called before the workers end, while they still hold their models.
    """

    settings: Settings
    source: Source
    open_source: Callable[[], Source]
    launcher: Launcher
    model: Model
    dtype: str
    record: checkpoint.Record
    run_file: RunFile
    stop: StopSignals
    laps: Laps
    metrics: Metrics | None = None
    adapters: Adapters = _NONE
    scorer: Scorer | None = None
    files: RowFiles = CAPTION_FILES
    when_done: Callable[[], None] | None = None

    def run(self) -> Outcome:
        """Until all is done or a stop was asked for. Raises as Coordinator.run, in sentences."""
        gc.set_threshold(*_COLLECTIONS)
        settings, seats = self.settings, self.launcher.seats
        precision = Precision(self.dtype, self.run_file)
        if precision.switched:
            say(f"        in {precision.dtype}, as {self.dtype} was too narrow in an earlier run")
        names, out = [seat.name for seat in seats], Path(settings.output)
        with contextlib.ExitStack() as open_:
            lookout = Lookout(settings, seats, self.run_file.number, self.metrics)
            open_.enter_context(contextlib.closing(lookout))
            setup = make_setup(settings, seats, self.model, precision, self.adapters, scorer=self.scorer)
            crew = open_.enter_context(Crew(seats, setup, watch_for(settings, seats[0].device), self.launcher))
            twins = Twins()
            if settings.dedupe:
                say("Looking for equal pictures (--dedupe).")
                found = twins.find(self.open_source(), settings.limit, self.record, out)
                say(f"        {found:,} images are equal to an earlier one")
            coordinator = Coordinator(
                settings=settings,
                source=self.source,
                feed=Feed(self.source, settings.limit, self.record.done, self._estimator()),
                count=Count(self.open_source(), settings.limit),
                schedule=make_schedule(settings.schedule, names, settings.batch_size or usual_slots(seats[0].device)),
                record=self.record,
                crew=crew,
                lookout=lookout,
                run_file=self.run_file,
                precision=precision,
                stop=self.stop,
                twins=twins,
                laps=self.laps,
                adapters=AdapterCheck(self.adapters),
                files=self.files,
                when_done=self.when_done,
            )
            with record_errors(out, coordinator.bytes_to_come), self.stop.looked_after():
                return coordinator.run()

    def _estimator(self) -> Callable[[list[Item]], list[Item]]:
        """Encoders take as long for one picture as for another."""
        return estimator(self.settings) if self.scorer is None or self.scorer.writes else list
