"""Makes the picture of a report that README.md shows: ``python scripts/picture_report.py``.

Draws pictures, captions them with the embedded model, some of them broken and some cut off, and photographs the report
in the browser that the tests use.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image

from tests.browser import browser
from tests.runs import ROOT, environment

TARGET = ROOT / "caption" / "report" / "report.png"
SIZE = {"width": 1160, "height": 1240}
GALLERY = 640  # pixels of its height that are shown
SHOWN_WIDTH = 928


def run(*words: object) -> None:
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=environment(), check=True)


def make_report(folder: Path) -> Path:
    pictures, out = folder / "pictures", folder / "captions"
    run("scripts/draw_shapes.py", pictures, "--count", 900, "--seed", 12)
    names = sorted(path for path in pictures.iterdir() if path.suffix in (".jpg", ".png", ".webp"))
    for path in names[::211]:
        path.write_bytes(path.read_bytes()[:300])
    names[5].write_bytes(b"")
    run("-m", "caption.run", pictures, "--output", out, "--model", "shapes", "--max-new-tokens", 34, "--workers", 2)
    run("-m", "caption.report", out)
    return out / "report.html"


def photograph(report: Path) -> Image.Image:
    """The top of the page, and its gallery below it."""
    parts = []
    with browser() as opened:
        page = opened.new_page(viewport=SIZE, color_scheme="light")
        page.goto(report.as_uri())
        page.evaluate("document.querySelector('.top').style.position = 'static'")
        end = page.locator("#captions").bounding_box()["y"]
        gallery = page.locator("#gallery").bounding_box()["y"]
        for top, height in ((0, end), (gallery, GALLERY)):
            clip = {"x": 0, "y": top, "width": SIZE["width"], "height": height}
            parts.append(Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip))).convert("RGB"))
    whole = Image.new("RGB", (SIZE["width"], sum(part.height for part in parts)))
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole.resize((SHOWN_WIDTH, whole.height * SHOWN_WIDTH // whole.width), Image.Resampling.LANCZOS)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = photograph(make_report(Path(folder)))
    whole.save(TARGET, optimize=True)
    print(f"{TARGET}: {TARGET.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
