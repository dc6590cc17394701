"""Output folders with rows and pictures, as runs leave them, for reports."""

import io
import os
import tarfile
import time
from typing import NamedTuple

import numpy as np
import orjson
from PIL import Image

import checkpoint
from caption.outputs.rows import CAPTIONS, FAILED
from caption.runfile import RunFile

SCRIPT = "<script>hacked = 1</script>"
HOSTILE = [
    SCRIPT,
    "</script><script>hacked = 1</script>",
    "</style></article><img src=x onerror='hacked = 1'>",
    '" onmouseover="hacked = 1" \'',
    "{{ 7 * 7 }} {% raise %} &lt;b&gt; &amp;",
    "\u202egpj.exe \u2066\u200f",
    "A\x00\x08\x1b[31mcolour\x7f",
    "W" * 3000,
    "<!-- --> ]]> <![CDATA[ \u2028\u2029",
    "javascript:hacked=1 https://example.com/x.png url(//example.com)",
]


def row(id, caption="A red circle.", **more):
    plain = {"id": id, "image": id.partition("#")[0], "caption": caption, "finish_reason": "stop"}
    plain |= {"tokens": len(caption.split()), "width": 6, "height": 4, "seed": 0, "seconds": 0.5, "attempts": 1}
    return {**plain, "flags": [], **more}


def failure(id, error="Truncated", message="its data are broken"):
    return {"id": id, "image": id, "error": error, "message": message, "attempts": 1}


class Job:
    """An output folder; ``run`` adds an entry to its run.json."""

    def __init__(self, folder, name="out"):
        self.input, self.out = folder / "in", folder / name
        self.input.mkdir(exist_ok=True)
        self.out.mkdir()

    def run(self, settings=None, fingerprint=None, **facts):
        fingerprint = {"input": str(self.input), "prompt": "Describe.", "dtype": "fp32"} | (fingerprint or {})
        settings = {"input": str(self.input), "model": "shapes"} | (settings or {})
        RunFile(self.out, fingerprint, settings).end(**{"exit_code": 0} | facts)
        return self

    def add(self, rows=(), failures=()):
        with checkpoint.open(self.out, {}) as record:
            for name, of in ((CAPTIONS, rows), (FAILED, failures)):
                record.append(name, [(one["id"], orjson.dumps(one)) for one in of])
        return self

    def score(self, *rows, scorer="clip", torn=b""):
        """rows: of (id, score) or (id, score, parts)."""
        with (self.out / "scores.jsonl").open("ab") as file:
            for id, score, *parts in rows:
                row = {"id": id, "score": score, "parts": (parts or [{}])[0], "scorer": scorer}
                file.write(orjson.dumps(row) + b"\n")
            file.write(torn)

    def picture(self, name, size=(60, 40)):
        noise = np.random.default_rng(len(name)).integers(0, 256, (*size[::-1], 3), np.uint8)
        path = self.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path, "PNG")
        return path

    def tar(self, name, members):
        with tarfile.open(self.input / name, "w") as tar:
            for member in members:
                file = io.BytesIO()
                Image.new("RGB", (60, 40), "red").save(file, "PNG")
                info = tarfile.TarInfo(member)
                info.size = file.tell()
                tar.addfile(info, io.BytesIO(file.getvalue()))
        return self.input / name


def hostile_job(folder, name="out"):
    """Names and captions that would be more than text if they could; a good picture and a missing one among them."""
    job = Job(folder, name).run(settings={"model": SCRIPT}, fingerprint={"prompt": SCRIPT})
    job.picture("good.png")
    rows = [row(f"{place} {text[:200]}.png", text, extra={text[:50]: text}) for place, text in enumerate(HOSTILE)]
    rows += [row("good.png", "A good picture.", flags=["loop"]), row("other.png", "Another.", raw=SCRIPT)]
    return job.add(rows, [failure(f"{SCRIPT}.jpg", message=SCRIPT), failure("b.jpg", "NotAnImage", HOSTILE[2])])


class Deadly(NamedTuple):
    """A place whose picture ends the process that reads it."""

    def read(self):
        os._exit(3)


class Slow(NamedTuple):
    """A place whose picture never comes."""

    def read(self):
        time.sleep(100)
