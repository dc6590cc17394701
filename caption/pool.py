"""CaptionPool: captions from Python. The same workers as the command line's, which stay for the next call."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from caption.adapter import run_adapters
from caption.call import Call, CaptionResult
from caption.devices import choose_seats
from caption.errors import UsageError
from caption.given import GivenPictures, PictureMemory, refuse_one
from caption.image import DecodeOptions
from caption.model import find_model
from caption.options import check_together, nearest
from caption.poolthread import PoolThread
from caption.precision import Precision
from caption.prompts import Prompts
from caption.settings import OPTIONS, Settings
from caption.setup import chosen_dtype, make_setup
from caption.sources.items import ItemSource

# Of a run that has an input and a folder for its rows.
_OF_RUNS = {
    "input", "output", "limit", "shard", "input_format", "image_root", "image_column", "id_column", "details",
    "skip_existing", "dedupe", "prompts", "prompt_weights", "schedule", "format", "checkpoint_every", "retry_failed",
    "redo", "moved", "strict", "dry_run", "stats_every", "log_file", "log_format", "metrics_port",
    "launcher", "ray_address",
}  # fmt: skip


class CaptionPool:
    """Workers with a loaded model, one a GPU, that caption what they are given, call after call.

        with CaptionPool(model="Qwen/Qwen2.5-VL-7B-Instruct", gpus=[0, 1]) as pool:
            for result in pool.caption(images):
                print(result.caption if result.success else f"{result.error}: {result.message}")

    It needs no ``if __name__ == "__main__"`` and sets no signal handlers. The workers end with ``close()``, with the
    ``with`` block, when nothing refers to the pool any more, and with this process, however that ends.

    Args:
        options: settings of ``caption.run`` by their names (``model``, ``gpus``, ``device``, ``workers``, ``dtype``,
            ``batch_size``, ``prompt``, ``max_new_tokens``, ``temperature``, ``seed``, ``max_retries``, ...), less those
            that say what a run reads and writes. Environment variables (``CAPTION_...``) are not looked at.

    Raises:
        TypeError: there is no such option.
        UsageError: a value that can't be; a GPU or model that is not there (ModelNotFound).
    """

    def __init__(self, **options: Any):
        known = OPTIONS.keys() - _OF_RUNS
        for name in options:
            if name not in known:
                raise TypeError(f"CaptionPool has no option {name!r}: {nearest(name, known)}")
        settings = Settings(**{name: OPTIONS[name].parse(value, name) for name, value in options.items()})
        check_together(settings)
        if settings.workers_per_gpu is None:
            raise UsageError("workers_per_gpu: auto goes by the images a second of one long run", "give a number")
        seats = choose_seats(settings)
        model = find_model(
            settings.model, settings.revision, settings.trust_remote_code, settings.allow_pickled_weights
        )
        adapters = run_adapters(settings.lora, settings.lora_scale, "")
        precision, memory = Precision(chosen_dtype(settings, seats)), PictureMemory()
        setup = make_setup(settings, seats, model, precision, adapters, memory.descriptor)
        self._settings, self._memory = settings, memory
        self._thread = PoolThread(settings, seats, setup, precision, memory)
        self._close = weakref.finalize(self, self._thread.close)

    def caption(
        self,
        images: Iterable[Any],
        *,
        prompt: str | None = None,
        max_new_tokens: int | None = None,
        seed: int | None = None,
        ordered: bool = True,
    ) -> Iterator[CaptionResult]:
        """Captions of many images; whatever is wrong with one of them is its own result.

        They are read ahead in the caller's thread, a bounded number: a generator may give millions. Who stops early
        loses nothing but what is in work. Several calls may run at a time, in several threads too.

        Args:
            images: paths, pictures of Pillow, encoded bytes or arrays (height x width x 3, uint8); or dicts with one of
                these as "image", and as they like "id", "prompt", "seed", "max_new_tokens" and fields for the prompt's
                braces, as rows of a table have them. Paths are the fastest: loaders open them beside the model. Others
                are turned upright here and cross by shared memory.
            prompt, max_new_tokens: in place of the pool's, where an image has none of its own.
            seed: of the first image, in place of the pool's; image i has ``seed + i``.
            ordered: results come in the order of the images; False: as soon as each is there.

        Raises:
            TypeError: one image in place of many. UsageError: a value that can't be.
            ModelNotUsable, ModelDoesNotLoad, NoWorkerLeft: while iterating, when no worker can go on.
            RuntimeError: while iterating, when the pool has been closed.
        """
        refuse_one(images)
        own = {"prompt": prompt, "max_new_tokens": max_new_tokens, "seed": seed}
        own = {name: OPTIONS[name].parse(value, name) for name, value in own.items() if value is not None}
        return self._results(images, own, ordered)

    def _results(self, images: Iterable[Any], own: dict[str, Any], ordered: bool) -> Iterator[CaptionResult]:
        settings = self._settings
        decode = DecodeOptions(settings.max_pixels, settings.max_pixels_decoded)
        given = GivenPictures(images, self._memory, decode)
        prompts = Prompts(own.get("prompt", settings.prompt))
        items = ItemSource(given, own.get("seed", settings.seed), prompts).items()
        if own:
            items = (
                item._replace(**{name: own[name] for name in ("prompt", "max_new_tokens")
                                 if name in own and getattr(item, name) is None})
                for item in items
            )  # fmt: skip
        yield from Call(self._thread, items, given, self._memory, ordered).results()

    def close(self) -> None:
        """Ends all workers at once; a call that still runs raises RuntimeError. It may be called again."""
        self._close()

    def __enter__(self) -> CaptionPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
