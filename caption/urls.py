"""Urls: pictures that lie in a store of objects (``s3://``, ``gs://``, …), through fsspec. A loader reads them itself,
so on a cluster each node reads its own."""

from __future__ import annotations

import functools
import re
import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple

from caption.errors import EmptyFile, InputError, TooLarge, Unreadable, UsageError, Vanished

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_CHAINED = re.compile(r"::[A-Za-z][A-Za-z0-9+.-]*://")  # zip://a.jpg::s3://bucket/b.zip
_OF_THE_WEB = ("http", "https", "ftp")  # pages, not stores: nothing says that a picture is still there tomorrow
_LARGEST = 1 << 30  # bytes of one picture


def scheme(text: str) -> str:
    """The part before ``://`` in small letters, or "" of what is no URL."""
    found = _URL.match(text) if "://" in text else None
    return found[1].lower() if found else ""


def local_path(text: str) -> str:
    """The path that a ``file://`` URL stands for; all else as it is."""
    if scheme(text) != "file":
        return text
    # Not urlsplit: a folder a#1 would become a.
    path = "/" + text.partition("://")[2].partition("/")[2]
    return urllib.parse.unquote(path, errors="surrogateescape")


def is_stored(text: str) -> bool:
    """Whether it is the URL of something in a store that fsspec knows.

    Raises:
        UsageError: it is, and the package for that store is not installed.
    """
    return bool(name := scheme(text)) and _is_store(name)


@functools.cache
def _is_store(name: str) -> bool:
    if name in _OF_THE_WEB:
        return False
    try:
        import fsspec
    except ImportError:
        raise UsageError(f"{name}:// needs the package fsspec", "pip install fsspec") from None
    if name not in fsspec.available_protocols():
        return False
    try:
        fsspec.get_filesystem_class(name)
    except ImportError as error:  # fsspec says itself which package that is
        raise UsageError(f"{name}:// needs another package", " ".join(str(error).split())) from None
    return True


class Url(NamedTuple):
    """A picture in a store; see caption.where."""

    url: str

    def read(self) -> bytes:
        """Its bytes. Raises ItemError."""
        try:
            store, path = _store_of(self.url)
            size = store.info(path)["size"] or 0
            if size > _LARGEST:
                raise TooLarge(f"it has {size:,} bytes")
            data = store.cat_file(path)
        except FileNotFoundError as error:
            raise Vanished("nothing is stored there") from error
        except TooLarge:
            raise
        except Exception as error:  # each store raises what its own library does
            raise Unreadable(f"it can't be read: {_words(error)}") from error
        if not data:
            raise EmptyFile("the object has zero bytes")
        return data


def walk(url: str, endings: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """What is stored below a folder, in the order of the names: each name below it, and whether its ending is one of
    these. One folder of it is listed at a time.

    Raises:
        InputError: there is no such folder, or it can't be listed.
    """
    store, root = _store_of(url)
    root = root.rstrip("/")
    waiting = [""]
    while waiting:
        name = waiting.pop()
        if name and not name.endswith("/"):
            yield name, name.lower().endswith(endings)
            continue
        folder = f"{root}/{name}".rstrip("/")
        try:
            found = store.ls(folder, detail=True)
        except FileNotFoundError as error:
            raise InputError(f"there is nothing at {url}", "check the URL") from error
        except Exception as error:
            raise InputError(f"can't list {url}: {_words(error)}", "check the URL and the rights to it") from error
        inside = {
            name + path.rpartition("/")[2] + "/" * (one["type"] == "directory")
            for one in found
            if (path := one["name"].rstrip("/")) != folder  # some stores list the folder in itself
        }
        waiting += sorted(inside, reverse=True)


def _store_of(url: str):
    """The file system of fsspec, and the path in it. It keeps no listings: they would grow with the data set."""
    import fsspec

    if "::" in url and not _CHAINED.search(url):  # to fsspec any :: begins another URL; here it is part of a name
        store = fsspec.get_filesystem_class(scheme(url))
        return store(use_listings_cache=False, **store._get_kwargs_from_urls(url)), store._strip_protocol(url)
    return fsspec.core.url_to_fs(url, use_listings_cache=False)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
