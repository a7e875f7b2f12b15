"""A small transformer for sentences with an exit after every layer: the text backbone of SplitEE (docs/splitee.md).

It is a `MultiExitNetwork` like the image networks, so slices of it are taken and run the same way; what goes in are
token numbers instead of pixels. The architecture is ours: SplitEE's is ElasticBERT, 12 layers of width 768, trained on
texts that this package does not have. Built here and not by name in a card: a card describes a network for images.

A small network that sees a whole sentence at once decides in its first layer what it ever will: with few sentences to
learn from, the polarity of single words is nearly all there is, and every exit says the same. So the network reads: in
one layer a word sees `reach` words to either side, and exit k judges by the first k * reach words. The deeper an exit,
the more it has read, and the surer it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdi_exit.models.multi_exit import MultiExitNetwork

PADDING, UNKNOWN = 0, 1  # the first token numbers
_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Sizes of the network; raises ValueError where it cannot be built."""

    vocabulary: int  # token numbers, the first two included
    classes: int
    layers: int = 12  # L, an exit after each
    width: int = 64
    heads: int = 4
    hidden: int = 128  # of a layer's feed-forward part
    reach: int = 4  # words: how far a word sees in one layer, and how much more than the one before an exit has read
    tokens: int = 48  # the longest input; what is longer is cut
    dropout: float = 0.4

    def __post_init__(self) -> None:
        sizes = (self.layers, self.width, self.heads, self.hidden, self.reach, self.tokens)
        if min(sizes) < 1 or self.width % self.heads:
            raise ValueError("sizes are 1 or more, and heads divides width")
        if self.vocabulary <= UNKNOWN or self.classes < 2 or not 0 <= self.dropout < 1:
            raise ValueError("vocabulary is 2 or more, classes 2 or more, dropout within 0..1, 1 excluded")


class Vocabulary:
    """Words that were seen at least `least` times, by number; every other word is UNKNOWN."""

    def __init__(self, sentences: Iterable[str], least: int = 2) -> None:
        counts = Counter(word for sentence in sentences for word in words_of(sentence))
        kept = sorted((word for word, count in counts.items() if count >= least), key=lambda w: (-counts[w], w))
        self.numbers = {word: number for number, word in enumerate(kept, UNKNOWN + 1)}

    def __len__(self) -> int:
        return len(self.numbers) + UNKNOWN + 1

    def encode(self, sentences: Sequence[str], tokens: int) -> NDArray[np.int64]:
        """Token numbers (N, tokens), cut or padded at the end; a sentence without a word is one UNKNOWN."""
        encoded = np.full((len(sentences), tokens), PADDING, dtype=np.int64)
        for row, sentence in zip(encoded, sentences, strict=True):
            numbers = [self.numbers.get(word, UNKNOWN) for word in words_of(sentence)][:tokens] or [UNKNOWN]
            row[: len(numbers)] = numbers
        return encoded


def words_of(sentence: str) -> list[str]:
    """Words and punctuation marks, in small letters."""
    return _WORDS.findall(sentence.lower())


class Embedding(nn.Module):
    """Token numbers (N, T) to features (N, T, width); the features of padding are zero, and stay so: they mark it."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocabulary, config.width, padding_idx=PADDING)
        self.places = nn.Parameter(0.02 * torch.randn(config.tokens, config.width))
        self.normalise = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.words.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        feature = self.normalise(self.words(tokens) + self.places[: tokens.shape[1]])
        masked: Tensor = self.dropout(feature) * tokens.ne(PADDING).unsqueeze(-1)
        return masked


def _present(feature: Tensor) -> Tensor:
    """Which positions hold a word, (N, T): one feature is all that travels, so the padding has to show in it."""
    return feature.ne(0).any(dim=-1)


class Layer(nn.Module):
    """Self-attention within reach and a feed-forward part, each normalised before and added to its input."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads, self.reach = config.heads, config.reach
        self.before_attention, self.before_feed = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.queries_keys_values = nn.Linear(config.width, 3 * config.width)
        self.gather = nn.Linear(config.width, config.width)
        self.feed = nn.Sequential(
            nn.Linear(config.width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, feature: Tensor) -> Tensor:
        present = _present(feature)
        count, length, width = feature.shape
        parts = self.queries_keys_values(self.before_attention(feature))
        shape = (count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.view(shape).permute(2, 0, 3, 1, 4)
        places = torch.arange(length, device=feature.device)
        apart = (places[:, None] - places[None, :]).abs()
        # itself is always within sight, also of padding: a softmax over nothing would not be a number
        sight = (apart <= self.reach) & present[:, None, :] | (apart == 0)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=sight[:, None])
        feature = feature + self.dropout(self.gather(seen.transpose(1, 2).reshape(count, length, width)))
        feature = feature + self.dropout(self.feed(self.before_feed(feature)))
        masked: Tensor = feature * present.unsqueeze(-1)
        return masked


class SentenceHead(nn.Module):
    """Classify a feature (N, T, width) by the mean over its first `read` words."""

    def __init__(self, config: TextConfig, read: int) -> None:
        super().__init__()
        self.read = read
        self.normalise = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.width, config.classes)

    def forward(self, feature: Tensor) -> Tensor:
        feature = feature[:, : self.read]
        present = _present(feature).unsqueeze(-1)
        mean = (self.normalise(feature) * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
        logits: Tensor = self.classify(self.dropout(mean))
        return logits


def text_transformer(config: TextConfig) -> MultiExitNetwork:
    """Build the network for token numbers (N, T), T at most `config.tokens`; weights of torch's global generator."""
    segments: list[nn.Module] = [Layer(config) for _ in range(config.layers)]
    segments[0] = nn.Sequential(Embedding(config), segments[0])
    read = [config.reach * k for k in range(1, config.layers)] + [config.tokens]  # the last exit has read all
    return MultiExitNetwork(segments, [SentenceHead(config, words) for words in read])
