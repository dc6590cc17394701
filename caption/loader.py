"""Loader: a process that turns files into the model's inputs, ahead of the GPU.

A picture can crash or hang the C library that decodes it; that ends a loader, never a worker. ``python -m
caption.loader FD`` is started by a worker's LoaderPool.
"""

from __future__ import annotations

from caption.channel import ChildChannel
from caption.errors import EngineFailed, ItemError, OutOfMemory
from caption.messages import LoaderReady, LoaderTask, NotLoaded, Prepared, Refused
from caption.process import child_socket, leave_stopping_to_parent


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


def main() -> None:
    leave_stopping_to_parent(with_parent=True)
    channel = ChildChannel(child_socket())
    try:
        setup = channel.receive()
        from caption.engine import ModelError, load_preparer

        try:
            preparer = load_preparer(setup.options, own_process=True)
        except ModelError as error:
            channel.send(NotLoaded(type(error).__name__, str(error)))
            return
        channel.send(LoaderReady())
        while True:
            channel.send(load(channel.receive(), preparer, setup.decode))
    except EOFError:
        return


if __name__ == "__main__":
    main()
