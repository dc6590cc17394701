"""Cluster: ``--launcher ray``: a seat for each free GPU of a Ray cluster, for as long as its node is there."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from caption.devices import Seat
from caption.errors import NoWorkerLeft, UsageError
from caption.log import note
from caption.settings import Settings

_LOOK_EVERY = 2.0  # seconds between looks at the nodes
_PATIENCE = 600.0  # seconds that a cluster has to bring new nodes when all are gone
_STORE = 100 << 20  # bytes of Ray's store of objects, which a run does not use, where Ray is started for the run
_TWICE = 2  # looks in which a place beside others must be free: Ray learns a little later what has just been taken
_FREED = 15.0  # seconds at the start in which Ray notices that a run before this one was killed
_ANSWERS = 3.0  # seconds that a node has to take a connection
_RAY_LEARNS = 60.0  # seconds after which Ray itself knows that a node is gone
_KNOCK = 10.0  # seconds
_PORT = 6379  # of a head node, where nobody says another


@dataclass
class _Node:
    """Attributes:
    place: address and port of its Ray.
    gone_since: when it was found to be gone, by ``time.monotonic``; None: it is there.
    seats: that it has.
    given: seats that it has ever had.
    free_looks: how often in a row it had room for one more.
    """

    number: int
    id: str
    host: str
    place: tuple[str, int]
    resources: dict[str, float]
    gone_since: float | None = None
    seats: list[Seat] = field(default_factory=list)
    given: int = 0
    free_looks: int = 0


class Cluster:
    """See launch.Launcher.

    Raises:
        UsageError: a wrong option, ray is not installed, or no Ray answers.
        NoWorkerLeft: it has nothing that is free.
    """

    def __init__(self, settings: Settings):
        _refuse(settings)
        self._settings = settings
        self._address = settings.ray_address or os.environ.get("RAY_ADDRESS") or ""
        self._connect()
        from caption.launch.remote import Relay

        self._relay = Relay()
        self._children: dict[str, object] = {}
        self._nodes: dict[str, _Node] = {}
        self._count = 0
        self._joined: deque[Seat] = deque()
        self.seats: Sequence[Seat] = ()
        self._stopped = threading.Event()
        try:
            self._device = self._choose_device()
            self.seats = self._first_seats()
        except BaseException:
            self.close()
            raise
        # A schedule that is not dynamic must know all workers before.
        self._grows = bool(self._address) and settings.schedule == "dynamic"
        self.patience = _PATIENCE if self._grows else 0.0
        threading.Thread(target=self._keep_looking, name="nodes", daemon=True).start()

    @property
    def described(self) -> str:
        where = f"cluster at {self._address}" if self._address else "started on this machine for this run"
        nodes = [node for node in self._nodes.values() if node.seats]
        shown = ", ".join(f"n{node.number} is {node.host}" for node in nodes[:8]) + (", …" if len(nodes) > 8 else "")
        return f"Ray     {where}: {_counted(len(self.seats), 'worker')} on {_counted(len(nodes), 'node')}, {shown}"

    def start(self, seat: Seat, environment: dict[str, str | None], descriptors: Sequence[int] = ()):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from caption.launch.host import Host
        from caption.launch.remote import GROUPS, RemoteChild

        if seat.device == "cpu":
            environment = environment | {"CUDA_VISIBLE_DEVICES": ""}  # on a GPU it is what Ray says
        actor = ray.remote(concurrency_groups=GROUPS)(Host).options(
            num_gpus=self._gpu_share if seat.device == "cuda" else 0,
            num_cpus=seat.threads or 0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(seat.host, soft=False),
        )
        node, host = self._nodes[seat.host], actor.remote("caption.worker", environment, seat.device)
        self._children[seat.name] = child = RemoteChild(host, self._relay, lambda: self._is_gone(node))
        return child

    def lost(self, seat: Seat) -> str:
        node, child = self._nodes[seat.host], self._children.get(seat.name)
        if node.gone_since is not None:
            return f"its node {node.host} is gone"
        return "another job has its place" if child and child.displaced else ""

    def joined(self) -> list[Seat]:
        seats = []
        with contextlib.suppress(IndexError):
            while True:
                seats.append(self._joined.popleft())
        return seats

    def close(self) -> None:
        import ray

        self._stopped.set()
        self._relay.close()
        ray.shutdown()

    # ---- Ray itself ----

    def _connect(self) -> None:
        """Ray's own words go into the log: they would stand between the bars."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from ray._private import worker

        worker.print_to_stdstream = lambda data, *_, **__: [note(line, "ray") for line in data["lines"]]
        remedy = "see ray status there (of one that asks for a token set RAY_AUTH_MODE=token), or leave the address out"
        address = _with_port(self._address)
        if self._address not in ("", "auto"):
            _knock(address, remedy)
        on_cluster = {"address": address}
        alone = {"address": "local", "include_dashboard": False, "object_store_memory": _STORE}
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(
                **(on_cluster if self._address else alone), log_to_driver=False, logging_level=logging.ERROR,
                namespace="caption",
            )  # fmt: skip
        except Exception as error:
            where = f"--ray-address {self._address}" if self._address else "--launcher ray"
            problem = " ".join(str(error).split()).partition(". ")[0]
            raise UsageError(f"{where}: no Ray answers ({problem})", remedy if self._address else "") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():  # Ray takes SIGTERM for itself
                    signal.signal(number, handler)

    def _keep_looking(self) -> None:
        while not self._stopped.wait(_LOOK_EVERY):
            with contextlib.suppress(Exception):  # Ray does not answer now: its next answer will do
                self._look()

    def _is_gone(self, node: _Node) -> bool:
        """Asks the node itself: Ray takes its time to learn it."""
        if node.gone_since is None:
            try:
                socket.create_connection(node.place, timeout=_ANSWERS).close()
            except OSError:
                node.gone_since = time.monotonic()
        return node.gone_since is not None

    def _look(self) -> None:
        """Which nodes are there, and for how many more workers each has room."""
        import ray
        from ray._private.state import available_resources_per_node

        free = available_resources_per_node()
        found = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        now = time.monotonic()
        for node in self._nodes.values():
            if node.id not in found and node.gone_since is None:
                node.gone_since = now
        for id, about in found.items():
            node = self._nodes.get(id)
            if node and node.gone_since is not None and now - node.gone_since < _RAY_LEARNS:
                continue
            if not node or node.gone_since is not None:  # it is new; or it was only out of reach for a while
                place = about["NodeManagerAddress"], about["NodeManagerPort"]
                node = _Node(self._count, id, about["NodeManagerHostname"], place, about["Resources"])
                self._nodes[id], self._count = node, self._count + 1
            self._add_seats(node, free.get(id, {}))

    def _add_seats(self, node: _Node, free: dict[str, float]) -> None:
        if self.seats and not self._grows:
            return
        node.seats = [seat for seat in node.seats if not self.lost(seat)]
        if any(not (child := self._children.get(seat.name)) or not child.placed for seat in node.seats):
            return  # what is free may be theirs
        seats = sum(len(one.seats) for one in self._nodes.values() if one.gone_since is None)
        room = min(self._room(node, free), self._most - seats)
        node.free_looks = node.free_looks + 1 if room > 0 else 0
        if node.given and node.free_looks < _TWICE:
            return
        for _ in range(room):
            seat = self._seat(node, free)
            node.seats.append(seat)
            node.given += 1
            self._joined.append(seat)
        node.free_looks = 0

    # ---- seats ----

    def _choose_device(self) -> str:
        import ray

        gpus = any(node["Resources"].get("GPU") for node in ray.nodes() if node["Alive"])
        if self._settings.device == "cuda" and not gpus:
            raise UsageError("--device cuda: no node of the Ray cluster has a GPU", "see ray status")
        return "cuda" if gpus and self._settings.device != "cpu" else "cpu"

    @property
    def _gpu_share(self) -> float:
        """GPUs of one worker."""
        return self._settings.gpus_per_worker / self._settings.workers_per_gpu

    @property
    def _most(self) -> float:
        """Workers of the whole run."""
        number = self._settings.num_gpus
        return int(number / self._gpu_share) if number and self._device == "cuda" else math.inf

    def _room(self, node: _Node, free: dict[str, float]) -> int:
        if self._device == "cuda":
            return int(free.get("GPU", 0) / self._gpu_share + 1e-6)
        return min(self._settings.workers - len(node.seats), int(free.get("CPU", 0)))

    def _seat(self, node: _Node, free: dict[str, float]) -> Seat:
        settings, number = self._settings, node.given
        cores = int(node.resources.get("CPU", 1))
        if self._device == "cuda":
            workers = max(1, int(node.resources["GPU"] / self._gpu_share))
            loaders = settings.loaders or max(1, min(24, cores // workers - 2))
            share = 1 / settings.workers_per_gpu
            return Seat(
                f"n{node.number}gpu{number}", "cuda", "", None, loaders, share, settings.gpus_per_worker, node.id
            )
        threads = max(1, int(free["CPU"]) // settings.workers)
        loaders = settings.loaders or max(1, min(4, cores // (2 * settings.workers)))
        return Seat(f"n{node.number}cpu{number}", "cpu", "", threads, loaders, host=node.id)

    def _first_seats(self) -> Sequence[Seat]:
        deadline, what = time.monotonic() + _FREED, "GPU" if self._device == "cuda" else "CPU"
        while True:
            self._look()
            if seats := self.joined():
                return seats
            there = sum(node.resources.get(what, 0) for node in self._nodes.values())
            if not there or time.monotonic() > deadline:
                break
            time.sleep(_LOOK_EVERY / 4)
        raise NoWorkerLeft(
            f"of {_counted(int(there), what)} on {_counted(len(self._nodes), 'node')} of the Ray cluster none is free",
            "wait for the jobs that hold them, which ray status shows, or add nodes",
        )


def _refuse(settings: Settings) -> None:
    if not importlib.util.find_spec("ray"):
        raise UsageError("--launcher ray needs the package ray", "pip install 'ray>=2.60,<3'")
    wrong = {
        f"--gpus {settings.gpus}: Ray says which GPUs are free": settings.gpus != "all",
        "--device mps: no GPU of a cluster": settings.device == "mps",
        "--workers-per-gpu auto is of this machine alone": settings.workers_per_gpu is None,
        "--gpus-per-worker shares no GPU": settings.gpus_per_worker > 1 and (settings.workers_per_gpu or 1) > 1,
        f"--ray-address {settings.ray_address}: Ray's client can't carry a run": "://" in (settings.ray_address or ""),
    }
    for problem in (problem for problem, is_so in wrong.items() if is_so):
        raise UsageError(f"{problem} (--launcher ray)", "leave it out, or run on a machine of the cluster")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _with_port(address: str) -> str:
    return address if address == "auto" or ":" in address else f"{address}:{_PORT}"


def _knock(address: str, remedy: str) -> None:
    """Ray itself takes more than a minute to find out that nobody is there, and no Ctrl-C ends that."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"--ray-address {address}: nobody answers there ({error})", remedy) from error
