"""Command lines as words: separated by white space, in single or double quotes where a word holds some. No nesting."""

from __future__ import annotations

import re

from appliance.exceptions import CommandError

_WORD = re.compile(r"""[^\s"']++|"[^"]*+"|'[^']*+'""")
_SPACE = re.compile(r"\s++")


def split(text: str) -> list[str]:
    """The words, without their quotes. Pieces that touch are one word. Raises CommandError for an open quote."""
    words: list[str] = []
    at, touching = 0, False
    while at < len(text):
        if space := _SPACE.match(text, at):
            at, touching = space.end(), False
            continue
        found = _WORD.match(text, at)
        if found is None:
            raise CommandError(f"the quote at character {at + 1} is not closed: {text}")
        if touching:
            words[-1] += unquote(found[0])
        else:
            words.append(unquote(found[0]))
        at, touching = found.end(), True
    return words


def quote(word: str) -> str:
    """One word for `split`. What holds both kinds of quotes is put together from pieces."""
    if word and not re.search(r"""[\s"']""", word):
        return word
    if '"' not in word:
        return f'"{word}"'
    if "'" not in word:
        return f"'{word}'"
    return "".join(
        f"'{piece}'" if piece == '"' * len(piece) else f'"{piece}"' for piece in re.findall(r'"+|[^"]+', word)
    )


def unquote(word: str) -> str:
    if len(word) > 1 and word[0] in "\"'" and word[0] == word[-1]:
        return word[1:-1]
    return word
