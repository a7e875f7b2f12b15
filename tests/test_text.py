"""The text network and its training: what exits may see, what padding must not do, what a few sentences teach."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mdi_exit.errors import UserError
from mdi_exit.models.text import PADDING, UNKNOWN, TextConfig, Vocabulary, text_transformer, words_of
from mdi_exit.training.text import Sentences, TextTraining, batches, read_sentences, record_text, train_text

SMALL = TextConfig(vocabulary=20, classes=2, layers=3, width=8, heads=2, hidden=8, reach=2, tokens=10, dropout=0.0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks so small lose more by sharing out the work than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_words_are_numbered_by_how_often_they_come() -> None:
    vocabulary = Vocabulary(["b b a a a", "It's c!"])
    assert words_of("It's c!") == ["it", "'", "s", "c", "!"]
    assert vocabulary.numbers == {"a": UNKNOWN + 1, "b": UNKNOWN + 2} and len(vocabulary) == 4
    encoded = vocabulary.encode(["A b c", "", "a a a a a"], tokens=4)
    assert encoded.tolist() == [[2, 3, UNKNOWN, PADDING], [UNKNOWN, PADDING, PADDING, PADDING], [2, 2, 2, 2]]


@pytest.mark.parametrize("wrong", [{"width": 9}, {"layers": 0}, {"vocabulary": 1}, {"classes": 1}, {"dropout": 1.0}])
def test_a_network_that_cannot_be_built_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        TextConfig(**{"vocabulary": 20, "classes": 2, **wrong})  # type: ignore[arg-type]


def drawn(seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randint(UNKNOWN, 20, (4, 10))


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    network, tokens = text_transformer(SMALL).eval(), drawn()[:, :6]
    padded = torch.cat([tokens, torch.full((4, 4), PADDING)], dim=1)
    for short, long in zip(network.forward_exits(tokens), network.forward_exits(padded), strict=True):
        torch.testing.assert_close(short, long)


@torch.no_grad()
def test_slices_make_up_the_whole_padding_and_all() -> None:
    network, tokens = text_transformer(SMALL).eval(), drawn()
    tokens[1, 3:] = PADDING
    whole = network.forward_exits(tokens)
    first, feature = network.slice(1, 2)(tokens)
    last, nothing = network.slice(3, 3)(feature)
    assert nothing is None
    for one, other in zip(whole, [*first, *last], strict=True):
        torch.testing.assert_close(one, other)


def test_an_exit_has_read_so_far_and_the_last_has_read_all() -> None:
    network = text_transformer(SMALL).eval()
    embed, first = network.segments[0].children()
    feature = embed(drawn()).detach().requires_grad_()
    through = feature
    for k, layer in enumerate([first, *network.segments[1:]], 1):
        through = layer(through)
        (slope,) = torch.autograd.grad(network.heads[k - 1](through)[:, 0].sum(), feature, retain_graph=True)
        seen = slope.abs().sum(dim=(0, 2)) > 0
        # an exit judges by the first k * reach words, and these have seen k * reach further; the last exit all
        assert seen.nonzero().max() + 1 == (4 * k if k < 3 else 10)


def test_a_batch_holds_sentences_of_about_one_length_and_an_epoch_each_once() -> None:
    tokens = torch.tensor([[1] * n + [PADDING] * (40 - n) for n in range(1, 41)])
    epoch = batches(tokens, 8, torch.Generator().manual_seed(0))
    assert sorted(row for batch in epoch for row in batch.tolist()) == list(range(40))
    assert max(int(batch.max() - batch.min()) for batch in epoch) < 8 + 2 * 4


def sentences(count: int, seed: int) -> Sentences:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    texts = [f"{'good' if label else 'bad'} film {rng.integers(9)} of {rng.integers(9)}" for label in labels]
    return Sentences(tuple(texts), labels)


def test_training_learns_repeats_itself_and_is_recorded() -> None:
    data, held = sentences(100, 1), sentences(40, 2)
    said: list[str] = []
    options = TextTraining(layers=2, epochs=4, batch_size=10, learning_rate=1e-2)
    first, again = (train_text(data, held, options, said.append) for _ in range(2))
    trace = record_text(first, held, ("bad", "good"))
    assert trace.exits == 2 and len(trace) == 40 and min(trace.accuracy()) > 0.9
    other = record_text(again, held, ("bad", "good"))
    assert trace.card == other.card and trace.card.startswith("text_transformer-")
    assert np.array_equal(trace.confidence, other.confidence)
    assert [entry["epoch"] for entry in first.history] == [1, 2, 3, 4] and len(said) == 8
    assert first.epoch in (1, 2, 3, 4) and len(first.temperatures) == 2
    assert trace.payload_bytes == (48 * 8, 48 * 64 * 4, 0)


def test_labels_that_training_has_not_are_refused() -> None:
    data = sentences(20, 1)
    with pytest.raises(UserError, match="0 to 1"):
        train_text(data, Sentences(("good",), np.array([2])), TextTraining(epochs=1), lambda line: None)
    with pytest.raises(UserError, match="0 to 0"):
        train_text(Sentences(("good",), np.array([0])), data, TextTraining(epochs=1), lambda line: None)


def test_sentences_are_read_from_lines_with_tabs(tmp_path: Path) -> None:
    path = tmp_path / "some.tsv"
    path.write_text("a\tb\t1\nc\t0\n", encoding="utf-8")
    read = read_sentences(path)
    assert read.texts == ("a\tb", "c") and read.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"a\t1\nno tab\n", "line 2: allowed is"), (b"a\tyes\n", "line 1"), (b"", "no sentence"), (b"\xff\t1", "read")],
)
def test_a_file_that_holds_no_labelled_sentences_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as refused:
        read_sentences(path)
    assert "bad.tsv" in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_sentences(tmp_path / "none.tsv")
