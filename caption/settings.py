"""Settings: every option once, with its default, help and check, for command line, YAML file and environment.

An option is marked ``caption`` when it can change a caption: it is then part of the job's fingerprint and can't change
between two runs into one folder. One marked ``score`` can change a score, and is in the fingerprint of the scores. All
others are ``free``.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any

from caption.checks import above_zero_to_one, at_least, endings, no_utf_8, refused_by
from caption.guard.actions import parse_actions
from caption.guard.language import LANGUAGES
from caption.option import Option
from caption.outputs.formats import parse_formats
from caption.prompts import named_prompts, prompt_text, prompt_weights
from caption.schedule import KINDS
from caption.shard import parse_shard
from caption.sources import KINDS as INPUT_FORMATS
from caption.urls import local_path

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
DEFAULT_PROMPT = "Describe this image in detail."


def _option(
    default: Any, help: str, *, group: str, mark: str, choices=None, metavar=None, check=None, listed=False,
    make=None,
) -> Any:
    words = {"help": help, "group": group, "mark": mark, "choices": choices, "metavar": metavar}
    return dataclasses.field(default=default, metadata={**words, "check": check, "listed": listed, "make": make})


@dataclass(frozen=True)
class Settings:
    """One run, as the user wants it. Built by ``caption.options`` from its layers, or by hand in Python."""

    input: str = _option(
        "", "folder of pictures (on disk, or as s3://, gs://, …), list or table that names them, shards, saved "
        "dataset, or - for standard input", group="data", mark="caption", metavar="INPUT", make=local_path,
    )  # fmt: skip
    output: str = _option(
        "", "folder for rows, checkpoint and statistics; the same one again resumes", group="data", mark="free",
        metavar="OUT",
    )  # fmt: skip
    moved: bool = _option(
        False, "INPUT is the data set of the runs before, which lies elsewhere now", group="data", mark="free"
    )
    limit: int | None = _option(
        None, "only the first N images of the input", group="data", mark="free", metavar="N", check=at_least(1)
    )
    shard: str | None = _option(
        None, "do only shard I of N of the input, counted from 0, by a hash of each image's id, in a folder of its own "
        "in OUT; caption.merge makes one of them all", group="data", mark="free", metavar="I/N",
        make=lambda text: str(parse_shard(text)),
    )  # fmt: skip
    input_format: str = _option(
        "auto", "what INPUT is; auto goes by its name and content", group="data", mark="caption", choices=INPUT_FORMATS
    )
    image_root: str | None = _option(
        None, "folder where relative paths of a list or table begin; default is its own folder", group="data",
        mark="caption", metavar="DIR", make=local_path,
    )  # fmt: skip
    image_column: str | None = _option(
        None, "column or field that names the picture, or its ending in a tar; default is the first of the usual names",
        group="data", mark="caption", metavar="NAME", check=no_utf_8,
    )  # fmt: skip
    id_column: str | None = _option(
        None, "column or field that holds the id; default is a usual name, else the picture's path", group="data",
        mark="caption", metavar="NAME", check=no_utf_8,
    )  # fmt: skip
    details: str | None = _option(
        None, "folder of JSON files with the names of the pictures, or of the JSON files in INPUT, whose fields are "
        "added", group="data", mark="caption", metavar="DIR",
    )  # fmt: skip
    skip_existing: str = _option(
        "", "leave out images beside which a file of their name with this ending lies: .txt", group="data", mark="free",
        metavar="ENDING", listed=True, check=endings,
    )  # fmt: skip
    dedupe: bool = _option(
        False, "caption pictures of equal bytes under the same prompt once, with a row for each", group="data",
        mark="caption",
    )  # fmt: skip
    max_pixels_decoded: int = _option(
        200_000_000, "larger pictures are refused, not decoded", group="data", mark="free", metavar="N",
        check=at_least(1),
    )  # fmt: skip

    model: str = _option(
        DEFAULT_MODEL, "hub id or folder of an image-text-to-text model; `shapes` is a tiny embedded one for trying",
        group="model", mark="caption", metavar="ID|DIR",
    )  # fmt: skip
    revision: str | None = _option(
        None, "branch, tag or commit of the model on the hub", group="model", mark="caption", metavar="REV"
    )
    trust_remote_code: bool = _option(False, "allow the model's own Python code to run", group="model", mark="caption")
    allow_pickled_weights: bool = _option(
        False, "also load weights that are not safetensors (a pickle can run code)", group="model", mark="free"
    )
    lora: str | None = _option(
        None, "LoRA adapter for all images that name none: a folder saved by peft, or one .safetensors file; "
        "`shapes-fr` is the embedded one for `shapes`", group="model", mark="caption", metavar="DIR|FILE",
    )  # fmt: skip
    lora_scale: float = _option(
        1.0, "how strong adapters are, times what they say themselves; 0 is the bare model", group="model",
        mark="caption", metavar="X",
    )  # fmt: skip
    dtype: str = _option(
        "auto", "precision of the weights; auto is fp16 on a GPU and fp32 on a CPU", group="model", mark="caption",
        choices=("auto", "fp16", "bf16", "fp32"),
    )  # fmt: skip

    prompt: str = _option(
        DEFAULT_PROMPT, "what the model is asked: a text, {fields} of the image in it, a name of --list-prompts, or "
        "@FILE", group="caption", mark="caption", metavar="TEXT", make=prompt_text,
    )  # fmt: skip
    prompts: dict | None = _option(  # noqa: RUF009 (a field, as all others)
        None, "several prompts by name, in place of --prompt: names of --list-prompts with commas between, or "
        "NAME=TEXT, which may stand again; each image is asked all of them", group="caption", mark="caption",
        metavar="NAME=TEXT", make=named_prompts,
    )  # fmt: skip
    prompt_weights: dict | None = _option(  # noqa: RUF009 (a field, as all others)
        None, "ask each image one of --prompts, drawn by its seed with these weights: short=3,detailed=1",
        group="caption", mark="caption", metavar="NAME=NUMBER", make=prompt_weights,
    )  # fmt: skip
    system_prompt: str = _option(
        "", "put before the prompt as the system's turn: a text, or @FILE", group="caption", mark="caption",
        metavar="TEXT", make=prompt_text,
    )  # fmt: skip
    max_new_tokens: int = _option(
        256, "a caption ends here at the latest", group="caption", mark="caption", metavar="N", check=at_least(1)
    )
    num_beams: int = _option(
        1, "beams of a beam search", group="caption", mark="caption", metavar="N", check=at_least(1)
    )
    temperature: float = _option(
        0.0, "0 takes the likeliest word, more draws by the image's seed", group="caption", mark="caption",
        metavar="T", check=at_least(0),
    )  # fmt: skip
    top_p: float = _option(
        1.0, "draw from the likeliest words that make up this share", group="caption", mark="caption", metavar="P",
        check=above_zero_to_one,
    )  # fmt: skip
    top_k: int = _option(
        0, "draw from the K likeliest words; 0 is all", group="caption", mark="caption", metavar="K",
        check=at_least(0),
    )  # fmt: skip
    repetition_penalty: float = _option(
        1.0, "above 1 makes words that stand already less likely", group="caption", mark="caption", metavar="R",
        check=lambda value: None if value > 0 else "is not above 0",
    )  # fmt: skip
    seed: int = _option(
        0, "seed of the first image; the image at position i gets SEED + i", group="caption", mark="caption",
        metavar="SEED", check=lambda value: None if 0 <= value < 2**62 else "is not between 0 and 2^62",
    )  # fmt: skip
    max_pixels: int = _option(
        1_310_720, "larger pictures are scaled down to this many pixels", group="caption", mark="caption",
        metavar="N", check=at_least(1),
    )  # fmt: skip

    language: str | None = _option(
        None, "the language that captions should be in, as its two letters; others get the flag wrong-language",
        group="guard", mark="caption", metavar="CODE", choices=LANGUAGES,
    )  # fmt: skip
    on_flag: str = _option(
        "", "what is done with captions that have a flag: keep, retry or fail, as refusal=fail,cut-off=retry; of "
        "others loop, empty and pad-flood are retried up to --max-retries times, the rest is kept", group="guard",
        mark="caption", metavar="FLAG=ACTION", check=refused_by(parse_actions), listed=True,
    )  # fmt: skip
    trim_to_sentence: bool = _option(
        False, "take the last, unfinished sentence off a caption that was cut", group="guard", mark="caption"
    )
    strip_preamble: bool = _option(
        False, 'take off "The image shows", "Certainly!" and others at the beginning', group="guard", mark="caption"
    )
    prefix: str = _option(
        "", "put before each caption", group="guard", mark="caption", metavar="TEXT", check=no_utf_8
    )
    suffix: str = _option(
        "", "put after each caption", group="guard", mark="caption", metavar="TEXT", check=no_utf_8
    )

    then_score: str | None = _option(
        None, "when all is captioned, unload the model and score the captions: by a CLIP or SigLIP (hub id, folder, or "
        "`shapes-scorer`, the embedded one), judge (the model itself), judge:MODEL, or reference", group="score",
        mark="free", metavar="SCORER",
    )  # fmt: skip
    reference: str | None = _option(
        None, "what the scorer reference compares with: a field of the rows, or a JSONL, CSV or TSV file with id or "
        "image, and caption", group="score", mark="score", metavar="FIELD|FILE", check=no_utf_8,
    )  # fmt: skip
    rubric: str = _option(
        "", "what a judge is asked instead of our own rubric: a text with {caption} in it, or @FILE", group="score",
        mark="score", metavar="TEXT", make=prompt_text,
    )  # fmt: skip
    group_by: str | None = _option(
        None, "also give the average score of each value of this field of the rows", group="score", mark="free",
        metavar="FIELD", check=no_utf_8,
    )  # fmt: skip

    device: str = _option(
        "auto", "where to compute; auto is the GPUs if there are any", group="machine", mark="free",
        choices=("auto", "cuda", "cpu", "mps"),
    )  # fmt: skip
    gpus: str = _option(
        "all", "all, free (those with the most free memory first) or numbers: 0,2", group="machine", mark="free",
        metavar="LIST", listed=True,
    )  # fmt: skip
    num_gpus: int | None = _option(
        None, "use only N of them", group="machine", mark="free", metavar="N", check=at_least(1)
    )
    workers_per_gpu: int | None = _option(
        1, "worker processes on each GPU, for small models; auto adds one after the other while memory is free and "
        "the images a second grow", group="machine", mark="free", metavar="N|auto", check=at_least(1),
    )  # fmt: skip
    gpus_per_worker: int = _option(
        1, "spread a model that is larger than one GPU over N, in layers", group="machine", mark="free", metavar="N",
        check=at_least(1),
    )  # fmt: skip
    workers: int = _option(
        1, "worker processes on a CPU, with Ray on each node", group="machine", mark="free", metavar="N",
        check=at_least(1),
    )  # fmt: skip
    launcher: str = _option(
        "local", "where workers run: local is this machine, ray a Ray cluster", group="machine", mark="free",
        choices=("local", "ray"),
    )  # fmt: skip
    ray_address: str = _option(
        "", "auto, or the HOST[:PORT] of its head; default is RAY_ADDRESS, else a Ray that is started for this run",
        group="machine", mark="free", metavar="auto|HOST",
    )  # fmt: skip
    batch_size: int | None = _option(
        None, "images side by side on one GPU; auto, the default: as many as its free memory bears, and 8 on a CPU",
        group="machine", mark="free", metavar="N|auto", check=at_least(1),
    )  # fmt: skip
    loaders: int | None = _option(
        None, "processes a worker that decode and prepare ahead of it; default by the number of cores",
        group="machine", mark="free", metavar="N", check=at_least(1),
    )  # fmt: skip
    start: str = _option(
        "together", "together: nobody begins before all models are loaded; each: whoever is ready begins",
        group="machine", mark="free", choices=("together", "each"),
    )  # fmt: skip
    schedule: str = _option(
        "dynamic", "dynamic: an idle worker takes from the longest shard; round-robin: image i to worker i mod N; "
        "lockstep: round-robin in rounds that all end before the next", group="machine", mark="free", choices=KINDS,
    )  # fmt: skip

    format: str = _option(
        "", "also write the captions in these formats while it runs, as caption.export does: jsonl, csv, parquet, txt, "
        "caption, json, imagefolder, webdataset; txt:beside is beside the pictures", group="run", mark="free",
        metavar="FORMAT", check=refused_by(parse_formats), listed=True,
    )  # fmt: skip
    max_retries: int = _option(
        3, "an image that failed by itself is tried again this often", group="run", mark="free", metavar="N",
        check=at_least(0),
    )  # fmt: skip
    decode_timeout: float = _option(
        60.0, "seconds after which decoding one picture is given up", group="run", mark="free", metavar="S",
        check=at_least(0.1),
    )  # fmt: skip
    stall_timeout: float | None = _option(
        None, "seconds without progress after which a worker is killed and replaced, three times as long while its "
        "model loads, and a minute at least; 0 is never; default is 300, and 3600 on a CPU", group="run", mark="free",
        metavar="S", check=lambda value: None if value == 0 or value >= 2 else "is neither 0 nor at least 2",
    )  # fmt: skip
    grace: float | None = _option(
        None, "seconds after a Ctrl-C or SIGTERM in which images inside the engine may end, then all stops at once; "
        "default is as long as they take", group="run", mark="free", metavar="S", check=at_least(0),
    )  # fmt: skip
    checkpoint_every: int = _option(
        1000, "commit after this many images, and every 30 s; less often where the disk is slow", group="run",
        mark="free", metavar="N", check=at_least(1),
    )  # fmt: skip
    stats_every: int = _option(
        50, "figures are noted after this many images", group="run", mark="free", metavar="N", check=at_least(1)
    )
    log_file: str | None = _option(
        None, "the log is appended to this file; default is OUT/run.log", group="run", mark="free", metavar="FILE"
    )
    log_format: str = _option("text", "lines of the log", group="run", mark="free", choices=("text", "json"))
    metrics_port: int | None = _option(
        None, "serve figures for Prometheus on this port, at /metrics", group="run", mark="free", metavar="PORT",
        check=lambda value: None if 0 < value < 65536 else "is no port",
    )  # fmt: skip
    retry_failed: bool = _option(False, "do the images of failed.jsonl again", group="run", mark="free")
    redo: str | None = _option(
        None, "do the captions with this flag again, or those whose ids stand in a text file", group="run",
        mark="free", metavar="FLAG|FILE",
    )  # fmt: skip
    strict: bool = _option(
        False, "end with status 3 if any image failed or a part of INPUT is unread", group="run", mark="free"
    )
    dry_run: bool = _option(False, "show what would be done and by whom, and do nothing", group="run", mark="free")


GROUPS = {
    "data": "Data",
    "model": "Model",
    "caption": "Caption",
    "guard": "Guard",
    "score": "Score",
    "machine": "Machine",
    "run": "Run",
}


def _describe(field: dataclasses.Field, hint: Any) -> Option:
    optional = isinstance(hint, types.UnionType)
    kind = next(part for part in typing.get_args(hint) if part is not type(None)) if optional else hint
    return Option(name=field.name, type=kind, optional=optional, default=field.default, **field.metadata)


_TYPES = typing.get_type_hints(Settings)
OPTIONS: dict[str, Option] = {
    field.name: _describe(field, _TYPES[field.name]) for field in dataclasses.fields(Settings)
}


def caption_settings(settings: Settings) -> dict[str, Any]:
    """The settings that can change a caption, for the fingerprint."""
    return {name: getattr(settings, name) for name, option in OPTIONS.items() if option.mark == "caption"}
