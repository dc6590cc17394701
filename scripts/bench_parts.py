"""Parts of SmolVLM's work on a GPU, each in a loop by itself under load: the time and the energy that an image takes.

    python scripts/bench_parts.py [--images 26] [--seconds 0.7] [--tiles 64,4]

Random weights at the shape of SmolVLM-500M, fp16, pictures of 13 tiles and 912 prompt tokens. Where power is the limit
of a GPU, the energies of all parts add up to what an image costs, whatever runs beside what. --tiles: the layers of
vision for so many tiles at a time as well, as a CUDA graph.
"""

import argparse
import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import random_model
import torch
from gpu_meter import Meter

from caption.engine import fused, kernels, products
from caption.engine.graph import Graphs
from caption.engine.owned import owning

MODEL = "smolvlm-500m"
TILES, PATCHES, PROMPT = 13, 1024, 912  # of a picture
SLOTS, NEW, ROOM = 512, 95, 1280  # side by side; tokens of a caption; places of a slot
GROUPED = 64  # tiles of some graphs, replayed one after the other

Part = tuple[str, Callable[[], object], float]  # what is run, and how many images it is done for


def attention(rows: int, heads: int, groups: int, tokens: int, size: int, causal: bool) -> Callable[[], object]:
    """As torch makes it, of queries and keys as products leave them."""
    parts = (torch.randn(rows, tokens, count, size, device="cuda").half() for count in (heads, groups, groups))
    states = [one.transpose(1, 2) for one in parts]
    shared = {"enable_gqa": True} if heads != groups else {}
    return lambda: torch.nn.functional.scaled_dot_product_attention(*states, is_causal=causal, **shared)


def steps(text) -> Part:
    """Attention of a token over all slots, in all layers."""
    heads, groups, size = text.num_attention_heads, text.num_key_value_heads, text.head_dim
    query = torch.randn(SLOTS, heads, size, device="cuda").half()
    keys, values = (torch.randn(SLOTS, groups, ROOM, size, device="cuda").half() for _ in range(2))
    ends = torch.randint(PROMPT, PROMPT + NEW, (SLOTS,), device="cuda")
    ranges = torch.stack([torch.zeros_like(ends), ends], 1).int()
    layers = text.num_hidden_layers
    work = graphed(lambda: [kernels.attend(query, keys, values, ranges, size**-0.5) for _ in range(layers)])
    return "attention of steps, over the cache", work, SLOTS / NEW


def graphed(work: Callable[[], object]) -> Callable[[], object]:
    """The same as one CUDA graph, so that the host is no limit."""
    return functools.partial(Graphs().run, (), work, contextlib.nullcontext)


def norms(images: int, size: int, layers: int, added: bool) -> Part:
    rows = images * TILES * PATCHES
    states, other = (torch.randn(rows, size, device="cuda").half() for _ in range(2))
    weight, bias = torch.ones(size, device="cuda").half(), torch.zeros(size, device="cuda").half()
    own = {"weight": weight, "bias": bias, "eps": 1e-6, "centred": True}
    if added:
        work = functools.partial(kernels.added_normed, states, other, later=bias, **own)
    else:
        work = functools.partial(kernels.normed, states, **own)
    return f"a norm a layer of vision{', with the sum before it' if added else ''}", work, images / layers


def copying() -> Part:
    """Of a gibibyte, for comparison."""
    source = torch.randn(2**29, device="cuda").half()
    target = torch.empty_like(source)
    return "a gibibyte copied", lambda: target.copy_(source), 1


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=26, help="of a group")
    parser.add_argument("--seconds", type=float, default=0.7, help="of a loop")
    parser.add_argument("--tiles", default="", help="of vision at a time")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("it needs a GPU")
    with tempfile.TemporaryDirectory() as folder:
        random_model.write(MODEL, Path(folder))
        model = random_model.build(Path(folder), torch.float16, "cuda")
    fused.install(model)
    encoder, images = model.model.vision_model.encoder, given.images
    vision, text = model.config.vision_config, model.config.get_text_config()
    meter, size = Meter(), vision.hidden_size

    def tower(tiles: int) -> Callable[[], object]:
        """Vision's layers, which write into what they get as in a run: a copy, some hundredths of a layer's work."""
        states = torch.randn(tiles, PATCHES, size, device="cuda").half()
        owned_states = torch.empty_like(states)

        def work() -> None:
            with owning():
                encoder(inputs_embeds=owned_states.copy_(states))

        return work

    vision_layers, tiles = tower(images * TILES), images * TILES
    with products.tried():
        vision_layers()
    heads = vision.num_attention_heads
    parts: list[Callable[[], Part]] = [
        lambda: (f"vision's layers, {tiles} tiles", vision_layers, images),
        lambda: (
            "attention of a layer of vision, in all",
            attention(tiles, heads, heads, PATCHES, size // heads, False), images / vision.num_hidden_layers,
        ),
        lambda: norms(images, size, vision.num_hidden_layers, added=False),
        lambda: norms(images, size, vision.num_hidden_layers, added=True),
        lambda: (
            "attention of a layer of text, in all",
            attention(images, text.num_attention_heads, text.num_key_value_heads, PROMPT, text.head_dim, True),
            images / text.num_hidden_layers,
        ),
        lambda: steps(text),
        copying,
    ]  # fmt: skip
    for count in map(int, filter(None, given.tiles.split(","))):
        times = max(1, GROUPED // count)

        def small(count=count, times=times) -> Part:
            few = tower(count)
            work = graphed(lambda: [few() for _ in range(times)])
            return f"vision's layers, {count} tiles", work, count * times / TILES

        parts.append(small)
    print(f"| {torch.cuda.get_device_name()}, torch {torch.__version__} | ms an image | J an image | W | MHz |")
    print("| --- | --- | --- | --- | --- |")
    for make in parts:
        name, work, done_for = make()
        found = meter.measured(work, given.seconds)
        figures = f"{1e3 * found.seconds / done_for:.3f} | {found.joules / done_for:.3f}"
        print(f"| {name} | {figures} | {found.watts:.0f} | {found.clock} |", flush=True)
        del work
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
