"""Draw scenes of coloured shapes, each with the one caption that is right for it.

    python scripts/draw_shapes.py OUT --count 1000 --seed 7

OUT receives the pictures and `truth.jsonl`, one line a picture: {"image": name, "caption": text}. A scene holds one to
four shapes in the cells of a 3 x 3 grid that spans the picture, on a plain or a textured ground. The caption names the
shapes in reading order (row by row), with the relation of each to the next; a single shape's place is named unless it
is the centre; a plain ground is not named. File names, formats and picture sizes are drawn independently of the scene.

The same seed and index give the same picture anywhere (the same bytes with the same Pillow).
"""

import argparse
import hashlib
import io
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

KINDS = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
COLOURS = {
    "red": (215, 25, 35), "orange": (245, 135, 15), "yellow": (252, 228, 30), "green": (25, 145, 50),
    "blue": (25, 65, 215), "purple": (120, 30, 160), "pink": (252, 135, 195), "brown": (112, 62, 22),
    "black": (14, 14, 14), "white": (248, 248, 248), "cyan": (40, 205, 220),
}  # fmt: skip
SIZES = {"small": (0.36, 0.42), "large": (0.72, 0.80)}  # diameter, in cells of the picture's short side
TEXTURES = ("striped", "checkered", "dotted", "noisy")
NUMBERS = (1, 2, 3, 4)
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
SIDES = (96, 1024)  # pixels
MAX_ASPECT = 1.8
GROUND_DISTANCE = 85  # of a ground from every shape's colour, Euclidean in RGB


@dataclass(frozen=True)
class Shape:
    size: str
    colour: str
    kind: str
    row: int
    column: int


@dataclass(frozen=True)
class Scene:
    shapes: tuple[Shape, ...]  # in reading order, in distinct cells
    texture: str | None  # None: a plain ground


def stream(space: str, seed: int, index: int, part: str) -> np.random.Generator:
    """The random numbers of one part of one picture; other spaces, seeds, indices and parts share none of them."""
    digest = hashlib.sha256(f"{space}/{seed}/{index}/{part}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


# ---- scenes and captions


def make_scene(rng: np.random.Generator, number: int, textured: bool) -> Scene:
    cells = sorted(rng.choice(9, size=number, replace=False).tolist())
    sizes, colours = list(SIZES), list(COLOURS)

    def pick(words):
        return words[rng.integers(len(words))]

    shapes = tuple(Shape(pick(sizes), pick(colours), pick(KINDS), *divmod(cell, 3)) for cell in cells)
    return Scene(shapes, pick(TEXTURES) if textured else None)


def planned(space: str, seed: int, index: int) -> tuple[int, bool]:
    """Number of shapes and whether the ground is textured, balanced over every eight pictures.

    Each half of eight has every number once and two textured grounds, so that a short draw is balanced too."""
    rng = stream(space, seed, index // 8, "plan")
    halves = rng.permutation(NUMBERS), rng.permutation(NUMBERS)
    textured_in_first = set(rng.permutation(NUMBERS)[:2].tolist())
    half, position = divmod(index % 8, 4)
    number = int(halves[half][position])
    return number, (number in textured_in_first) == (half == 0)


def place_of(shape: Shape) -> str:
    """Where a single shape is, with a leading space; empty for the centre."""
    row, column = ROWS[shape.row], COLUMNS[shape.column]
    if row and column:
        return f" at the {row} {column}"
    if row:
        return f" at the {row}"
    return f" on the {column}" if column else ""


def relation(first: Shape, second: Shape) -> str:
    """How `first` stands to `second`, which comes later in reading order."""
    across = "left of" if first.column < second.column else "right of" if first.column > second.column else ""
    if first.row == second.row:
        return across
    return f"above and {across}" if across else "above"


def caption(scene: Scene) -> str:
    first, *others = scene.shapes
    text = f"A {first.size} {first.colour} {first.kind}"
    if not others:
        text += place_of(first)
    for i, shape in enumerate(others):
        link = " " if i == 0 else ", which is "
        text += f"{link}{relation(scene.shapes[i], shape)} a {shape.size} {shape.colour} {shape.kind}"
    return text + (f", on a {scene.texture} ground." if scene.texture else ".")


# ---- pictures


def outline(kind: str) -> list[tuple[float, float]]:
    """The corners of a kind of shape, x to the right and y down, within the unit circle or close to it."""
    if kind == "square":
        return [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]
    if kind == "triangle":
        return [(0, -0.95), (0.97, 0.78), (-0.97, 0.78)]
    if kind == "diamond":
        return [(0, -1), (0.62, 0), (0, 1), (-0.62, 0)]
    if kind == "cross":
        a, b = 0.31, 0.95
        quarter = [(-a, -b), (a, -b), (a, -a)]
        return quarter + [(-y, x) for x, y in quarter] + [(-x, -y) for x, y in quarter] + [(y, -x) for x, y in quarter]
    if kind == "star":
        return [
            (radius * math.sin(i * math.pi / 5), -radius * math.cos(i * math.pi / 5))
            for i, radius in enumerate([1.0, 0.42] * 5)
        ]
    if kind == "heart":
        turns = [i * math.tau / 60 for i in range(60)]
        heights = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) + 2 for t in turns]
        return [(math.sin(t) ** 3, -height / 16) for t, height in zip(turns, heights, strict=True)]
    raise ValueError(f"{kind} has no corners")


def draw_shape(image: Image.Image, kind: str, colour: tuple, x: float, y: float, radius: float, turn: float) -> None:
    """Paste one antialiased shape; centre and radius in pixels, turn in radians."""
    scale = 4 if radius < 64 else 2  # supersampling of the shape's box only
    left, top = math.floor(x - radius) - 2, math.floor(y - radius) - 2
    side = math.ceil(2 * radius) + 5
    mask = Image.new("L", (side * scale, side * scale))
    draw = ImageDraw.Draw(mask)
    cx, cy, r = (x - left) * scale, (y - top) * scale, radius * scale
    if kind in ("circle", "ring"):
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=255)
        if kind == "ring":
            hole = 0.55 * r
            draw.ellipse((cx - hole, cy - hole, cx + hole, cy + hole), fill=0)
    else:
        c, s = math.cos(turn) * r, math.sin(turn) * r
        draw.polygon([(cx + c * px - s * py, cy + s * px + c * py) for px, py in outline(kind)], fill=255)
    image.paste(colour, (left, top), mask.reduce(scale))


def texture_mask(texture: str, rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Where the ground's second colour shows: mode L, lengths in proportion to the short side."""
    short = min(width, height)
    xs = np.arange(width, dtype=np.float32) + np.float32(rng.uniform(0, short))
    ys = np.arange(height, dtype=np.float32)[:, None] + np.float32(rng.uniform(0, short))
    if texture == "striped":
        period, angle = rng.uniform(0.10, 0.16) * short, rng.uniform(0, math.pi)
        phase = (xs * np.float32(math.cos(angle) / period) + ys * np.float32(math.sin(angle) / period)) % 1
        level = (0.25 - np.abs(phase - 0.5)) * np.float32(period)  # distance inside the stripe, in pixels
    elif texture == "checkered":
        side = rng.uniform(0.06, 0.10) * short
        odd = (xs // side % 2) != (ys // side % 2)
        return Image.fromarray(odd.view(np.uint8) * 255)
    elif texture == "dotted":
        spacing = rng.uniform(0.09, 0.13) * short
        radius = rng.uniform(0.24, 0.30) * spacing
        dx, dy = xs % spacing - spacing / 2, ys % spacing - spacing / 2
        level = np.float32(radius) - np.sqrt(dx * dx + dy * dy)
    else:
        grain = rng.uniform(0.025, 0.04) * short
        shape = (math.ceil(height / grain), math.ceil(width / grain))
        return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).resize((width, height), Image.NEAREST)
    return Image.fromarray((np.clip(level + 0.5, 0, 1) * 255).astype(np.uint8))


def ground_colours(rng: np.random.Generator, shape_colours: np.ndarray, textured: bool) -> np.ndarray:
    """One or two ground colours (n, 3) well apart from all shapes' colours (m, 3), and visibly from each other."""
    tries = 64
    first = rng.uniform(35, 240, (tries, 1)) + rng.uniform(-28, 28, (tries, 3))
    grounds = first[:, None]
    if textured:
        step = rng.uniform(36, 60, (tries, 1)) * rng.choice([-1, 1], (tries, 1))
        grounds = np.stack([first, first + step + rng.uniform(-8, 8, (tries, 3))], axis=1)
    apart = np.linalg.norm(grounds[:, :, None] - shape_colours[None, None], axis=-1).min(axis=(1, 2))
    inside = ((grounds >= 0) & (grounds <= 255)).all(axis=(1, 2))
    good = np.flatnonzero(inside & (apart >= GROUND_DISTANCE))
    best = good[0] if len(good) else np.argmax(np.where(inside, apart, 0))
    return grounds[best].round().astype(int)


def draw_scene(scene: Scene, rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """The picture of a scene, mode RGB."""
    colours = np.array([COLOURS[shape.colour] for shape in scene.shapes]) + rng.integers(-8, 9, (len(scene.shapes), 3))
    colours = colours.clip(0, 255)
    grounds = ground_colours(rng, colours, scene.texture is not None)
    image = Image.new("RGB", (width, height), tuple(grounds[0].tolist()))
    if scene.texture:
        image.paste(tuple(grounds[1].tolist()), mask=texture_mask(scene.texture, rng, width, height))
    cell = min(width, height) / 3
    for shape, colour in zip(scene.shapes, colours, strict=True):
        diameter = rng.uniform(*SIZES[shape.size])
        # Within 0.15 cells of its cell's middle no row or column is in doubt; a large shape stays within its cell.
        shift = rng.uniform(-1, 1, 2) * min(0.15, 0.5 - diameter / 2)
        x = (shape.column + 0.5 + shift[0]) * width / 3
        y = (shape.row + 0.5 + shift[1]) * height / 3
        turn = math.radians(rng.uniform(-8, 8))
        draw_shape(image, shape.kind, tuple(colour.tolist()), x, y, diameter * cell / 2, turn)
    return image


# ---- files


@dataclass(frozen=True)
class FileForm:
    """Everything of a picture's file that is not the scene."""

    width: int
    height: int
    extension: str
    options: tuple[tuple[str, object], ...]  # for Image.save


def file_form(rng: np.random.Generator, sides: tuple[int, int] = SIDES) -> FileForm:
    """Size, format and quality. The short side is spread evenly over its logarithm; one in eight is a square."""
    aspect = 1.0 if rng.random() < 0.125 else rng.uniform(1.0, MAX_ASPECT)
    short = math.exp(rng.uniform(math.log(sides[0]), math.log(sides[1] / aspect)))
    size = sorted((max(sides[0], round(short)), min(sides[1], round(short * aspect))))
    if rng.random() < 0.5:
        size.reverse()
    extension = ("jpg", "png", "webp")[rng.integers(3)]
    quality = int(rng.integers(80, 98))
    subsampling = int(rng.choice([0, 2]))  # 4:4:4 or 4:2:0
    options = {
        "jpg": {"format": "JPEG", "quality": quality, "subsampling": subsampling},
        "png": {"format": "PNG", "compress_level": 3},
        "webp": {"format": "WEBP", "quality": quality, "method": 1},
    }[extension]
    return FileForm(*size, extension, tuple(options.items()))


def picture_name(space: str, seed: int, index: int, form: FileForm) -> str:
    return hashlib.sha256(f"{space}/{seed}/{index}/name".encode()).hexdigest()[:16] + f".{form.extension}"


def describe(seed: int, index: int, space: str = "draw") -> tuple[str, Scene, FileForm]:
    """Name, scene and file form of one picture, without drawing it."""
    form = file_form(stream(space, seed, index, "file"))
    scene = make_scene(stream(space, seed, index, "scene"), *planned(space, seed, index))
    return picture_name(space, seed, index, form), scene, form


def encode(scene: Scene, form: FileForm, rng: np.random.Generator) -> bytes:
    """The file of a scene, without metadata."""
    buffer = io.BytesIO()
    draw_scene(scene, rng, form.width, form.height).save(buffer, **dict(form.options))
    return buffer.getvalue()


def draw(seed: int, index: int, space: str = "draw") -> tuple[str, bytes, str]:
    """One picture: its name, its file's bytes, its caption."""
    name, scene, form = describe(seed, index, space)
    return name, encode(scene, form, stream(space, seed, index, "picture")), caption(scene)


def truth_lines(seed: int, count: int) -> str:
    rows = (describe(seed, index) for index in range(count))
    return "".join(json.dumps({"image": name, "caption": caption(scene)}) + "\n" for name, scene, _ in rows)


class UserError(Exception):
    """One sentence for the user."""


def draw_folder(out: Path, seed: int, count: int) -> None:
    """Fill `out`; a folder that holds another draw is refused, so that truth and pictures always belong together."""
    if count < 1:
        raise UserError(f"--count is {count}; it must be at least 1.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder.")
    truth = truth_lines(seed, count)
    truth_file = out / "truth.jsonl"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if truth_file.exists() and truth_file.read_bytes() != truth.encode():
            raise UserError(f"{truth_file} belongs to another draw; give another folder, or delete that one.")
        truth_file.write_text(truth, encoding="utf-8")
        for index in range(count):
            name, data, _ = draw(seed, index)
            (out / name).write_bytes(data)
    except OSError as error:
        raise UserError(f"{error.filename or out} cannot be written: {error.strerror}.") from None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw scenes of coloured shapes with their captions (truth.jsonl).")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the pictures and truth.jsonl")
    parser.add_argument("--count", type=int, default=100, help="number of pictures (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same pictures (default: 0)")
    arguments = parser.parse_args(argv)
    try:
        draw_folder(arguments.out, arguments.seed, arguments.count)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{arguments.count} pictures and truth.jsonl in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
