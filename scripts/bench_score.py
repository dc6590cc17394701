"""What the two stages of one command do on a GPU: its memory between them, and how fast captions are scored.

    python scripts/bench_score.py [--model qwen2.5-vl-7b] [--images 2048]
    python scripts/bench_score.py --small        # the embedded models, on any machine

python -m caption.run … --then-score CLIP, from JPEG files to rows on disk. Captioner and scorer have random weights at
the shape of the real ones, in fp16; the scorer is a CLIP ViT-L/14 (428 million parameters). A caption is a few words of
nonsense, which the scorer reads in one window. Printed are the GPUs' memory as the driver has it while the captioner is
loaded and after its workers have ended, and the images/s of the second stage, from when its first worker began to its
last row.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from caption.guard.actions import FLAGS  # noqa: E402 (the path comes first)

SIZE = (640, 480)
TOKENS = 8  # of a caption: letters are tokens to the made-up tokenizer of the scorer
LIMIT = 540  # seconds that a command may take
VIT_L = {
    "text_config": {
        "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407,
        "pad_token_id": 49407,
    },
    "vision_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 224, "patch_size": 14,
    },
    "projection_dim": 768,
}  # fmt: skip


def write_clip(folder: Path, device: str) -> None:
    """A CLIP ViT-L/14 of random weights in fp16, with a tokenizer whose tokens are letters."""
    import torch
    from random_model import _vocabulary
    from tokenizers import processors
    from transformers import AutoModel, CLIPConfig, CLIPProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    special = {49406: "<|startoftext|>", 49407: "<|endoftext|>"}
    core = _vocabulary(49408, special)
    core.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[(name, id) for id, name in special.items()]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=special[49406], eos_token=special[49407], pad_token=special[49407],
        model_max_length=77,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModel.from_config(CLIPConfig(**VIT_L), dtype=torch.float16)
    model.save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessorPil(), tokenizer).save_pretrained(folder)


def command(*words: object) -> float:
    """Runs it; its seconds."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, timeout=LIMIT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}")
    return time.monotonic() - begin


def latest(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())["runs"][-1]


def show(what: str, run: dict) -> None:
    totals = run["totals"]
    rate = totals["captioned"] / totals["seconds"]
    print(f"| {what} | {totals['captioned']} images in {totals['seconds']:.2f} s: **{rate:.1f} images/s** |")
    for worker, idle in totals["idle"].items():
        shares = ", ".join(f"{part} {share:.0%}" for part, share in idle.items() if share >= 0.005)
        print(f"| {worker}, {totals['total_seconds']:.1f} s from input to end | {shares} |", flush=True)


def measure(model: object, scorer: object, pictures: Path, out: Path) -> None:
    words = ["-m", "caption.run", pictures, "--output", out, "--model", model, "--max-new-tokens", TOKENS]
    words += ["--on-flag", ",".join(f"{flag}=keep" for flag in FLAGS)]  # nonsense is not tried again
    seconds = command(*words, "--then-score", scorer)
    show("captions", latest(out))
    second = latest(out / "scores")
    for gpu, memory in second.get("memory", {}).items():
        before, after = (f"{memory[name] / 1e9:.2f} GB" for name in ("before", "after"))
        print(f"| {gpu}, memory in use with the captioner loaded, after its worker has ended | {before}, {after} |")
    show("scores", second)
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    windows = sum(len(row["parts"]) for row in rows) / len(rows)
    print(f"| windows a caption | {windows:.2f} |")
    print(f"| the whole command | {seconds:.1f} s |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-vl-7b", help="shape of the captioner, as of random_model.py")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--small", action="store_true", help="the embedded models, on drawn scenes")
    given = parser.parse_args()
    print("| what | figures |\n| --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        pictures = folder / "pictures"
        if given.small:
            command(ROOT / "scripts" / "draw_shapes.py", pictures, "--count", given.images)
            measure("shapes", "shapes-scorer", pictures, folder / "out")
            return
        from workload import draw_photos

        command(ROOT / "scripts" / "random_model.py", given.model, folder / "model")  # in processes that leave the GPU
        command(ROOT / "scripts" / "bench_score.py", "--write-clip", folder / "clip")
        draw_photos(pictures, given.images, SIZE)
        os.sync()
        measure(folder / "model", folder / "clip", pictures, folder / "out")


if __name__ == "__main__":
    if "--write-clip" in sys.argv:
        import torch

        write_clip(Path(sys.argv[-1]), "cuda" if torch.cuda.is_available() else "cpu")
    else:
        main()
