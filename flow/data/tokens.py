"""How text becomes tokens: single characters, or lower-case words with the punctuation apart."""

import re
from collections.abc import Callable, Sequence

PAD, OOV, BOS, EOS = 0, 1, 2, 3
SPECIALS = ("<pad>", "<oov>", "<bos>", "<eos>")

# In this order: a substituted token, a number with inner points or commas, a word (letters, digits and underscores,
# with single apostrophes or hyphens inside), one punctuation mark.
_WORD = re.compile(
    r"<(?:email|url|sha)>"
    r"|\d+(?:[.,]\d+)+(?!\w)"
    r"|\w+(?:['\u2019-]\w+)*"
    r"|[^\w\s]"
)


# Letters and their marks of the scripts that write no spaces between words. A word is short in Chinese and Japanese, and long
# where every vowel and tone is a sign of its own.
_SHORT_WORDS = (
    "[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_LONG_WORDS = "[\u0e01-\u0e3a\u0e40-\u0e4e\u0e80-\u0eff\u1000-\u1049\u1050-\u109f\u1780-\u17d3\u17dd\uaa60-\uaa7f]"
_RUN = re.compile(f"{_SHORT_WORDS}{{6}}|{_LONG_WORDS}{{16}}")
_LETTER = re.compile(f"{_SHORT_WORDS}|{_LONG_WORDS}")


def runs_on(text: str) -> bool:
    """Whether a text has a long run of letters of a script without spaces between words.

    These are Han, Hiragana, Katakana (6 letters), Thai, Lao, Myanmar and Khmer (16); text that was split into words has none.
    """
    return not text.isascii() and _RUN.search(text) is not None


def is_unspaced(word: str) -> bool:
    """Whether a word has a letter of such a script."""
    return not word.isascii() and _LETTER.search(word) is not None


def split_characters(text: str) -> Sequence[str]:
    """Every character (Unicode code point) is a token, the line break and the blank included."""
    return text


def split_words(text: str) -> Sequence[str]:
    """Lower-case words of a text.

    ``don't``, ``re-enable``, ``max_clients``, ``0x1f`` and ``2.6.32`` are one token each, and so are ``<email>``,
    ``<url>`` and ``<sha>``; every other mark is a token of its own. White space separates and is not kept.
    """
    return _WORD.findall(text.lower())


UNITS = ("character", "word", "token")
"""What the tokens of a vocabulary are; "token": of a tokenizer that is not of this package."""


def split_spaces(text: str) -> Sequence[str]:
    """Tokens that one space each separates, as they are: text that was cut before."""
    tokens = text.split(" ")
    return tokens if all(tokens) else [token for token in tokens if token]


SPLITTERS: dict[str, Callable[[str], Sequence[str]]] = {
    "characters": split_characters, "words": split_words, "spaces": split_spaces,
}  # fmt: skip
"""By the value of `tokenizer`."""
UNIT_SPLITTERS: dict[str, Callable[[str], Sequence[str]]] = {"character": split_characters, "word": split_words}
"""By the unit of a vocabulary; where it is "token", the vocabulary alone does not say."""


class Numbering(dict[str, int]):
    """Numbers tokens 0, 1, 2, ... in the order in which they are first asked for."""

    def __missing__(self, token: str) -> int:
        self[token] = number = len(self)
        return number
