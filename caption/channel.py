"""Channel: messages between two processes over a socket, safe against a peer that dies or stops half-way.

Each pair of processes has a socket of its own, so a killed process can't leave a lock taken or tear another's
message. A message is a little-endian u64 length and a pickle. The coordinator's end never blocks: what the peer
doesn't read waits in memory, a half message waits for its rest.
"""

from __future__ import annotations

import pickle
import socket
import struct
import threading

_HEAD = struct.Struct("<Q")
_CHUNK = 1 << 18


def frame(message: object) -> bytes:
    body = pickle.dumps(message, protocol=5)
    return _HEAD.pack(len(body)) + body


class Channel:
    """The end that never blocks.

    Args:
        sock: a connected stream socket; the channel owns it from now on.
    """

    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        self._sock = sock
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self.ended = False  # the peer has closed, and all that it sent has been received

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def unsent(self) -> int:
        """Bytes that wait for the peer to read."""
        return len(self._outgoing)

    def send(self, message: object) -> None:
        """Queues a message and writes what the socket takes. A peer that is gone shows in ``receive``, not here."""
        self._outgoing += frame(message)
        self.flush()

    def flush(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: self._sock.send(memoryview(self._outgoing)[:_CHUNK].tobytes())]
        except BlockingIOError:
            pass
        except OSError:
            self._outgoing.clear()

    def receive(self) -> list[object]:
        """All whole messages that are there, in order; sets ``ended`` at the end of the stream."""
        try:
            while True:
                data = self._sock.recv(_CHUNK)
                if not data:
                    self.ended = True
                    break
                self._incoming += data
                if len(data) < _CHUNK:
                    break
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        return self._whole()

    def _whole(self) -> list[object]:
        messages, start, data = [], 0, self._incoming
        while len(data) - start >= _HEAD.size:
            end = start + _HEAD.size + _HEAD.unpack_from(data, start)[0]
            if len(data) < end:
                break
            with memoryview(data) as view:
                messages.append(pickle.loads(view[start + _HEAD.size : end]))
            start = end
        del data[:start]
        return messages

    def close(self) -> None:
        self._sock.close()


class ChildChannel:
    """The other end: a process that has nothing to do but wait for its parent.

    ``send`` may be called from several threads. Raises EOFError when the parent is gone.
    """

    def __init__(self, sock: socket.socket):
        sock.setblocking(True)
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        data = frame(message)
        try:
            with self._lock:
                self._sock.sendall(data)
        except OSError as error:
            raise EOFError("the parent is gone") from error

    def receive(self) -> object:
        """The next message; waits for it."""
        return pickle.loads(self._exactly(_HEAD.unpack(self._exactly(_HEAD.size))[0]))

    def _exactly(self, count: int) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            try:
                got = self._sock.recv_into(view)
            except OSError as error:
                raise EOFError("the parent is gone") from error
            if not got:
                raise EOFError("the parent is gone")
            view = view[got:]
        return data
