"""Thumbnailer: a process that makes small pictures, and that a bad one may crash, hang or fill.

``python -m caption.report.thumbnailer FD`` is started by ``caption.report.thumbnails``; it gets a bound in bytes, then
places of pictures, and answers each.
"""

from __future__ import annotations

import base64
import contextlib
import io

from PIL import Image

from caption.channel import ChildChannel
from caption.errors import ItemError, Unreadable
from caption.image import DecodeOptions, read_image
from caption.process import child_socket, leave_stopping_to_parent
from caption.report.thumbnails import Missing, Thumbnail
from caption.where import Where

_MEMORY = 1 << 30  # bytes of address space that the process may have
_DECODED = 50_000_000  # pixels; a larger picture is not shown
_TRIES = ((320, 75), (320, 50), (240, 40), (160, 30), (96, 20))  # longest side in pixels, quality


def main() -> None:
    leave_stopping_to_parent(with_parent=False)  # it ends with the channel
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = ChildChannel(child_socket())
    with contextlib.suppress(EOFError):
        most = channel.receive()
        channel.send(None)
        while True:
            channel.send(thumbnail(channel.receive(), most))


def thumbnail(where: Where, most: int) -> Thumbnail | Missing:
    """The picture as WebP in at most so many bytes, or as small as it gets; or why there is none."""
    side = _TRIES[0][0]
    try:
        picture, _ = read_image(where, DecodeOptions(side * side, _DECODED))
        content = _encoded(picture, most)
    except ItemError as error:
        return Missing(str(error), type(error).__name__)
    except (OSError, MemoryError, ValueError) as error:
        return Missing(f"it can't be shown: {error}", Unreadable.__name__)
    return Thumbnail(f"data:image/webp;base64,{base64.b64encode(content).decode()}", *picture.size)


def _encoded(picture: Image.Image, most: int) -> bytes:
    """Makes the picture itself smaller."""
    for side, quality in _TRIES:
        picture.thumbnail((side, side), reducing_gap=2)
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=quality)
        if file.tell() <= most:
            break
    return file.getvalue()


if __name__ == "__main__":
    main()
