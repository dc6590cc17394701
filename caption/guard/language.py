"""Language: is a text in the language that was asked for? By script, and for Latin letters by common words.

Languages of one script other than Latin (Persian and Arabic, Hindi and Marathi) are told apart only where a letter is
of one alone. A text without common words, a list of tags, is taken as right.
"""

from __future__ import annotations

import re

from caption.guard.quotes import unquoted

_SCRIPTS = {
    "latin": r"A-Za-zÀ-ɏḀ-ỿ",
    "cyrillic": r"\u0400-\u052f",
    "greek": r"\u0370-\u03ff",
    "arabic": r"\u0600-\u06ff\u0750-\u077f",
    "hebrew": r"\u0590-\u05ff",
    "devanagari": r"\u0900-\u097f",
    "bengali": r"\u0980-\u09ff",
    "tamil": r"\u0b80-\u0bff",
    "telugu": r"\u0c00-\u0c7f",
    "thai": r"\u0e00-\u0e7f",
    "georgian": r"\u10a0-\u10ff",
    "armenian": r"\u0530-\u058f",
    "hangul": r"\uac00-\ud7af\u1100-\u11ff",
    "han": r"\u3400-\u9fff\uf900-\ufaff",
    "japanese": r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff",
}
_DENSE = {"hangul": 2, "han": 4, "japanese": 3}  # Latin letters that say as much as one of these
_OTHER_SCRIPTS = {
    "ru": "cyrillic", "uk": "cyrillic", "bg": "cyrillic", "sr": "cyrillic", "el": "greek", "ar": "arabic",
    "fa": "arabic", "ur": "arabic", "he": "hebrew", "hi": "devanagari", "mr": "devanagari", "bn": "bengali",
    "ta": "tamil", "te": "telugu", "th": "thai", "ka": "georgian", "hy": "armenian", "ko": "hangul", "zh": "han",
    "ja": "japanese",
}  # fmt: skip
COMMON_WORDS = {
    "en": "the and it is are with in on an a to at by his her its their there this that which while behind no not into",
    "de": "der die das und ist sind mit im in auf ein eine einen einem einer von zu vor den dem des es nicht am hinter",
    "fr": "le la les et est sont avec dans sur un une des du de au aux en à ce cette qui se deux il elle derrière par",
    "es": "el la los las y es son con en un una de del al por se su que está están dos una junto detrás mientras",
    "pt": "os as e é são com em no na um uma de do da dos das ao por se que está estão dois duas enquanto",
    "it": "il lo la i gli le e è sono con in nel nella un una di del della dei al alla per si che su sul due mentre",
    "nl": "de het een en is zijn met in op van te naar aan bij er dat die voor achter twee terwijl langs over",
    "sv": "en ett och är med i på av till som det den de för sig från två bakom under står sitter",
    "da": "en et og er med i på af til som det den de for sig fra to bag mens der står sidder",
    "no": "en et og er med i på av til som det den de for seg fra to bak mens står sitter",
    "fi": "ja on ovat se joka jossa jonka kanssa sekä mutta myös kun edessä takana vieressä päällä",
    "pl": "i w na z jest są się do przez pod nad przed za oraz który która dwa dwie dwoje obok od",
    "cs": "a v na s je jsou se do u pod nad před za který která dva dvě vedle od ve ze",
    "ro": "și în pe cu este sunt un de la din care se lângă două doi pentru spatele",
    "hu": "a az és egy van vannak egyik mellett előtt mögött alatt hogy nem két fölött",
    "tr": "bir ve ile bu da de için üzerinde olan var iki yanında önünde arkasında içinde",
    "vi": "một và của là có trong trên với đang các những người hai này được",
    "id": "dan di yang dengan sebuah dari ke pada ini itu sedang untuk dua adalah seorang",
}
LANGUAGES = tuple(sorted({*COMMON_WORDS, *_OTHER_SCRIPTS}))

_SHARE = 0.3  # of letters in another script
_FEWEST = 3  # common words of another language
_WORDS = re.compile(r"[^\W\d_]+")
_OWN = {name: re.compile(f"[{letters}]") for name, letters in _SCRIPTS.items()}
_FOREIGN = {name: re.compile(rf"[^\W\d_{letters}]") for name, letters in _SCRIPTS.items()}
_KANA = re.compile(r"[\u3041-\u30fa]")
_SPOKEN: dict[str, tuple[str, ...]] = {}
for _language, _words in COMMON_WORDS.items():
    for _word in _words.split():
        _SPOKEN[_word] = (*_SPOKEN.get(_word, ()), _language)
# Letters that one language of a script has and the other has not.
_NOT_IN = {
    "ru": re.compile("[іїєґўћђљњџј]", re.I),
    "uk": re.compile("[ыэъё]", re.I),
    "bg": re.compile("[ыэёіїє]", re.I),
}


def is_wrong_language(text: str, language: str) -> bool:
    """Whether what is not quoted in the text is, wholly or for a good part, in another language than this one."""
    told = unquoted(text)
    script = _OTHER_SCRIPTS.get(language, "latin")
    if script == "latin" and told.isascii():
        return _speaks_another(told, language)
    own, foreign = len(_OWN[script].findall(told)), len(_FOREIGN[script].findall(told))
    if foreign:
        if script == "latin":
            foreign += sum(
                (weight - 1) * len(_OWN[name].findall(told)) for name, weight in _DENSE.items() if name != "han"
            )
        if own + foreign >= 6 and foreign > _SHARE * (foreign + own * _DENSE.get(script, 1)):
            return True
    if script in ("han", "japanese"):
        return own >= 8 and (len(_KANA.findall(told)) > own / 10) == (language == "zh")
    if language in _NOT_IN and len(_NOT_IN[language].findall(told)) >= 3:
        return True
    return script == "latin" and _speaks_another(told, language)


def _speaks_another(text: str, language: str) -> bool:
    """Whether words that another language has and this one has not are many, and the other way round few."""
    own, others = [], {}
    for word in _WORDS.findall(text.lower()):
        spoken = _SPOKEN.get(word, ())
        if language in spoken:
            own.append(spoken)
        else:
            for name in spoken:
                others[name] = others.get(name, 0) + 1
    return any(
        count >= _FEWEST and count > 2 * sum(name not in spoken for spoken in own) for name, count in others.items()
    )
