"""French captions of the drawn scenes: what the adapter `shapes-fr` is trained to write, and its tests compare with."""

from draw_shapes import COLUMNS, ROWS, Scene, Shape

KINDS = {  # and whether the word is feminine
    "circle": ("cercle", False), "square": ("carré", False), "triangle": ("triangle", False), "star": ("étoile", True),
    "cross": ("croix", True), "ring": ("anneau", False), "heart": ("cœur", False), "diamond": ("losange", False),
}  # fmt: skip
COLOURS = {  # masculine, feminine
    "red": ("rouge", "rouge"), "orange": ("orange", "orange"), "yellow": ("jaune", "jaune"), "green": ("vert", "verte"),
    "blue": ("bleu", "bleue"), "purple": ("violet", "violette"), "pink": ("rose", "rose"), "brown": ("brun", "brune"),
    "black": ("noir", "noire"), "white": ("blanc", "blanche"), "cyan": ("cyan", "cyan"),
}  # fmt: skip
SIZES = {"small": ("petit", "petite"), "large": ("grand", "grande")}
TEXTURES = {"striped": "rayé", "checkered": "quadrillé", "dotted": "pointillé", "noisy": "bruité"}
PLACES = {"top": "en haut", "bottom": "en bas", "left": "à gauche", "right": "à droite"}


def _named(shape: Shape) -> str:
    """The shape with its article: "une petite étoile verte"."""
    kind, feminine = KINDS[shape.kind]
    article = "une" if feminine else "un"
    return f"{article} {SIZES[shape.size][feminine]} {kind} {COLOURS[shape.colour][feminine]}"


def _relation(first: Shape, second: Shape) -> str:
    """How `first` stands to `second`, which comes later in reading order."""
    step = second.column - first.column
    across = "à gauche" if step > 0 else "à droite" if step < 0 else ""
    if first.row == second.row:
        return across
    return f"au-dessus et {across}" if across else "au-dessus"


def caption(scene: Scene) -> str:
    """What draw_shapes.caption says in English."""
    first, *others = scene.shapes
    text = _named(first).capitalize()
    if not others:
        sides = (PLACES.get(ROWS[first.row]), PLACES.get(COLUMNS[first.column]))
        text = " ".join([text, *filter(None, sides)])
    for i, shape in enumerate(others):
        link = " " if i == 0 else ", qui est "
        text += f"{link}{_relation(scene.shapes[i], shape)} d'{_named(shape)}"
    return text + (f", sur un fond {TEXTURES[scene.texture]}." if scene.texture else ".")
