"""Channel: whole messages only, whatever the peer does."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import caption
from caption.channel import Channel, ChildChannel, frame

ROOT = Path(caption.__file__).parents[1]


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


def receive_until(channel, enough, timeout=10.0):
    """Receives until ``enough(messages)`` or the end of the stream."""
    messages, deadline = [], time.monotonic() + timeout
    while not enough(messages) and not channel.ended:
        assert time.monotonic() < deadline, f"only {len(messages)} messages came"
        messages += channel.receive()
        time.sleep(0.001)
    return messages


def test_nothing_there_is_no_message_and_no_end(pair):
    channel, _ = pair
    assert channel.receive() == []
    assert not channel.ended


def test_half_a_message_waits_for_its_rest(pair):
    channel, peer = pair
    data = frame({"caption": "a red circle"})
    for cut in (3, 8, 9, len(data) - 1):  # inside the length, after it, inside the body
        peer.sendall(data[:cut])
        assert channel.receive() == []
        peer.sendall(data[cut:])
        assert channel.receive() == [{"caption": "a red circle"}]


def test_message_in_single_bytes(pair):
    channel, peer = pair
    got = []
    for byte in frame(("a", 1)) + frame("b"):
        peer.sendall(bytes([byte]))
        got += channel.receive()
    assert got == [("a", 1), "b"]


def test_many_at_once_come_in_order_with_the_half_one_kept(pair):
    channel, peer = pair
    data = b"".join(map(frame, range(1000))) + frame("last")
    peer.sendall(data[:-2])
    assert channel.receive() == list(range(1000))
    peer.sendall(data[-2:])
    assert channel.receive() == ["last"]


def test_message_as_long_as_one_read(pair):
    """The first read fills its buffer exactly, so the next one finds nothing: that is no end."""
    channel, peer = pair
    body = (1 << 18) - (len(frame(b"x" * 200_000)) - 200_000)
    data = frame(b"x" * body)
    assert len(data) == 1 << 18
    threading.Thread(target=peer.sendall, args=(data,)).start()
    assert receive_until(channel, len) == [b"x" * body]
    assert not channel.ended


def test_peer_that_dies_inside_a_message_loses_only_that_one(pair):
    channel, peer = pair
    peer.sendall(frame(1) + frame(2) + frame("torn")[:-1])
    peer.close()
    assert receive_until(channel, lambda messages: False) == [1, 2]
    assert channel.ended
    assert channel.receive() == []


def test_peer_that_dies_with_unread_mail_loses_nothing_it_sent(pair):
    """Closing a socket with unread data in it resets the connection, which must not overtake what was sent."""
    channel, peer = pair
    channel.send("never read")
    peer.sendall(frame("last words"))
    peer.close()
    assert receive_until(channel, lambda messages: False) == ["last words"]
    assert channel.ended


def test_killed_peer_process_whole_messages_come_then_the_end():
    program = """
import socket, sys, time
from caption.channel import ChildChannel, frame
sock = socket.socket(fileno=int(sys.argv[1]))
channel = ChildChannel(sock)
for number in range(5):
    channel.send(number)
sock.sendall(frame("x" * 100_000)[:50_000])
time.sleep(60)
"""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    with theirs:
        command = [sys.executable, "-c", program, str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT)
    try:
        assert receive_until(channel, lambda messages: len(messages) == 5) == [0, 1, 2, 3, 4]
        assert not channel.ended
        os.kill(process.pid, signal.SIGKILL)
        assert receive_until(channel, lambda messages: False) == []
        assert channel.ended
    finally:
        process.kill()
        process.wait()
        channel.close()


def test_send_never_blocks_on_a_peer_that_does_not_read(pair):
    channel, peer = pair
    sent = ["x" * 100_000 + str(number) for number in range(100)]
    begin = time.monotonic()
    for message in sent:
        channel.send(message)
    assert time.monotonic() - begin < 5
    assert channel.unsent > 5_000_000

    reader, got = ChildChannel(peer), []
    thread = threading.Thread(target=lambda: got.extend(reader.receive() for _ in sent))
    thread.start()
    deadline = time.monotonic() + 10
    while channel.unsent and time.monotonic() < deadline:
        channel.flush()
        time.sleep(0.001)
    thread.join(10)
    assert got == sent
    assert channel.unsent == 0


def test_send_to_a_dead_peer_keeps_nothing(pair):
    channel, peer = pair
    peer.close()
    for _ in range(3):
        channel.send("x" * 1_000_000)
    assert channel.unsent == 0
    channel.receive()
    assert channel.ended


def test_big_messages_both_ways_at_the_same_time(pair):
    channel, peer = pair
    child, there, back = ChildChannel(peer), os.urandom(20_000_000), os.urandom(20_000_000)
    got = []
    receiver = threading.Thread(target=lambda: got.append(child.receive()))
    sender = threading.Thread(target=lambda: child.send(back))
    channel.send(there)
    receiver.start()
    sender.start()
    messages, deadline = [], time.monotonic() + 20
    while (not messages or channel.unsent) and time.monotonic() < deadline:
        channel.flush()
        messages += channel.receive()
    receiver.join(20)
    sender.join(20)
    assert messages == [back]
    assert got == [there]


def test_child_whose_parent_is_gone_gets_eof(pair):
    channel, peer = pair
    child = ChildChannel(peer)
    channel.send("last")
    channel.close()
    assert child.receive() == "last"
    with pytest.raises(EOFError):
        child.receive()
    with pytest.raises(EOFError):
        child.send("too late")


def test_child_whose_parent_dies_inside_a_message_gets_eof(pair):
    channel, peer = pair
    channel._sock.sendall(frame("half a message")[:-3])
    channel.close()
    with pytest.raises(EOFError):
        ChildChannel(peer).receive()


def test_child_that_waits_in_send_gets_eof_when_the_parent_goes(pair):
    channel, peer = pair
    child, raised = ChildChannel(peer), threading.Event()

    def send():
        try:
            child.send(b"x" * 5_000_000)  # more than the socket takes
        except EOFError:
            raised.set()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    time.sleep(0.1)
    channel.close()
    assert raised.wait(5)


def test_child_threads_do_not_mix_their_messages(pair):
    channel, peer = pair
    child = ChildChannel(peer)

    def send(name):
        for number in range(50):
            child.send((name, number, b"x" * 20_000))

    threads = [threading.Thread(target=send, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    messages = receive_until(channel, lambda messages: len(messages) == 200)
    for thread in threads:
        thread.join()
    for name in "abcd":
        assert [number for sender, number, _ in messages if sender == name] == list(range(50))
