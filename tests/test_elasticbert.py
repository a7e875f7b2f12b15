"""ElasticBERT-like checkpoints: tiny, randomly initialised ones in the public code's names, loaded and refused."""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from mdi_exit.errors import UserError
from mdi_exit.models import elasticbert
from mdi_exit.models.files import CheckpointError
from mdi_exit.models.wordpiece import WordPieces, words_of
from mdi_exit.trace import ExitTrace

from .test_cli import here, refused
from .test_training import said

LAYERS, WIDTH, HEADS, CLASSES = 3, 8, 2, 2
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "##s", "un", "##good", "!", "e"]
CONFIG = {
    "model_type": "elasticbert", "vocab_size": len(WORDS), "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "intermediate_size": 12, "max_position_embeddings": 10, "type_vocab_size": 2,
    "num_output_layers": LAYERS, "max_output_layers": LAYERS, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    "id2label": {"0": "negative", "1": "positive"},
}  # fmt: skip
Tensors = dict[str, torch.Tensor]


def tensors_of(poolers: Sequence[int] = range(LAYERS), classifiers: Sequence[int] = range(LAYERS)) -> Tensors:
    """Random weights in the names of `ElasticBertForSequenceClassification.state_dict()`."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return 0.5 * torch.randn(*shape, generator=generator)

    found: Tensors = {"embeddings.position_ids": torch.arange(10)[None]}
    sizes = {"word": len(WORDS), "position": 10, "token_type": 2}
    found |= {f"embeddings.{name}_embeddings.weight": drawn(size, WIDTH) for name, size in sizes.items()}
    linear = {f"encoder.pooler.{layer}.dense": (WIDTH, WIDTH) for layer in poolers}
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        linear |= {f"{at}.attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        linear |= {f"{at}.attention.output.dense": (WIDTH, WIDTH), f"{at}.intermediate.dense": (12, WIDTH)}
        linear[f"{at}.output.dense"] = (WIDTH, 12)
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
    for name, shape in linear.items():
        found |= {f"{name}.weight": drawn(*shape), f"{name}.bias": drawn(shape[0])}
    for name in norms:
        found |= {f"{name}.weight": 1 + drawn(WIDTH), f"{name}.bias": drawn(WIDTH)}
    found = {f"elasticbert.{name}": tensor for name, tensor in found.items()}
    for number in classifiers:
        found |= {f"classifiers.{number}.weight": drawn(CLASSES, WIDTH), f"classifiers.{number}.bias": drawn(CLASSES)}
    return found


def write(folder: Path, tensors: Tensors | None = None, **changed: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changed}), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    save_file(tensors or tensors_of(), folder / "model.safetensors")
    return folder


def linear(tensors: Tensors, name: str, value: NDArray[Any]) -> NDArray[Any]:
    made: NDArray[Any] = value @ tensors[f"{name}.weight"].numpy().T + tensors[f"{name}.bias"].numpy()
    return made


def normalised(tensors: Tensors, name: str, value: NDArray[Any]) -> NDArray[Any]:
    even = (value - value.mean(axis=1, keepdims=True)) / np.sqrt(value.var(axis=1, keepdims=True) + 1e-12)
    made: NDArray[Any] = even * tensors[f"{name}.weight"].numpy() + tensors[f"{name}.bias"].numpy()
    return made


def by_hand(tensors: Tensors, tokens: Sequence[int], poolers: Sequence[int], classifiers: Sequence[int]) -> list[Any]:
    """Logits of the exits for one sentence without padding, by BERT's formulae and the names of the file."""
    of = {name.removeprefix("elasticbert."): tensor for name, tensor in tensors.items()}
    kinds = of["embeddings.token_type_embeddings.weight"][0]
    embedded = of["embeddings.word_embeddings.weight"][list(tokens)] + kinds
    embedded = embedded + of["embeddings.position_embeddings.weight"][: len(tokens)]
    feature = normalised(of, "embeddings.LayerNorm", embedded.numpy())
    found = []
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        query, key, value = (
            linear(of, f"{at}.attention.self.{part}", feature).reshape(len(tokens), HEADS, -1)
            for part in ("query", "key", "value")
        )
        seen = []
        for head in range(HEADS):
            scores = np.exp(query[:, head] @ key[:, head].T / math.sqrt(WIDTH / HEADS))
            seen.append(scores / scores.sum(axis=1, keepdims=True) @ value[:, head])
        gathered = linear(of, f"{at}.attention.output.dense", np.concatenate(seen, axis=1))
        feature = normalised(of, f"{at}.attention.output.LayerNorm", gathered + feature)
        inner = linear(of, f"{at}.intermediate.dense", feature)
        inner = inner * np.vectorize(lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))))(inner)
        feature = normalised(of, f"{at}.output.LayerNorm", linear(of, f"{at}.output.dense", inner) + feature)
        if layer in poolers:
            number = classifiers[list(poolers).index(layer)]
            pooled = np.tanh(linear(of, f"encoder.pooler.{layer}.dense", feature[:1]))
            found.append(linear(of, f"classifiers.{number}", pooled)[0])
    return found


@pytest.mark.parametrize(
    ("said_of_exits", "poolers", "classifiers"),
    [(3, (0, 1, 2), (0, 1, 2)), (2, (1, 2), (0, 1)), ([1, 0, 1], (0, 2), (0, 2))],
)
@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
@torch.no_grad()
def test_logits_are_those_of_berts_formulae(
    tmp_path: Path, said_of_exits: Any, poolers: Sequence[int], classifiers: Sequence[int], weights: str
) -> None:
    tensors = tensors_of(poolers, classifiers)
    folder = write(tmp_path, tensors, num_output_layers=said_of_exits)
    if weights == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / weights)
    loaded = elasticbert.load(folder)
    assert loaded.config.exits_after == tuple(layer + 1 for layer in poolers) and not loaded.network.training
    assert loaded.classes == ("negative", "positive") and loaded.network.exits == len(poolers)
    sentences = ["good films!", "bad", "ungood film"]
    tokens = torch.from_numpy(loaded.pieces.encode(sentences, 10))
    logits = loaded.network.forward_exits(tokens)
    for row, sentence in enumerate(sentences):
        alone = loaded.pieces.encode([sentence], 10)[0].tolist()
        wanted = by_hand(tensors, alone, poolers, classifiers)
        for exit_, numbers in zip(logits, wanted, strict=True):
            assert np.allclose(exit_[row].numpy(), numbers, atol=1e-5), "padding must not matter either"


@torch.no_grad()
def test_slices_make_up_the_whole_padding_and_all(tmp_path: Path) -> None:
    loaded = elasticbert.load(write(tmp_path))
    tokens = torch.from_numpy(loaded.pieces.encode(["good films!", "bad"], 10))
    whole = loaded.network.forward_exits(tokens)
    first, feature = loaded.network.slice(1, 2)(tokens)
    last, nothing = loaded.network.slice(3, 3)(feature)
    assert nothing is None
    for one, other in zip(whole, [*first, *last], strict=True):
        torch.testing.assert_close(one, other)


def test_halves_are_widened_and_classes_without_names_are_numbered(tmp_path: Path) -> None:
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors_of().items()}
    loaded = elasticbert.load(write(tmp_path, halves, id2label={"0": "only one"}))
    assert loaded.classes == ("0", "1")
    assert {tensor.dtype for tensor in loaded.network.state_dict().values()} == {torch.float32}


def test_sentences_are_cut_into_berts_pieces(tmp_path: Path) -> None:
    pieces = WordPieces(write(tmp_path) / "vocab.txt")
    assert pieces.pieces("Films, UNGOOD é!") == ["film", "##s", "[UNK]", "un", "##good", "e", "!"]
    assert pieces.pieces("[SEP] filmy") == ["[UNK]", "[UNK]", "[UNK]", "[UNK]"], "a sentence brings no marks of its own"
    assert pieces.encode(["film", "films films films"], 5).tolist() == [[2, 6, 3, 0, 0], [2, 6, 7, 6, 3]]
    assert pieces.encode([""], 5).tolist() == [[2, 3]]
    assert words_of("Don't\tsay \u4e2d\u6587\u00a0$5\u200b0", uncased=False) == [
        "Don", "'", "t", "say", "\u4e2d", "\u6587", "$", "50",
    ]  # fmt: skip
    assert words_of("\u00c9A \u039f\u03a3", uncased=True) == ["ea", "\u03bf\u03c3"]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    assert elasticbert.load(tmp_path).pieces.pieces("Film film") == ["[UNK]", "film"]


class Evil:
    """What a pickle may hold: a call."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("run",)


def without(name: str) -> Tensors:
    return {key: tensor for key, tensor in tensors_of().items() if key != name}


@pytest.mark.parametrize(
    ("changed", "tensors", "words"),
    [
        ({"hidden_size": "8"}, None, "hidden_size is '8'; allowed is a whole number of 1 or more"),
        ({"num_output_layers": 1}, None, "num_output_layers is 1; allowed: 2 to 3"),
        ({"num_output_layers": 4}, None, "num_output_layers is 4"),
        ({"num_output_layers": None}, None, "num_output_layers is None"),
        ({"num_output_layers": [1, 1, 0]}, None, "or of each of 3 layers 0 or 1"),
        ({"num_output_layers": [1, 1]}, None, "or of each of 3 layers 0 or 1"),
        ({"num_attention_heads": 3}, None, "heads divides width"),
        ({"hidden_act": "swish"}, None, "gelu or relu"),
        ({"position_embedding_type": "relative_key"}, None, "allowed is 'absolute'"),
        ({"pad_token_id": 1}, None, "[PAD] is number 0"),
        ({"hidden_dropout_prob": 1.5}, None, "hidden_dropout_prob within"),
        ({"layer_norm_eps": float("nan")}, None, "layer_norm_eps is within"),
        ({"hidden_dropout_prob": "much"}, None, "cannot be built"),
        ({"num_hidden_layers": 2, "num_output_layers": 2}, None, "of a layer or exit that config.json does not have"),
        ({"num_hidden_layers": 10**9, "num_output_layers": 10**9}, None, "tensor encoder.layer.999999999.output"),
        ({"vocab_size": 10**12}, None, "word_embeddings.weight has shape (12, 8); by config.json it is (1000000000000"),
        ({}, without("classifiers.0.weight"), "tensor classifiers.0.weight is missing; allowed is a network trained"),
        ({}, without("elasticbert.encoder.pooler.1.dense.bias"), "tensor encoder.pooler.1.dense.bias is missing"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_contradicts_itself_is_refused_in_one_line(
    tmp_path: Path, changed: dict[str, Any], tensors: Tensors | None, words: str
) -> None:
    write(tmp_path, tensors, **changed)
    with pytest.raises(CheckpointError) as error:
        elasticbert.load(tmp_path)
    assert words in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_weights_that_are_none_are_refused_and_nothing_in_them_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = (write(tmp_path) / "model.safetensors").read_bytes()
    for content in (b"", b"nonsense", good[: len(good) // 2], good[:7]):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match="not weights that can be read safely"):
            elasticbert.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no weights; allowed are model\.safetensors or pytorch_model\.bin"):
        elasticbert.load(tmp_path)
    torch.save({"classifiers.0.weight": Evil()}, "pytorch_model.bin")
    evil = Path("pytorch_model.bin").read_bytes()
    for content in (
        b"",
        b"nonsense",
        evil[: len(evil) // 2],
        evil,
        pickle.dumps(Evil(), protocol=2),
        b"\x80\x02.",
        b"\x80\x02h\t.",
    ):
        Path("pytorch_model.bin").write_bytes(content)
        with pytest.raises(CheckpointError, match="not weights that can be read safely"):
            elasticbert.load(tmp_path)
    assert not Path("run").exists()
    torch.save([1, 2], "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="a table of tensors by name"):
        elasticbert.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("config.json", b"[]", "allowed is an object"), ("config.json", b"{", "not JSON"),
     ("config.json", None, "allowed is a folder with config.json, vocab.txt and weights"),
     ("vocab.txt", None, "cannot be read"), ("vocab.txt", b"\xff", "cannot be read"),
     ("vocab.txt", b"a\nb", "has no line [PAD]"), ("vocab.txt", "\n".join([*WORDS, "more"]).encode(), "13 lines"),
     ("vocab.txt", "\n".join([*WORDS, WORDS[-1], WORDS[-1]]).encode(), "14 lines"),
     ("tokenizer_config.json", b"?", "not JSON")],
)  # fmt: skip
def test_files_that_are_missing_or_damaged_are_named(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    path = write(tmp_path) / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        elasticbert.load(tmp_path)
    assert words in str(error.value) and str(tmp_path) in str(error.value)


# ---- from the command line


def test_a_folder_is_traced_and_what_is_recorded_is_what_it_says(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint")
    lines = ["good films!\t1", "bad film\t0", "ungood\t0", "good\t1"]
    (tmp_path / "some.tsv").write_text("\n".join(lines), encoding="utf-8")
    words = ("trace", str(folder), "--data", str(tmp_path / "some.tsv"), "--out", str(tmp_path / "some.npz"))
    status, output = said(*words, "--device", "cpu")
    assert status == 0 and "4 sentences, 3 exits" in output and "after layers 1, 2, 3 of 3; not calibrated" in output
    trace = ExitTrace.load(tmp_path / "some.npz")
    assert trace.classes == ("negative", "positive") and trace.card.startswith("elasticbert-")
    assert trace.payload_bytes == (6 * 8, 6 * WIDTH * 4, 6 * WIDTH * 4, 0), "six tokens at most"
    loaded = elasticbert.load(folder)
    for row, line in enumerate(lines):
        tokens = loaded.pieces.encode([line.split("\t")[0]], 10)[0].tolist()
        for k, logits in enumerate(by_hand(tensors_of(), tokens, range(LAYERS), range(LAYERS))):
            shares = np.exp(logits) / np.exp(logits).sum()
            assert trace.confidence[row, k] == pytest.approx(shares.max(), abs=1e-5)
            assert trace.prediction[row, k] == shares.argmax()
    assert said(*words, "--images", "2")[0] == 0 and len(ExitTrace.load(tmp_path / "some.npz")) == 2
    (tmp_path / "some.tsv").write_text("good\t2", encoding="utf-8")
    with pytest.raises(UserError, match="has label 2; allowed are 0 to 1, the checkpoint's negative, positive"):
        said(*words)


def test_a_wrong_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "some.tsv").write_text("good\t1", encoding="utf-8")
    words = ("trace", str(tmp_path), "--data", str(tmp_path / "some.tsv"), "--out", str(tmp_path / "some.npz"))
    line = refused(here(*words, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys))
    assert "allowed is a folder with config.json, vocab.txt and weights" in line
