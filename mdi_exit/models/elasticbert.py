"""ElasticBERT and its like: a BERT with an exit after layers, read from a folder as Hugging Face's tools write it.

The folder holds `config.json`, `model.safetensors` or `pytorch_model.bin`, and `vocab.txt`. Names and layout are those
of the public code (fastnlp/ElasticBERT, `finetune-dynamic`; read): exit k is a pooler, tanh of a linear layer on the
first token, and a classifier. `num_output_layers` says how many of the last layers have an exit, or, as SplitEE's copy
of that code has it, of every layer whether it has (0 or 1). Nothing in a checkpoint is run: of `pytorch_model.bin` only
tensors are unpickled, and code that comes along is not looked at.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mdi_exit.jsonfile import FileError, read_json
from mdi_exit.models.files import CheckpointError
from mdi_exit.models.multi_exit import MultiExitNetwork
from mdi_exit.models.wordpiece import WordPieces

CONFIG, VOCABULARY = "config.json", "vocab.txt"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_BODY = "elasticbert."
_ACTIVATIONS = ("gelu", "relu")
# our name: theirs, of which several are stacked
_EMBEDDINGS = {"words": "word_embeddings", "places": "position_embeddings", "kinds": "token_type_embeddings"}
_LAYER = {
    "self_attn.in_proj_": ("attention.self.query.", "attention.self.key.", "attention.self.value."),
    "self_attn.out_proj.": ("attention.output.dense.",),
    "norm1.": ("attention.output.LayerNorm.",),
    "linear1.": ("intermediate.dense.",),
    "linear2.": ("output.dense.",),
    "norm2.": ("output.LayerNorm.",),
}


# What reading weights raises: a damaged pickle may trip its reader over anything.
_DAMAGED: tuple[type[Exception], ...] = (OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError)
_DAMAGED += (AssertionError, TypeError, SafetensorError, pickle.UnpicklingError)


@dataclass(frozen=True, slots=True)
class BertConfig:
    """Sizes of the network; raises ValueError where it cannot be built."""

    vocabulary: int
    width: int
    layers: int  # L
    heads: int
    hidden: int  # of a layer's feed-forward part
    tokens: int  # the longest input
    kinds: int  # of tokens: which of two sentences; all here are of the first
    classes: int
    exits_after: tuple[int, ...]  # layers, from 1, the last one among them
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.1
    padding: int = 0  # its token number

    def __post_init__(self) -> None:
        sizes = (self.width, self.layers, self.heads, self.hidden, self.kinds)
        if min(sizes) < 1 or self.width % self.heads or self.classes < 2 or self.tokens < 3:
            raise ValueError("sizes are 1 or more, heads divides width, classes is 2 or more and tokens 3 or more")
        if self.activation not in _ACTIVATIONS or not 0 <= self.padding < self.vocabulary:
            raise ValueError(f"activation is {' or '.join(_ACTIVATIONS)}, padding a token number")
        if not (0 < self.epsilon < 1 and 0 <= self.dropout < 1):
            raise ValueError("layer_norm_eps is within (0, 1), hidden_dropout_prob within [0, 1)")
        if list(self.exits_after) != sorted({*self.exits_after, self.layers}) or self.exits_after[0] < 1:
            raise ValueError(f"exits_after are layers of 1 to {self.layers}, growing, the last one among them")


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """What a folder held, in evaluation mode."""

    network: MultiExitNetwork  # token numbers (N, T) to logits of every exit
    config: BertConfig
    pieces: WordPieces
    classes: tuple[str, ...]


class BertEmbedding(nn.Module):
    """Token numbers (N, T) to features (N, T, width); the features of padding are zero: that marks it."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.padding = config.padding
        self.words = nn.Embedding(config.vocabulary, config.width)
        self.places = nn.Embedding(config.tokens, config.width)
        self.kinds = nn.Embedding(config.kinds, config.width)
        self.normalise = nn.LayerNorm(config.width, config.epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        feature = self.words(tokens) + self.kinds.weight[0] + self.places.weight[: tokens.shape[1]]
        masked: Tensor = self.dropout(self.normalise(feature)) * tokens.ne(self.padding).unsqueeze(-1)
        return masked


class BertLayer(nn.TransformerEncoderLayer):
    """Torch's layer, which is BERT's, blind to padding. One feature is all that travels, so padding shows in it."""

    def forward(self, feature: Tensor) -> Tensor:  # type: ignore[override]
        absent = feature.eq(0).all(dim=-1)
        absent[:, 0] = False  # [CLS] is always there, and a softmax over nothing would not be a number
        seen: Tensor = super().forward(feature, src_key_padding_mask=absent)
        return seen.masked_fill(absent.unsqueeze(-1), 0.0)


class BertHead(nn.Module):
    """Classify a feature (N, T, width) by its first token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.pool = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.width, config.classes)

    def forward(self, feature: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.dropout(torch.tanh(self.pool(feature[:, 0]))))
        return logits


def elastic_bert(config: BertConfig) -> MultiExitNetwork:
    """Build the network for token numbers (N, T), T at most `config.tokens`; weights as torch draws them."""
    segments: list[nn.Module] = []
    for first, last in zip((0, *config.exits_after), config.exits_after, strict=False):
        layers: list[nn.Module] = [
            BertLayer(
                config.width, config.heads, config.hidden, config.dropout, config.activation, config.epsilon,
                batch_first=True,
            )
            for _ in range(first, last)
        ]  # fmt: skip
        segments.append(nn.Sequential(*([] if first else [BertEmbedding(config)]), *layers))
    return MultiExitNetwork(segments, [BertHead(config) for _ in config.exits_after])


def load(folder: str | Path) -> Loaded:
    """Read a folder; raises CheckpointError in one line that names the file, the key or tensor, and what is allowed."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: has no {CONFIG}; allowed is a folder with {CONFIG}, {VOCABULARY} and weights")
    try:
        said = read_json(folder / CONFIG)
    except FileError as error:
        raise CheckpointError(str(error)) from error
    path, tensors = _tensors(folder)
    config = _config(folder / CONFIG, said, path, tensors)
    pieces = WordPieces(folder / VOCABULARY, uncased=_uncased(folder))
    lines = max(pieces.numbers.values()) + 1
    if lines > config.vocabulary or pieces.padding != config.padding:
        raise CheckpointError(
            f"{folder / VOCABULARY}: {lines} lines, [PAD] is number {pieces.padding}; {CONFIG} has "
            f"{config.vocabulary} and {config.padding}"
        )
    with torch.device("meta"):  # no memory and no random weights before it is known that all fits
        network = elastic_bert(config)
    names = _names(config, _classifiers(said, config.exits_after))
    network.load_state_dict(_state(network.state_dict(), names, path, tensors), assign=True)
    return Loaded(network.eval(), config, pieces, _labels(said, config.classes))


def _tensors(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The weights' file and what it holds, by their names without the body's prefix."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder}: has no weights; allowed are {' or '.join(WEIGHTS)}, in one piece")
    try:
        safe = path.suffix == ".safetensors"
        content: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        reason = str(error).partition("\n")[0][:200]
        raise CheckpointError(f"{path}: not weights that can be read safely ({reason})") from error
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(f"{path}: allowed is a table of tensors by name")
    return path, {str(name).removeprefix(_BODY): tensor for name, tensor in content.items()}


def _config(path: Path, said: Any, weights: Path, tensors: Mapping[str, Tensor]) -> BertConfig:
    sizes = {
        "vocabulary": "vocab_size", "width": "hidden_size", "layers": "num_hidden_layers",
        "heads": "num_attention_heads", "hidden": "intermediate_size", "tokens": "max_position_embeddings",
        "kinds": "type_vocab_size",
    }  # fmt: skip
    if not isinstance(said, dict):
        raise CheckpointError(f"{path}: allowed is an object")
    for key in sizes.values():
        if type(said.get(key)) is not int or said[key] < 1:
            raise CheckpointError(f"{path}: {key} is {said.get(key)!r}; allowed is a whole number of 1 or more")
    if (kind := said.get("position_embedding_type", "absolute")) != "absolute":
        raise CheckpointError(f"{path}: position_embedding_type is {kind!r}; allowed is 'absolute'")
    deepest = f"encoder.layer.{said['num_hidden_layers'] - 1}.output.dense.weight"
    if deepest not in tensors:  # found before so many layers are built
        raise CheckpointError(f"{weights}: tensor {deepest} is missing, of the last layer by {CONFIG}")
    after = _exits_after(path, said)
    first = f"{_classifiers(said, after)[0]}weight"
    if first not in tensors:
        raise CheckpointError(f"{weights}: tensor {first} is missing; allowed is a network trained with exits")
    values = {name: said[key] for name, key in sizes.items()}
    try:
        return BertConfig(
            **values, classes=len(tensors[first]), exits_after=after, activation=said.get("hidden_act", "gelu"),
            epsilon=float(said.get("layer_norm_eps", 1e-12)), dropout=float(said.get("hidden_dropout_prob", 0.1)),
            padding=said.get("pad_token_id", 0),
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be built ({error})") from error


def _exits_after(path: Path, said: Mapping[str, Any]) -> tuple[int, ...]:
    """After which layers, from 1, there is an exit."""
    layers, given = said["num_hidden_layers"], said.get("num_output_layers")
    allowed = f"2 to {layers}, how many of the last layers have an exit, or of each of {layers} layers 0 or 1"
    if isinstance(given, list):
        after = tuple(layer for layer, exits in enumerate(given, 1) if exits == 1)
        good = len(given) == layers and all(exits in (0, 1) for exits in given) and given[-1] == 1
    else:
        good = type(given) is int and given <= layers
        after = tuple(range(layers - given + 1, layers + 1)) if good else ()
    if not good or len(after) < 2:
        raise CheckpointError(f"{path}: num_output_layers is {given!r}; allowed: {allowed}; at least 2 exits in all")
    return after


def _classifiers(said: Mapping[str, Any], after: tuple[int, ...]) -> list[str]:
    """Their names: numbered on, or by layer where every layer is asked."""
    by_layer = isinstance(said["num_output_layers"], list)
    return [f"classifiers.{layer - 1 if by_layer else number}." for number, layer in enumerate(after)]


def _names(config: BertConfig, classifiers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Of which of their tensors, stacked, each of ours is made."""
    names: dict[str, tuple[str, ...]] = {
        f"segments.0.0.{ours}.weight": (f"embeddings.{theirs}.weight",) for ours, theirs in _EMBEDDINGS.items()
    }

    def add(ours: str, *theirs: str) -> None:
        names.update({ours + end: tuple(each + end for each in theirs) for end in ("weight", "bias")})

    add("segments.0.0.normalise.", "embeddings.LayerNorm.")
    for number, (first, last) in enumerate(zip((0, *config.exits_after), config.exits_after, strict=False)):
        for layer in range(first, last):
            place = layer - first + (0 if first else 1)  # the embedding comes first
            for ours, theirs in _LAYER.items():
                stacked = (f"encoder.layer.{layer}.{each}" for each in theirs)
                add(f"segments.{number}.{place}.{ours}", *stacked)
        add(f"heads.{number}.pool.", f"encoder.pooler.{last - 1}.dense.")
        add(f"heads.{number}.classify.", classifiers[number])
    return names


def _state(
    wanted: Mapping[str, Tensor], names: Mapping[str, Sequence[str]], path: Path, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The network's state; raises CheckpointError for a tensor that is missing, misshapen or left over."""
    made: dict[str, Tensor] = {}
    for ours, theirs in names.items():
        if missing := [each for each in theirs if each not in tensors]:
            raise CheckpointError(f"{path}: tensor {missing[0]} is missing")
        shape = wanted[ours].shape
        for each in theirs:
            found, needed = tuple(tensors[each].shape), (shape[0] // len(theirs), *shape[1:])
            if found != needed:
                raise CheckpointError(f"{path}: tensor {each} has shape {found}; by {CONFIG} it is {needed}")
        made[ours] = torch.cat([tensors[each].float() for each in theirs])
    used = {each for theirs in names.values() for each in theirs}
    more = [each for each in tensors if each.startswith(("classifiers.", "encoder.layer.")) and each not in used]
    if more:
        raise CheckpointError(f"{path}: tensor {more[0]} is of a layer or exit that {CONFIG} does not have")
    return made


def _uncased(folder: Path) -> bool:
    """Whether the vocabulary knows small letters only; so unless the folder says otherwise."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return True
    try:
        said = read_json(path)
    except FileError as error:
        raise CheckpointError(str(error)) from error
    return not isinstance(said, dict) or said.get("do_lower_case", True) is not False


def _labels(said: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """The classes' names, or their numbers where the configuration names others or none."""
    named = said.get("id2label")
    numbers = [str(number) for number in range(classes)]
    if isinstance(named, dict) and all(isinstance(named.get(number), str) for number in numbers):
        return tuple(named[number] for number in numbers)
    return tuple(numbers)
