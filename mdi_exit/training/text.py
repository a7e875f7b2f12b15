"""Train the text network on labelled sentences, calibrate it, record what its exits say.

Everything is held in memory and takes minutes on a processor: thousands of sentences, not millions. The development
sentences choose the epoch and the temperatures; the test sentences are only recorded.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdi_exit import outputs
from mdi_exit.errors import UserError
from mdi_exit.jsonfile import write_json
from mdi_exit.machine import command_line, machine
from mdi_exit.models import elasticbert
from mdi_exit.models.multi_exit import MultiExitNetwork
from mdi_exit.models.text import PADDING, UNKNOWN, TextConfig, Vocabulary, text_transformer
from mdi_exit.softmax import entropy, log_softmax
from mdi_exit.trace import SUFFIX, ExitTrace
from mdi_exit.training import console, optimise
from mdi_exit.training.calibrate import fit_temperatures
from mdi_exit.training.evaluate import accuracies, exit_logits
from mdi_exit.training.record import TraceOptions, payload_bytes

_TOKENS_MAX = 128  # of a sentence, as ElasticBERT's and SplitEE's scripts have it; what is longer is cut
_BATCH = 64  # sentences at once: a BERT's features are large


@dataclass(frozen=True, slots=True)
class Sentences:
    """Labelled sentences; labels are 0 up to the number of classes."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TextTraining:
    """All that decides the weights, beside the sentences. Found by a few trials on the development sentences."""

    layers: int = 12
    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 1e-3  # the schedule's peak
    weight_decay: float = 0.05
    label_smoothing: float = 0.0
    word_dropout: float = 0.25  # share of the words that an epoch does not show
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Trained:
    """A network that was trained, with what belongs to it."""

    network: MultiExitNetwork
    vocabulary: Vocabulary
    config: TextConfig
    temperatures: tuple[float, ...]
    history: list[dict[str, object]]  # an entry per epoch: loss and the development accuracy of every exit
    epoch: int  # whose weights these are


def read_sentences(path: str | Path) -> Sentences:
    """Read lines `sentence<TAB>label`, label a number from 0; raises UserError naming the file and the line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    texts, labels = [], []
    for number, line in enumerate(lines, 1):
        text, tab, label = line.rpartition("\t")
        if not tab or not label.strip().isdecimal():
            raise UserError(f"{path}, line {number}: allowed is a sentence, a tab and a label such as 0 or 1")
        texts.append(text)
        labels.append(int(label))
    if not texts:
        raise UserError(f"{path}: holds no sentence")
    return Sentences(tuple(texts), np.array(labels, dtype=np.int64))


def train_text(
    training: Sentences, development: Sentences, options: TextTraining, say: Callable[[str], None]
) -> Trained:
    """Train all exits jointly, keep the epoch whose exits fit the development sentences best, calibrate it on them."""
    torch.manual_seed(options.seed)
    classes = int(training.labels.max()) + 1
    if classes < 2 or int(development.labels.max()) >= classes:
        raise UserError(f"the training labels are 0 to {classes - 1}: at least 0 and 1, and all of the others' labels")
    vocabulary = Vocabulary(training.texts)
    config = TextConfig(len(vocabulary), classes, options.layers)
    network = text_transformer(config)
    tokens = torch.from_numpy(vocabulary.encode(training.texts, config.tokens))
    labels = torch.from_numpy(training.labels)
    seen = torch.from_numpy(vocabulary.encode(development.texts, config.tokens))
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.0, weight_decay=options.weight_decay)
    generator = torch.Generator().manual_seed(options.seed)
    steps = options.epochs * -(-len(labels) // options.batch_size)
    history: list[dict[str, object]] = []
    best, best_loss, step = copy.deepcopy(network.state_dict()), float("inf"), 0
    for epoch in range(1, options.epochs + 1):
        losses = []
        for rows in batches(tokens, options.batch_size, generator):
            for group in optimiser.param_groups:
                group["lr"] = optimise.learning_rate_at(step, steps, options.learning_rate)
            losses.append(_step(network, optimiser, _shown(tokens[rows], options, generator), labels[rows], options))
            step += 1
        logits = exit_logits(network, seen)
        exact = tuple(_loss(each, development.labels) for each in logits)
        loss = float(np.dot(exact, optimise.exit_weights(config.layers)))
        if loss < best_loss:
            best, best_loss, kept = copy.deepcopy(network.state_dict()), loss, epoch
        shares = accuracies(logits, development.labels)
        history.append({"epoch": epoch, "loss": float(np.mean(losses)), "development_accuracy": shares})
        said = " ".join(f"{100 * share:.1f}" for share in shares)
        say(f"epoch {epoch}/{options.epochs}: loss {np.mean(losses):.3f}, development {loss:.3f}, accuracy (%) {said}")
    network.load_state_dict(best)
    temperatures = fit_temperatures(exit_logits(network, seen), development.labels)
    return Trained(network.eval(), vocabulary, config, temperatures, history, kept)


def _loss(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Cross-entropy at the temperature that suits best: how well an exit orders, not how loud it is, decides."""
    (temperature,) = fit_temperatures(logits[None], labels)
    return float(-np.mean(log_softmax(logits, temperature)[np.arange(len(labels)), labels]))


def _step(
    network: MultiExitNetwork, optimiser: torch.optim.Optimizer, tokens: Tensor, labels: Tensor, options: TextTraining
) -> float:
    logits = network.train().forward_exits(tokens)
    loss = optimise.joint_loss(logits, labels, optimise.exit_weights(network.exits), options.label_smoothing)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def batches(tokens: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """Row numbers of an epoch's batches, in random order; sentences of about one length share a batch."""
    lengths = tokens.ne(PADDING).sum(dim=1) + 4 * torch.rand(len(tokens), generator=generator)
    groups = torch.split(torch.argsort(lengths), size)
    return [groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()]


def _shown(tokens: Tensor, options: TextTraining, generator: torch.Generator) -> Tensor:
    """A batch without the padding that none of its sentences needs, some of its words made unknown."""
    tokens = tokens[:, : int(tokens.ne(PADDING).sum(dim=1).max())]
    hidden = torch.rand(tokens.shape, generator=generator) < options.word_dropout
    return tokens.masked_fill(hidden & tokens.ne(PADDING), UNKNOWN)


def record_text(trained: Trained, sentences: Sentences, classes: tuple[str, ...]) -> ExitTrace:
    """What every exit says about every sentence, temperatures applied. Payloads are those of the longest input."""
    tokens = trained.vocabulary.encode(sentences.texts, trained.config.tokens)
    return _record(trained.network, "text_transformer", tokens, sentences.labels, trained.temperatures, classes)


def _record(
    network: MultiExitNetwork,
    name: str,
    tokens: NDArray[np.int64],
    labels: NDArray[np.int64],
    temperatures: tuple[float, ...],
    classes: tuple[str, ...],
    progress: Callable[[int], None] | None = None,
    batch_size: int = 250,
) -> ExitTrace:
    inputs = torch.from_numpy(tokens)
    logits = exit_logits(network, inputs, batch_size, progress)
    shares = [log_softmax(each, heat) for each, heat in zip(logits, temperatures, strict=True)]
    content = hashlib.sha256()
    for tensor in network.state_dict().values():
        content.update(tensor.cpu().numpy().tobytes())
    heat = ",".join(f"{temperature:.4f}" for temperature in temperatures)
    return ExitTrace(
        confidence=np.stack([np.exp(each.max(axis=1)) for each in shares], axis=1).clip(0, 1).astype(np.float32),
        prediction=logits.argmax(axis=2).T.astype(np.int16),
        entropy=np.stack([entropy(each) for each in shares], axis=1).astype(np.float32),
        label=labels.astype(np.int16),
        payload_bytes=payload_bytes(network, inputs[:1]),
        classes=classes,
        card=f"{name}-{content.hexdigest()[:12]}@{heat}",
    )


def run_text_trace(options: TraceOptions) -> ExitTrace:
    """Record the trace of an ElasticBERT-like checkpoint, a folder, on a file of labelled sentences.

    Its exits keep temperature 1: nothing is known of what it was trained on. Raises UserError.
    """
    device = console.prepare_device(options.device, options.threads)
    outputs.check_file(options.out)
    loaded = elasticbert.load(options.checkpoint)
    said = read_sentences(options.data)
    if int(said.labels.max()) >= loaded.config.classes:
        allowed = f"0 to {loaded.config.classes - 1}, the checkpoint's {', '.join(loaded.classes[:12])}"
        raise UserError(f"{options.data}: has label {said.labels.max()}; allowed are {allowed}")
    if options.images is not None and options.images < len(said.texts):
        chosen = np.sort(np.random.default_rng(options.seed).permutation(len(said.texts))[: options.images])
        said = Sentences(tuple(said.texts[row] for row in chosen), said.labels[chosen])
    tokens = loaded.pieces.encode(said.texts, min(_TOKENS_MAX, loaded.config.tokens))
    network = loaded.network.to(device)
    with console.progress_bar() as bar:
        task = bar.add_task("recording", total=len(tokens))
        said_by = (network, "elasticbert", tokens, said.labels, (1.0,) * network.exits, loaded.classes)
        trace = _record(*said_by, lambda done: bar.update(task, completed=done), _BATCH)
    with outputs.writing(options.out):
        trace.save(options.out)
    shares = ", ".join(f"{100 * share:.2f} %" for share in trace.accuracy())
    print(f"{options.out}: {len(trace)} sentences, {trace.exits} exits, accuracy {shares}")
    layers = ", ".join(map(str, loaded.config.exits_after))
    print(f"Exits after layers {layers} of {loaded.config.layers}; not calibrated.")
    return trace


def run_text_training(data: Path, out: Path, classes: tuple[str, ...], options: TextTraining) -> None:
    """Train on DATA/train.tsv, choose on DATA/dev.tsv, record both dev.tsv and test.tsv.

    Writes dev.trace.npz, test.trace.npz and training.json, which says how they were made and how good each exit is, to
    `out`.
    """
    training, development, test = (read_sentences(data / f"{part}.tsv") for part in ("train", "dev", "test"))
    outputs.check_folder(out)
    console.prepare_device("cpu", 1)  # one thread: a seed then gives the same recording, and more gain little
    trained = train_text(training, development, options, lambda line: print(line, flush=True))
    recorded = {"dev": record_text(trained, development, classes), "test": record_text(trained, test, classes)}
    made: dict[str, Any] = {
        "command": command_line("python benchmarks/split.py"),
        "machine": machine(),
        "options": dataclasses.asdict(options),
        "network": dataclasses.asdict(trained.config),
        "parameters": sum(parameter.numel() for parameter in trained.network.parameters()),
        "epoch_kept": trained.epoch,
        "history": trained.history,
        "temperatures": trained.temperatures,
    }
    for part, trace in recorded.items():
        confidence = [float(mean) for mean in trace.confidence.mean(axis=0)]
        made[part] = {"sentences": len(trace), "accuracy": trace.accuracy(), "confidence": confidence}
        print(f"{part}: accuracy (%) {' '.join(f'{100 * share:.1f}' for share in trace.accuracy())}")
        print(f"{part}: confidence (%) {' '.join(f'{100 * share:.1f}' for share in confidence)}")
    with outputs.writing(out):
        for part, trace in recorded.items():
            trace.save(out / f"{part}{SUFFIX}")
        write_json(out / "training.json", made)
