"""Adapter: which LoRA each image is captioned with, and whether its files can be one. Loads none of them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from caption.engine import Adapter
from caption.errors import AdapterNotFound, AdapterUnusable, UsageError
from caption.item import Item

EMBEDDED = {"shapes-fr": Path(__file__).parent / "models" / "shapes-fr"}
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_LARGEST_HEADER = 100_000_000  # bytes, as safetensors itself has it


class Adapters(NamedTuple):
    """The adapters of a run.

    Attributes:
        run: of all images that do not ask for another; None: the bare model.
        scale: of those that name an adapter and no scale.
        root: where the relative paths in a table begin.
    """

    run: Adapter | None = None
    scale: float = 1.0
    root: str = ""

    def of(self, item: Item) -> Adapter | None:
        """The adapter of an item; a scale of 0 is the bare model."""
        if item.lora is None and item.lora_scale is None:
            return self.run
        path = self.run and self.run.path if item.lora is None else locate(item.lora, self.root)
        scale = self.scale if item.lora_scale is None else item.lora_scale
        return Adapter(path, scale) if path and scale else None


class AdapterCheck:
    """Looks once at each adapter that items name, before they are handed out."""

    def __init__(self, adapters: Adapters):
        self._adapters = adapters
        self._known: dict[str, str | None] = {}

    def mark(self, items: Sequence[Item]) -> list[Item]:
        """The items; those whose adapter can't be used have that as their fault.

        Raises:
            UsageError: peft is not installed.
        """
        return [self._marked(item) if item.lora is not None and not item.fault else item for item in items]

    def _marked(self, item: Item) -> Item:
        if item.lora not in self._known:
            need_peft(f"{item.id} asks for a LoRA adapter")
            try:
                check(locate(item.lora, self._adapters.root))
                self._known[item.lora] = None
            except AdapterNotFound as error:
                self._known[item.lora] = str(error)
        problem = self._known[item.lora]
        return item._replace(fault=(AdapterUnusable.__name__, problem)) if problem else item


def run_adapters(lora: str | None, scale: float, root: str) -> Adapters:
    """The adapters of a run: its own, and where those of its table begin.

    Raises:
        UsageError: peft is not installed.
        AdapterNotFound: the run's own can't be one.
    """
    run = None
    if lora is not None:
        need_peft("--lora is set")
        place = locate(lora)
        check(place)
        run = Adapter(place, scale) if scale else None
    return Adapters(run, scale, root)


def need_peft(reason: str) -> None:
    """Raises UsageError if peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise UsageError(f"{reason}, and the package peft is not installed", "pip install peft")


def locate(name: str, root: str = "") -> str:
    """The folder or file of an adapter that is called so; weights beside their config stand for their folder."""
    path = EMBEDDED.get(name) or Path(root, os.path.expanduser(name))
    if path.name == WEIGHTS and (path.parent / CONFIG).is_file():
        path = path.parent
    return os.fspath(path)


def check(place: str) -> None:
    """Looks at an adapter's files without loading it.

    Raises:
        AdapterNotFound: there is none, or it is a pickle, broken, or not in peft's layout.
    """
    path = Path(place)
    try:
        if path.is_dir():
            _check_folder(path)
        elif not path.exists():
            raise AdapterNotFound(f"there is no LoRA adapter {path}", "check the path")
        elif path.suffix in _PICKLES:
            raise _pickle(path)
        else:
            _check_names(path, _read_header(path))
    except OSError as error:
        problem = f"can't read the LoRA adapter {path}: {error.strerror}"
        raise AdapterNotFound(problem, "check its permissions") from None


def identity(place: str) -> str:
    """Changes when the adapter's content changes, and only then."""
    path = Path(place)
    content = hashlib.blake2b(digest_size=16)
    for file in (path / CONFIG, path / WEIGHTS) if path.is_dir() else (path,):
        with file.open("rb") as opened:
            content.update(hashlib.file_digest(opened, "sha256").digest())
    return f"content {content.hexdigest()}"


def _check_folder(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise AdapterNotFound(f"the folder {folder} holds no LoRA adapter", f"it should have an {CONFIG}")
    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("peft_type")
    except (ValueError, AttributeError):
        raise AdapterNotFound(f"{folder / CONFIG} is not valid JSON", "save the adapter anew") from None
    if kind != "LORA":
        raise AdapterNotFound(f"{folder} holds an adapter of type {kind}", "only LoRA adapters can be used")
    if (folder / WEIGHTS).is_file():
        _read_header(folder / WEIGHTS)
        return
    pickles = sorted(path for path in folder.iterdir() if path.suffix in _PICKLES)
    raise _pickle(pickles[0]) if pickles else AdapterNotFound(f"{folder} has no {WEIGHTS}", "save the adapter anew")


def _pickle(path: Path) -> AdapterNotFound:
    return AdapterNotFound(
        f"the LoRA adapter {path} is a pickle, which can run code when it is loaded", "save it as safetensors"
    )


def _read_header(path: Path) -> dict:
    """The header of a safetensors file: what each tensor is, by name."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = os.fstat(file.fileno()).st_size
        try:
            header = json.loads(file.read(length)) if length <= min(size, _LARGEST_HEADER) else None
            end = max((one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"), default=0)
        except (ValueError, TypeError, AttributeError, KeyError):
            raise AdapterNotFound(f"{path} is no safetensors file", "give a LoRA adapter of peft") from None
    if size != 8 + length + end:
        raise AdapterNotFound(f"{path} is cut off or damaged", "copy it again")
    return header


def _check_names(path: Path, header: dict) -> None:
    """A file without a config must say all in the names of its tensors."""
    names = [name for name in header if name != "__metadata__"]
    if any(".lora_A." in name for name in names) and any(".lora_B." in name for name in names):
        return
    if any("lora_down" in name or name.startswith("lora_") for name in names):
        raise AdapterNotFound(f"{path} is a LoRA in the layout of kohya's trainers", "convert it to peft's")
    raise AdapterNotFound(f"{path} holds no LoRA in peft's layout (lora_A, lora_B)", "give an adapter saved by peft")
