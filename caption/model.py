"""Model: from what the user typed to a local folder and to what identifies its content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from caption import cache
from caption.console import say
from caption.engine import is_null
from caption.errors import ModelNotFound
from caption.messages import Setup

EMBEDDED = {name: Path(__file__).parent / "models" / name for name in ("shapes", "shapes-scorer")}
SMALL_MODELS = "--model shapes (embedded) or --model HuggingFaceTB/SmolVLM-256M-Instruct"

_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "merges*"]
_SAID_ABOVE = 2.0  # gigabytes; reading less takes no time worth a word
_PIECE = 128 << 20  # bytes of a file that one thread hashes
_READ = 1 << 20
_TICK = 2_000_000_000  # nanoseconds within which a change might not show in a file's times
_PICKLES = ["*.bin", "*.pt", "*.pth"]


@dataclass(frozen=True)
class Model:
    """Attributes:
    name: what the user calls it: its id on the hub, or the name of its folder.
    folder: where its files are; for the do-nothing engine, its name.
    identity: changes when a file of it changes: name and commit on the hub, or a hash of the folder's content.
    gigabytes: of weights; 0.0 where it isn't known.
    """

    name: str
    folder: str
    identity: str
    gigabytes: float


def find_model(name: str, revision: str | None, remote_code: bool, pickles: bool) -> Model:
    """Finds a model, and downloads it where it is not here yet.

    Args:
        revision: of a model on the hub.
        remote_code: also fetch its Python files.
        pickles: also fetch weights that are not safetensors.

    Raises:
        ModelNotFound: there is no such folder, or the hub has no such model or can't be reached.
    """
    if is_null(name):
        return Model(name, name, name, 0.0)
    folder = EMBEDDED.get(name, Path(name).expanduser())
    if folder.is_dir():
        if not os.access(folder, os.R_OK | os.X_OK):
            raise ModelNotFound(f"can't read the model folder {folder}", "check its permissions")
        if not (folder / "config.json").is_file():
            raise ModelNotFound(f"the folder {folder} holds no model", "it should have a config.json")
        gigabytes = _gigabytes(folder)
        if gigabytes > _SAID_ABOVE:
            say(f"Reading the model {name} ({gigabytes:.1f} GB).")
        return Model(folder.resolve().name, os.fspath(folder), f"content {_content_hash(folder)}", gigabytes)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not re.fullmatch(r"[\w.\-]+(/[\w.\-]+)?", name):
        raise ModelNotFound(f"there is no model folder {name}", "check --model")
    snapshot = _download(name, revision, _patterns(remote_code, pickles))
    return Model(name, os.fspath(snapshot), f"{name} commit {snapshot.name}", _gigabytes(snapshot))


def with_model_here(setup: Setup) -> Setup:
    """On a node of a cluster: the setup with the folder that holds the model there, downloaded where it is not yet.

    Raises:
        SystemExit: the hub does not give it to this machine.
    """
    options, folder = setup.options, Path(setup.options.model)
    name, is_of_hub, commit = (options.model_identity or "").rpartition(" commit ")
    # A folder of the hub's cache may be one that another worker of this node is downloading at this moment.
    if not setup.host or is_null(options.model) or (folder.is_dir() and not is_of_hub):
        return setup
    try:
        if is_of_hub:
            found = _download(name, commit, _patterns(options.trust_remote_code, options.allow_pickled_weights))
        else:
            found = EMBEDDED.get(folder.name, folder)
    except ModelNotFound as error:
        raise SystemExit(str(error)) from error
    return setup._replace(options=replace(options, model=os.fspath(found)))


def billions(name: str) -> float:
    """Parameters in billions as far as the name tells ("Qwen2.5-VL-7B"); 0.0 where it does not."""
    sizes = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)([bBmM])(?![a-zA-Z])", name.replace("_", "-"))
    return max((float(number) / (1 if unit in "bB" else 1000) for number, unit in sizes), default=0.0)


def _patterns(remote_code: bool, pickles: bool) -> list[str]:
    return _FILES + (["*.py"] if remote_code else []) + (_PICKLES if pickles else [])


def _download(name: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import errors as hub
    say(f"Looking for the model {name}; what is not here yet comes from the hub.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except hub.GatedRepoError as error:
        raise ModelNotFound(
            f"the model {name} asks for a permission", "accept its terms and run hf auth login"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise ModelNotFound(f"the model {name} has no revision {revision}", "check --revision") from error
    except hub.RepositoryNotFoundError as error:
        raise ModelNotFound(f"there is no model {name} on the hub, and no such folder", "check --model") from error
    except (hub.HfHubHTTPError, hub.LocalEntryNotFoundError, OSError, hub.HFValidationError) as error:
        raise ModelNotFound(
            f"the model {name} is no folder here, not in the cache, and the hub can't be reached",
            f"check the name and the network, or give a folder; to try without: {SMALL_MODELS.split(' or ')[0]}",
        ) from error


def _model_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _content_hash(folder: Path) -> str:
    """Hash of all names and bytes. Those of large files are kept for as long as the file system calls them the same."""
    paths = [path for path in _model_files(folder) if path.suffix.lower() != ".md"]
    place = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=16).hexdigest()
    known = cache.recall(f"hashed/{place}") or {}
    kept = {}
    total = hashlib.blake2b(digest_size=16)
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        for path in paths:
            name, now = path.relative_to(folder).as_posix(), path.stat()
            state = f"{name} {now.st_size} {now.st_mtime_ns} {now.st_ctime_ns} {now.st_ino}"
            settled = time.time_ns() - now.st_ctime_ns > _TICK
            digest = str(known.get(state) or _file_hash(path, pool))
            if now.st_size > _PIECE and settled:
                kept[state] = digest
            total.update(f"{name}\0{digest}\0".encode(errors="surrogateescape"))
    if kept != known:
        cache.keep(f"hashed/{place}", kept)
    return total.hexdigest()


def _file_hash(path: Path, pool: ThreadPoolExecutor) -> str:
    """Hash of the hashes of its pieces, side by side: reading and hashing release the interpreter.

    Raises:
        ModelNotFound: it can't be read.
    """
    try:
        pieces = range(0, path.stat().st_size, _PIECE)
        digests = list(pool.map(partial(_piece_hash, path), pieces))
    except OSError as error:
        raise ModelNotFound(f"can't read {path} of the model: {error.strerror}", "check its permissions") from error
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()


def _piece_hash(path: Path, start: int) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        file.seek(start)
        for at in range(start, start + _PIECE, _READ):
            digest.update(file.read(min(_READ, start + _PIECE - at)))
    return digest.digest()


def _gigabytes(folder: Path) -> float:
    total = 0
    for path in _model_files(folder):
        if path.suffix in (".safetensors", ".bin", ".pt", ".pth"):
            with contextlib.suppress(OSError):
                total += path.stat().st_size
    return total / 1e9
