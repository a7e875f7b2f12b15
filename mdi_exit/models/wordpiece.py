"""BERT's tokens: sentences to the numbers of a checkpoint's `vocab.txt`.

The rules of the public BERT tokenizer: clean, small letters without accents (of an uncased vocabulary), words and
single punctuation marks, then of each word the longest piece that the vocabulary has, again and again. Written here
because they are few: the library that has them brings a dozen packages, among them a client that downloads. Compared
with that library in docs/splitee.md.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdi_exit.models.files import CheckpointError

_CLS, _SEP, _UNKNOWN, _PADDING = "[CLS]", "[SEP]", "[UNK]", "[PAD]"
_WORD_MAX = 100  # characters; a longer word is unknown, as in BERT's
_TOKENS_MIN = 3  # the first, one of the sentence, the last
# of code points: ideographs, of which each is a word
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


class WordPieces:
    """A vocabulary, token by line; raises CheckpointError naming the file."""

    def __init__(self, path: Path, uncased: bool = True) -> None:
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from error
        self.uncased = uncased
        self.numbers = {token: number for number, token in enumerate(line.rstrip("\r") for line in lines) if token}
        if missing := [token for token in (_PADDING, _UNKNOWN, _CLS, _SEP) if token not in self.numbers]:
            raise CheckpointError(f"{path}: has no line {missing[0]}, which a BERT vocabulary has")

    @property
    def padding(self) -> int:
        """What fills the rows of shorter sentences."""
        return self.numbers[_PADDING]

    def encode(self, sentences: Sequence[str], most: int) -> NDArray[np.int64]:
        """Token numbers (N, T), [CLS] and [SEP] included, T that of the longest; what is longer than `most` is cut."""
        assert most >= _TOKENS_MIN
        rows = [[_CLS, *self.pieces(sentence)[: most - 2], _SEP] for sentence in sentences]
        encoded = np.full((len(rows), max(map(len, rows))), self.padding, dtype=np.int64)
        for line, row in zip(encoded, rows, strict=True):
            line[: len(row)] = [self.numbers[token] for token in row]
        return encoded

    def pieces(self, sentence: str) -> list[str]:
        """The tokens of a sentence, of which each is in the vocabulary."""
        return [piece for word in words_of(sentence, self.uncased) for piece in self._split(word)]

    def _split(self, word: str) -> list[str]:
        if len(word) > _WORD_MAX:
            return [_UNKNOWN]
        found: list[str] = []
        at = 0
        while at < len(word):
            ends = range(len(word), at, -1)
            pieces = (("##" if at else "") + word[at:end] for end in ends)
            piece = next((piece for piece in pieces if piece in self.numbers), None)
            if piece is None:
                return [_UNKNOWN]
            found.append(piece)
            at += len(piece) - (2 if at else 0)
        return found


def words_of(sentence: str, uncased: bool) -> list[str]:
    """Words, punctuation marks and ideographs, as BERT separates them."""
    text = "".join(_cleaned(sentence))
    if uncased:
        # accents are marks of their own once decomposed
        plain = (sign for sign in unicodedata.normalize("NFD", text) if unicodedata.category(sign) != "Mn")
        text = "".join(sign.lower() for sign in plain)
    return "".join(f" {sign} " if _is_punctuation(sign) else sign for sign in text).split()


def _cleaned(sentence: str) -> Iterator[str]:
    for sign in sentence:
        kind = unicodedata.category(sign)
        if sign in "\t\n\r" or kind == "Zs":
            yield " "
        elif any(first <= ord(sign) <= last for first, last in _IDEOGRAPHS):
            yield f" {sign} "
        elif sign not in "\0\ufffd" and not kind.startswith("C"):
            yield sign


def _is_punctuation(sign: str) -> bool:
    """ASCII signs such as $ and ^ count, though Unicode calls them symbols."""
    if sign.isascii():
        return sign in string.punctuation
    return unicodedata.category(sign).startswith("P")
