"""Refusals and apologies, by patterns of the languages that models answer in."""
# ruff: noqa: E501 (patterns are easier to read unbroken)

from __future__ import annotations

import re

from caption.guard.quotes import unquoted

_BEGIN = r"(?:^|[.!?…\n]\s*)"  # of a sentence
_PICTURE_EN = r"(?:image|picture|photo|photograph|file|attachment)s?"

# language -> (of what its patterns need, in lower case, one must stand in the text; the patterns)
PATTERNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "en": (
        "sorry|apolog| i can| i'm | i’m | i am | i do| i won| i will| i must| i could|unable|as an |"
        "as a text|as a larg|as a lang|as a vis|please |guidelines| policy| policies|no image|"
        "no picture|no photo| we can| i currently",
        (
            _BEGIN + r"(?:(?:i['’]m |i am )?(?:very |so |really )?sorry\b|(?:my |i )?(?:sincere )?apolog)",
            r"\bi(?:['’]m| am) (?:really |very |so |also |currently |still )?(?:sorry|afraid|unable|not (?:able|comfortable|"
            r"capable|allowed|permitted|going to|sure i can|designed)|incapable)",
            r"\b(?:i|we) (?:\w+ )?(?:can['’]t|cannot|can not|can only|could(?:n['’]t| not)|won['’]t|will not|must decline|have"
            r" to decline|refuse|am not able)\b",
            r"\bi (?:do not|don['’]t) (?:actually |currently |really )?(?:have (?:the |any )?(?:ability|access|enough|capab)|"
            r"feel comfortable|know who|see (?:an|any|the) (?:attached |uploaded )?" + _PICTURE_EN + ")",
            r"\bas an? (?:\w+[- ])?(?:\w+ )?(?:ai|language model|artificial)\b",
            r"\bno " + _PICTURE_EN + r" (?:was|were|has been|is|are) (?:provided|attached|uploaded|shared|included)",
            r"\bplease (?:provide|upload|share|send|attach|re-?upload|try)\b[^.!?]{0,30}\b(?:"
            + _PICTURE_EN
            + r"|again)\b",
            r"\bagainst (?:our|my|the) (?:\w+ )?(?:polic|guidelines)",
        ),
    ),
    "de": (
        "tut mir|entschuldig| ich |sprachmodell| ki | ki-| ki,|kein bild|bitte |richtlinien",
        (
            _BEGIN + r"(?:es )?tut mir (?:sehr |wirklich )?leid\b",
            _BEGIN + r"entschuldig(?:ung|en sie|e)\b",
            r"\bbitte(?: ich)?(?: sie| dich)? um (?:entschuldigung|verzeihung|verständnis)\b",
            r"\bich (?:kann|könnte|darf|möchte|werde|will)\b[^.!?]{0,60}\b(?:nicht|kein\w*|nichts)\b",
            r"\b(?:kann|darf|möchte|werde|könnte) ich\b[^.!?]{0,60}\b(?:nicht|nichts|kein\w*|leider)\b",
            r"\b(?:ich bin|bin ich|ich sehe mich)\b[^.!?]{0,40}\bnicht (?:in der lage|imstande|fähig|befugt|berechtigt)\b",
            r"\bich (?:habe|sehe|erkenne|besitze) (?:leider )?(?:kein\w*|nichts)\b|\bhabe ich (?:leider )?keinen zugriff",
            r"\bals (?:\w+ )?(?:ki|ki-\w+|sprachmodell|ki-sprachmodell|künstliche intelligenz)\b",
            r"\bkein bild (?:wurde )?(?:bereitgestellt|hochgeladen|angehängt|beigefügt|übermittelt|erhalten)",
            r"\bbitte (?:lade\w?|schick\w*|sende\w*|teile\w*|stell\w*)\b[^.!?]{0,50}\b(?:bild|foto|aufnahme|datei)\b",
            r"\bgegen (?:unsere|die|meine) \w*richtlinien\b",
        ),
    ),
    "fr": (
        "désolé|excuse| je |m'est|m’est|aucune image|veuillez|merci d|en tant qu|malheureusement|nos règles",
        (
            _BEGIN + r"(?:je suis )?(?:vraiment |sincèrement )?désolée?\b",
            r"\bje (?:m['’]excuse|regrette|crains|vous prie)\b|\bmes excuses\b|\bexcusez[- ]moi\b",
            r"\bje (?:ne |n['’])(?:peux|pourrai|puis|suis|vois|dispose|sais|veux|souhaite|distingue|ai|parviens)\b[^.!?]{0,50}?"
            r"\b(?:pas|aucune?)\b",
            r"\bje (?:préfère|dois) (?:ne pas|refuser|décliner)\b",
            r"\bil m['’]est impossible\b",
            r"\ben tant qu(?:e |['’])(?:modèle|ia\b|assistant|intelligence)",
            r"\baucune image (?:n['’]a|n['’]est|ne|jointe|fournie)\b",
            r"\b(?:veuillez|merci d(?:e |['’]))\s?(?:partager|fournir|télécharger|envoyer|joindre|transmettre)\b[^.!?]{0,40}\b"
            r"(?:image|photo|fichier)\b",
        ),
    ),
    "es": (
        "lo siento|disculp|no puedo|no soy capaz|como modelo|no me es posible|ninguna imagen",
        (
            _BEGIN + r"(?:lo siento|disculp[ae]|mis disculpas|perdón)\b",
            r"\bno (?:puedo|podré|soy capaz|me es posible|tengo acceso|veo ninguna imagen)\b",
            r"\bcomo (?:un )?modelo de (?:lenguaje|ia)\b",
        ),
    ),
    "pt": (
        "desculp|lamento|não posso|não consigo|como um modelo",
        (
            _BEGIN + r"(?:desculp[ea]|lamento|sinto muito)\b",
            r"\b(?:eu )?não (?:posso|consigo|sou capaz|tenho acesso)\b",
            r"\bcomo um modelo de (?:linguagem|ia)\b",
        ),
    ),
    "it": (
        "mi dispiace|mi scuso|non posso|non sono in grado|come modello|non riesco",
        (
            _BEGIN + r"(?:mi dispiace|mi scuso|spiacente)\b",
            r"\bnon (?:posso|sono in grado|riesco)\b",
            r"\bcome modello (?:linguistico|di linguaggio)\b",
        ),
    ),
    "zh": (
        "我|抱歉|对不起|不好意思|遗憾|作为|请|没有提供|未提供|對不起",
        (
            r"(?:^|[。!?,,!?\n]\s*)(?:非常|很|十分|实在)?(?:抱歉|对不起|對不起|不好意思|遗憾)",
            r"我(?:们)?.{0,12}?(?:无法|無法|不能|没法|没有办法|没办法|不便|不具备|看不到|看不清|看不见|不可以|拒绝)",
            r"作为(?:一个|一名|一款|一种)?(?:ai|人工智能|语言模型|大模型|文本)",
            r"(?:没有|未)(?:能)?(?:提供|上传|附上|收到)(?:任何)?(?:图片|图像|照片)",
            r"请(?:您|你)?(?:再次|重新)?(?:上传|提供|发送).{0,8}(?:图片|图像|照片)",
        ),
    ),
    "ja": (
        "申し訳|できません|見えません|画像を確認|aiとして|言語モデル",
        (
            r"申し訳(?:あり|ござい)ません",
            r"(?:お手伝い|お答え|説明|回答|特定|対応|確認|識別)(?:する|を|は|することは|すること)*(?:が)?でき(?:ません|ない)",
            r"画像(?:が|を)(?:見えません|見ることができ|確認できません|提供されていません)",
            r"(?:ai|言語モデル)として",
        ),
    ),
    "ko": (
        "죄송|할 수 없|언어 모델",
        (r"죄송(?:합니다|하지만|스럽)", r"(?:제가|저는)[^.]{0,40}수 없", r"언어 모델로서"),
    ),
    "ru": (
        "извин|простите|сожален|жаль|прошу прощ| я |не могу|не умею|модель| ии|пришлите|не было|"
        "пожалуйста|не удаётся|не удается|боюсь",
        (
            _BEGIN + r"(?:извини(?:те)?|прости(?:те)?|к сожалению|мне (?:очень )?жаль|прошу прощения|приношу)\b",
            r"\bя (?:\w+ )?не (?:могу|смогу|умею|способ\w+|вправе|буду|вижу|имею|обладаю|в состоянии|в силах)\b|\bне могу я\b",
            r"\bя (?:вынужден\w* )?(?:отказ\w+|отказываюсь)\b",
            r"\b(?:как|будучи) (?:\w+ )?(?:языков\w+ модель\w*|ии|искусственн\w+)\b",
            r"\b(?:изображени\w+|картинк\w+|фото\w*|снимок) не (?:был[оа]? )?(?:предоставлен|прикрепл|загруж|прилож)",
            r"\b(?:загрузите|пришлите|отправьте|предоставьте|приложите)\b[^.!?]{0,40}"
            r"\b(?:изображени|картинк|фото|снимок|файл)",
            r"\bмне не уда[её]тся\b",
        ),
    ),
}

_COMPILED = {
    language: (hints.split("|"), re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE))
    for language, (hints, patterns) in PATTERNS.items()
}


def is_refusal(text: str) -> bool:
    """Whether the model says that it can't or won't, asks for another picture, or speaks of itself as a model."""
    lower = " " + text.lower().replace("\n", " ")
    told = None
    for hints, pattern in _COMPILED.values():
        for hint in hints:
            if hint in lower:
                told = unquoted(text) if told is None else told
                if pattern.search(told):
                    return True
                break
    return False
