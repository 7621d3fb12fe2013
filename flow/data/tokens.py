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


def split_characters(text: str) -> Sequence[str]:
    """Every character is a token, the line break and the blank included."""
    return text


def split_words(text: str) -> Sequence[str]:
    """Lower-case words of a text.

    ``don't``, ``re-enable``, ``max_clients``, ``0x1f`` and ``2.6.32`` are one token each, and so are ``<email>``,
    ``<url>`` and ``<sha>``; every other mark is a token of its own. White space separates and is not kept.
    """
    return _WORD.findall(text.lower())


SPLITTERS: dict[str, Callable[[str], Sequence[str]]] = {"character": split_characters, "word": split_words}


class Numbering(dict[str, int]):
    """Numbers tokens 0, 1, 2, ... in the order in which they are first asked for."""

    def __missing__(self, token: str) -> int:
        self[token] = number = len(self)
        return number
