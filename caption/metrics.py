"""Metrics: figures of a run for Prometheus, served while it goes on (``--metrics-port``; needs prometheus_client)."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from caption.errors import UsageError
from caption.monitor import Load
from caption.snapshot import Snapshot

_PREFIX = "caption_"


class Metrics:
    """Serves http://HOST:port/metrics from a thread of its own, on all addresses of this machine.

    Raises UsageError: the package is missing, or the port can't be had.
    """

    def __init__(self, port: int):
        try:
            import prometheus_client
            from prometheus_client import core
        except ImportError as error:
            raise UsageError(
                "--metrics-port needs the package prometheus_client", "pip install prometheus_client"
            ) from error
        self._families = core
        self._latest: tuple[Snapshot, Load] | None = None
        registry = core.CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = prometheus_client.start_http_server(port, registry=registry)
        except OSError as error:
            reason = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise UsageError(f"--metrics-port {port}: {reason}", "choose another port") from error

    def show(self, snapshot: Snapshot, load: Load) -> None:
        """What is served from now on."""
        self._latest = snapshot, load

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def collect(self) -> Iterator:
        """Called by the registry for each request."""
        if not self._latest:
            return
        snapshot, load = self._latest
        yield from self._of_run(snapshot)
        yield from self._of_workers(snapshot)
        yield from self._of_machine(load)

    def _counter(self, name: str, help: str, label: str, values: dict[str, float]):
        family = self._families.CounterMetricFamily(_PREFIX + name, help, labels=[label])
        for value, count in values.items():
            family.add_metric([value], count)
        return family

    def _gauge(self, name: str, help: str, value: float | None):
        """A gauge without a sample, if there is no value."""
        family = self._families.GaugeMetricFamily(_PREFIX + name, help)
        if value is not None:
            family.add_metric([], value)
        return family

    def _of_run(self, run: Snapshot) -> Iterator:
        ended = {"captioned": run.done, "failed": run.failed}
        yield self._counter("images", "Images that ended in this run, by result.", "result", ended)
        yield self._counter("failures", "Images that failed in this run, by class.", "error", run.errors)
        yield self._counter("flags", "Flags set on captions in this run, by flag.", "flag", run.flags)
        yield self._gauge("flagged_images", "Captions of this run that have a flag.", run.flagged)
        yield self._gauge("input_images", "Images of the input; none while they are counted.", run.total)
        yield self._gauge("images_before", "Images of the input that earlier runs have done.", run.before)
        yield self._gauge("images_per_second", "Pace over the last minute.", run.rate)
        yield self._gauge("seconds_left", "At the pace of the last minute.", run.seconds_left)
        yield self._gauge("disk_to_come_bytes", "What the captions to come will take, about.", run.bytes_to_come)

    def _of_workers(self, run: Snapshot) -> Iterator:
        core = self._families
        ready = core.GaugeMetricFamily(_PREFIX + "worker_ready", "1 if the model is loaded.", labels=["worker"])
        images = core.CounterMetricFamily(
            _PREFIX + "worker_images", "Images that ended in this run.", labels=["worker", "result"]
        )
        spent = core.CounterMetricFamily(
            _PREFIX + "worker_seconds", "Time spent by stage; starved and late are parts of generating.",
            labels=["worker", "stage"],
        )  # fmt: skip
        for worker in run.workers:
            ready.add_metric([worker.name], float(worker.state == "ready"))
            images.add_metric([worker.name, "captioned"], worker.done)
            images.add_metric([worker.name, "failed"], worker.failed)
            for stage, seconds in worker.seconds.items():
                spent.add_metric([worker.name, stage], seconds)
        yield from (ready, images, spent)

    def _of_machine(self, load: Load) -> Iterator:
        if machine := load.machine:
            yield self._gauge("cpu_ratio", "Use of all cores, 0 to 1.", machine.cpu / 100)
            yield self._gauge("ram_used_bytes", "Of the machine or its limit.", machine.ram_used)
            yield self._gauge("ram_total_bytes", "Of the machine or its limit.", machine.ram_total)
            yield self._gauge("disk_free_bytes", "On the disk of the output folder.", machine.disk_free)
        figures = (
            ("gpu_ratio", "Share of the time in which it computed.", "use", 0.01),
            ("gpu_memory_used_bytes", "Memory in use.", "used", 1),
            ("gpu_memory_total_bytes", "Memory there is.", "total", 1),
            ("gpu_celsius", "Temperature.", "celsius", 1),
        )
        for name, help, field, factor in figures:
            family = self._families.GaugeMetricFamily(_PREFIX + name, help, labels=["gpu"])
            for uuid, gpu in load.gpus.items():
                if (value := getattr(gpu, field)) is not None:
                    family.add_metric([uuid], value * factor)
            yield family
