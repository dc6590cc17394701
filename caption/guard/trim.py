"""Trim: what can be taken off a caption: its preamble, and the sentence that was cut."""

from __future__ import annotations

import re

# A preamble is one of OPENERS, or one of SUBJECTS and one of its VERBS, at the very beginning. README.md shows them.
OPENERS = (
    "Certainly", "Sure", "Sure thing", "Of course", "Absolutely", "Yes, of course", "Okay", "Great question",
    "Natürlich", "Gerne", "Selbstverständlich", "Klar", "Bien sûr", "Certainement", "Avec plaisir", "Volontiers",
    "Claro", "Por supuesto", "当然", "当然可以", "好的", "没问题", "Конечно", "Разумеется", "С удовольствием",
)  # fmt: skip
HEADINGS = (
    "Here is", "Here's", "Here’s", "Below is", "Sure, here is", "Sure, here's", "Hier ist", "Hier kommt", "Voici",
    "Aquí está", "Aquí tienes", "以下是", "下面是", "Вот",
)  # fmt: skip
SUBJECTS = {
    ("The image", "This image", "The picture", "This picture", "The photo", "This photo", "The photograph",
     "This photograph", "The scene"): ("shows", "depicts", "features", "displays", "captures", "presents", "portrays",
     "contains", "illustrates", "appears to show", "is of", "is"),
    ("Das Bild", "Dieses Bild", "Das Foto", "Dieses Foto", "Die Aufnahme"): ("zeigt",),
    ("L'image", "L’image", "Cette image", "La photo", "Cette photo", "La photographie"): (
     "montre", "représente", "présente", "dépeint"),
    ("La imagen", "Esta imagen", "La foto", "Esta foto", "La fotografía"): ("muestra", "representa", "presenta"),
    ("这张图片", "这幅图片", "图片", "这张照片", "照片", "该图片", "图像", "这张图像"): (
     "展示了", "显示了", "描绘了", "呈现了", "展示的是", "显示的是"),
}  # fmt: skip
PLACES = (
    "In the image", "In this image", "In the picture", "In this picture", "In the photo", "In this photo",
    "Dans l'image", "Dans cette image", "Sur l'image", "En la imagen", "В этом изображении",
)  # fmt: skip


def _any(words) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_ARTICLES = r"(?= (?:an?|the|two|three|four|several|some|one) )"
_SAID = "|".join(
    rf"(?:{_any(subjects)})\s?(?:{'|'.join(re.escape(v) + (_ARTICLES if v == 'is' else '') for v in verbs)})"
    for subjects, verbs in SUBJECTS.items()
)
_PREAMBLE = re.compile(
    r"\s*(?:"
    + "|".join(
        (
            rf"(?:{_any(OPENERS)})\s*[!.,,!。:]\s*",
            rf"(?:{_any(HEADINGS)})[^.!?。\n:]{{0,80}}[::]\s*",
            rf"(?:{_SAID})(?:\s+|(?<=[\u3400-\u9fff]))(?!(?:that|how|what|dass|wie|que|comment)\b)",
            rf"(?:{_any(PLACES)}),\s+(?:there (?:is|are) |il y a |hay )?",
        )
    )
    + ")",
    re.IGNORECASE,
)
_CLOSING = r"[\"'“”’»›)\]」』*_]"  # what may follow a sentence's end; in French after a space
_END = re.compile(rf"[.!?…।؟](?:\s?[»›]|{_CLOSING}*)(?=\s|$)|[。!?](?:{_CLOSING}*)")
_NO_END = re.compile(
    r"(?:(?:^|\s)(?:\d{1,3}|[A-Za-z]|Mr|Mrs|Ms|Dr|St|No|Nr|vs|ca|bzw|etc|e\.g|i\.e|z\. ?B|д|г|им|рис))\.$",
    re.IGNORECASE,
)
_FINISHED = re.compile(rf"[.!?。!?।؟…](?:\s?[»›]|{_CLOSING}*)\s*$")


def strip_preamble(text: str) -> str:
    """The text without what it says before the caption; the text itself if nothing else is in it."""
    rest = text
    while found := _PREAMBLE.match(rest):
        rest = rest[found.end() :]
    if rest is text or not rest.strip():
        return text
    return rest[:1].upper() + rest[1:]


def ends_a_sentence(text: str) -> bool:
    """Whether it ends with a sentence's end, quotation marks and brackets aside; the number of a list is none."""
    text = text.rstrip()
    return _FINISHED.search(text) is not None and _NO_END.search(text) is None


def trim_to_sentence(text: str) -> str:
    """The text up to its last whole sentence; unchanged if there is none."""
    if ends_a_sentence(text):
        return text
    for end in reversed(list(_END.finditer(text))):
        if not _NO_END.search(text[: end.end()]):
            return text[: end.end()]
    return text
