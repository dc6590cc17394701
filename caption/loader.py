"""Loader: a process that turns files into the model's inputs, ahead of the GPU.

A picture can crash or hang the C library that decodes it; that ends a loader, never a worker. ``python -m
caption.loader FD MEMORY`` is started by a worker's LoaderPool; MEMORY is the file that large arrays are left in.
"""

from __future__ import annotations

import sys

from caption.channel import ChildChannel
from caption.errors import EngineFailed, ItemError, OutOfMemory
from caption.messages import LoaderReady, LoaderTask, NotLoaded, Prepared, Refused
from caption.process import child_socket, leave_stopping_to_parent
from caption.sharedmemory import Outgoing, Parcel


def load(task: LoaderTask, preparer, decode) -> Prepared | Refused:
    """Reads and prepares one image; whatever goes wrong is an answer too."""
    from caption.image import read_image

    item = task.item
    try:
        picture, (width, height) = read_image(item.where, decode)
        inputs = preparer.prepare(picture, item.prompt, item.max_pixels)
        return Prepared(task.ref, inputs, width, height)
    except ItemError as error:
        return Refused(task.ref, type(error).__name__, str(error))
    except MemoryError:
        return Refused(task.ref, OutOfMemory.__name__, "preparing it takes more memory than there is")
    except Exception as error:
        return Refused(task.ref, EngineFailed.__name__, f"preparing it failed: {type(error).__name__}: {error}")


def _pack(memory: Outgoing, answer: Prepared | Refused) -> Parcel:
    try:
        return memory.pack(answer)
    except (OSError, MemoryError) as error:
        return memory.pack(Refused(answer.ref, OutOfMemory.__name__, f"there is no memory to hand it on: {error}"))


def main() -> None:
    leave_stopping_to_parent(with_parent=True)
    try:
        channel = ChildChannel(child_socket())
        setup = channel.receive()
        memory = Outgoing(int(sys.argv[2]), setup.held)
        from caption.engine import ModelError, load_preparer

        try:
            preparer = load_preparer(setup.options, own_process=True)
        except ModelError as error:
            channel.send(NotLoaded(type(error).__name__, str(error)))
            return
        channel.send(LoaderReady())
        while True:
            task = channel.receive()
            memory.free(task.freed)
            channel.send(_pack(memory, load(task, preparer, setup.decode)))
    except EOFError:
        return


if __name__ == "__main__":
    main()
