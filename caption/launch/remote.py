"""Remote: a worker on another node, in the shape of a child process of this one.

A thread passes bytes between its actor and a socket whose other end is a channel like any worker's: what the crew
knows of sockets, order and the end of a stream holds here too. One call a direction is under way at a time, and what
the coordinator does not read stays with the worker, so memory is bounded however many nodes there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable

import ray
from ray.exceptions import RayError

from caption.channel import Channel
from caption.launch.host import AT_ONCE, Ending
from caption.monitor import Load
from caption.process import LAST_SECONDS

GROUPS = dict.fromkeys(("ready", "read", "write", "ending", "kill", "stopped", "whereabouts"), 1)
_PLACED = 120.0  # seconds that Ray has to start an actor where there is room for it: its libraries may come slowly
_MOST_WORDS = 200  # lines kept until the crew asks for them
_ASK_SECONDS = 3.0  # that a node has to answer a question


class Relay:
    """The thread in which all calls to actors are made."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="relay", daemon=True)
        self._thread.start()

    def spawn(self, coroutine) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def close(self) -> None:
        async def stop() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.loop.stop()

        self.spawn(stop())
        self._thread.join(LAST_SECONDS)


class RemoteChild:
    """What ``process.Child`` is for a worker of this machine.

    Args:
        actor: a launch.host.Host that has been asked for, and may not be there yet.
        node_is_gone: whether its node is no more; may take some seconds.

    Attributes:
        taken: its node went, or it never had a place there: nothing that it held can be the reason of its end.
        displaced: its place was not free.
        load: the latest figures of it, as launch.host.Said has them; None before the first.
    """

    pid = None  # of another machine: it says nothing here

    def __init__(self, actor, relay: Relay, node_is_gone: Callable[[], bool]):
        self._actor, self._relay, self._node_is_gone = actor, relay, node_is_gone
        self._placed = threading.Event()
        ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        self.channel = Channel(ours)
        self._words: deque[str] = deque(maxlen=_MOST_WORDS)
        self._ending = Ending("stopped answering", killed=False)
        self._ended = threading.Event()
        self.load: Load | None = None
        self.killed = self.taken = self.displaced = False
        relay.spawn(self._outward())

    @property
    def placed(self) -> bool:
        """Whether it is there and at work: its node's resources are taken."""
        return self._placed.is_set() and not self._ended.is_set()

    # ---- in the relay's thread ----

    async def _outward(self) -> None:
        """From the worker to the coordinator, to its end."""
        inward = asyncio.ensure_future(self._inward())
        try:
            await asyncio.wait_for(asyncio.wrap_future(self._call("ready").future()), _PLACED)
            self._placed.set()
            while (said := await self._call("read")).data:
                self._words += said.words
                self.load = said.load or self.load
                await self._relay.loop.sock_sendall(self._theirs, said.data)
            self._words += said.words
            self._ending = await self._call("ending")
            self.killed = self._ending.killed
        except RayError as error:
            await self._find_out(error)
        except TimeoutError:
            self._end_actor()
            self.taken = self.displaced = True
            self._ending = Ending(f"found no free place within {_PLACED:.0f} s", killed=False)
        except OSError:
            pass  # the coordinator has closed its end
        finally:
            inward.cancel()
            self._ended.set()
            self._theirs.close()

    async def _inward(self) -> None:
        with contextlib.suppress(RayError, OSError):  # which ``_outward`` sees, too
            while data := await self._relay.loop.sock_recv(self._theirs, AT_ONCE):
                await self._call("write", data)

    async def _find_out(self, error: RayError) -> None:
        """A call has failed, so the stream may lack a part: the worker's life is over. Was it its node's end?"""
        self._end_actor()
        self.taken = await self._relay.loop.run_in_executor(None, self._node_is_gone)
        words = "went with its node" if self.taken else f"was ended by Ray ({_reason(error)})"
        # One that Ray could not even start will not do better for long.
        self.killed = self._placed.is_set() or self.taken
        self._ending = Ending(words, self.killed)

    # ---- as process.Child ----

    def kill(self) -> None:
        """Ends the worker; what it had sent before still comes. Of one whose node does not answer, nothing does."""
        with contextlib.suppress(RayError):
            self._call("kill")
        self._relay.loop.call_soon_threadsafe(lambda: self._relay.loop.call_later(LAST_SECONDS, self._end_actor))

    def join(self, timeout: float) -> bool:
        return self._ended.wait(timeout)

    def close(self) -> None:
        self._end_actor()
        self.channel.close()

    def stopped(self) -> bool:
        return bool(self._ask("stopped"))

    def whereabouts(self) -> str:
        return self._ask("whereabouts") or ""

    def forget_words(self) -> None:
        pass  # the host has

    def new_words(self) -> list[str]:
        words = []
        with contextlib.suppress(IndexError):
            while True:
                words.append(self._words.popleft())
        return words

    def last_words(self) -> str:
        return self._ending.words

    def _call(self, method: str, *args):
        """Calls of one method come to the actor in their order, and wait for none of another."""
        return getattr(self._actor, method).options(concurrency_group=method).remote(*args)

    def _ask(self, method: str):
        """None if the node does not answer in time."""
        with contextlib.suppress(RayError):
            return ray.get(self._call(method), timeout=_ASK_SECONDS)
        return None

    def _end_actor(self) -> None:
        with contextlib.suppress(Exception):  # it has ended, or Ray has
            ray.kill(self._actor)


def _reason(error: RayError) -> str:
    """Of an error in the actor's own code, the last line of its traceback; else the first sentence."""
    text = str(error).strip()
    return text.splitlines()[-1] if "Traceback" in text or "ray::" in text else text.partition(". ")[0].splitlines()[0]
