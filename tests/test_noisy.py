"""The analog link: what the channel does, what encoder and decoder promise, and how their checkpoint is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mdi_exit.channel import CLEAN_DB, WORST_DB, Channel, capacity_bits, noise_deviation, received
from mdi_exit.compute import open_runner, prepare
from mdi_exit.config.load import segment_bytes
from mdi_exit.models import checkpoint
from mdi_exit.models.analog import AnalogBottleneck, transmit
from mdi_exit.models.card import AnalogConfig, BottleneckConfig, Card, CardError, ModelConfig
from mdi_exit.models.files import CheckpointError, resolve
from mdi_exit.training import noisy
from mdi_exit.yamlfile import Place

from .networks import BUNDLED
from .networks import noise as images

SHAPE, USES = (24, 16, 16), 7  # 14 numbers in 4 blocks of 4: not all of them are sent


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def a_link(uses: int = USES, over_db: tuple[float, float] = (-10.0, 20.0)) -> AnalogBottleneck:
    torch.manual_seed(0)
    link = AnalogBottleneck(SHAPE, uses, over_db)
    link.start(features(60))
    return link.eval()


def features(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 24, 4, 4, generator=generator)
    fine = torch.randn(count, *SHAPE, generator=generator)
    return torch.nn.functional.interpolate(coarse, scale_factor=4) + 0.3 * fine + 1.0


def codes(count: int, uses: int) -> np.ndarray:
    code = np.zeros((count, 2 * uses + 1), dtype=np.float32)
    code[:, :-1] = np.sqrt(0.5)  # unit power per complex symbol
    code[:, -1] = CLEAN_DB
    return code


# ---- the channel


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 7.0, 20.0])
def test_the_noise_has_the_variance_that_the_snr_says(snr_db: float) -> None:
    sent = codes(400, 50)
    arrived = received(sent, np.full(400, snr_db, np.float32), np.random.default_rng(0))
    noise = (arrived - sent)[:, :-1]
    power = 2 * float(noise.var())  # of a complex symbol, two real numbers
    assert 10 * math.log10(1.0 / power) == pytest.approx(snr_db, abs=0.15)
    assert abs(float(noise.mean())) < 0.02 * math.sqrt(power) and (arrived[:, -1] == np.float32(snr_db)).all()


def test_each_transmission_gets_the_noise_of_its_own_snr() -> None:
    snr_db = np.array([-10.0, 30.0], np.float32)
    noise = received(codes(2, 2000), snr_db, np.random.default_rng(0)) - codes(2, 2000)
    assert noise[0, :-1].std() / noise[1, :-1].std() == pytest.approx(100.0, rel=0.1)


def test_the_same_generator_gives_the_same_noise_and_tensors_get_the_same_kind() -> None:
    snr_db = np.zeros(50, np.float32)
    one, same = (received(codes(50, 200), snr_db, np.random.default_rng(3)) for _ in range(2))
    assert (one == same).all()
    code = torch.from_numpy(codes(50, 200))
    noise = (transmit(code, torch.zeros(50), torch.Generator().manual_seed(0)) - code)[:, :-1]
    assert float(noise.std()) == pytest.approx(float(noise_deviation(0.0)), rel=0.02)


def test_rayleigh_fading_scales_the_snr_by_an_exponential_gain_of_mean_one() -> None:
    drawn = Channel(5.0, "rayleigh").draw_snr_db(20_000, np.random.default_rng(0))
    gain = 10 ** ((drawn - 5.0) / 10)
    assert gain.mean() == pytest.approx(1.0, abs=0.03)
    assert (gain < math.log(2)).mean() == pytest.approx(0.5, abs=0.02)  # the median of an exponential
    assert drawn.min() >= WORST_DB and drawn.max() <= CLEAN_DB
    assert (Channel(5.0).draw_snr_db(3, np.random.default_rng(0)) == 5.0).all()


def test_dividing_by_the_fade_is_the_channel_at_the_instantaneous_snr() -> None:
    """y = h z + n divided by h, computed with complex numbers, has the noise of the SNR |h|^2 / sigma^2."""
    generator = np.random.default_rng(0)
    h, sigma, many = 0.3 - 0.4j, 0.5, 40_000
    n = sigma * (generator.normal(size=many) + 1j * generator.normal(size=many)) / math.sqrt(2)
    z = np.full(many, 1 + 0j)
    residue = (h * z + n) / h - z
    instantaneous_db = 10 * math.log10(abs(h) ** 2 / sigma**2)
    assert residue.real.std() == pytest.approx(float(noise_deviation(instantaneous_db)), rel=0.02)


def test_capacity_grows_with_the_uses_and_has_no_bound_without_noise() -> None:
    assert capacity_bits(128, 0.0) == pytest.approx(128.0)
    assert capacity_bits(8, 20.0) == pytest.approx(8 * math.log2(101))
    assert capacity_bits(1, math.inf) == math.inf and capacity_bits(4, -math.inf) == 0.0
    with pytest.raises(ValueError, match="0 channel uses; allowed: 1 or more"):
        capacity_bits(0, 10.0)


@pytest.mark.parametrize(("snr_db", "fading", "message"), [
    (float("nan"), "none", "snr_db is nan; allowed: -60 to 60 dB"),
    (61.0, "none", "snr_db is 61"),
    (0.0, "rician", "fading is 'rician'; allowed: none, rayleigh"),
])  # fmt: skip
def test_a_channel_that_cannot_be_is_refused(snr_db: float, fading: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Channel(snr_db, fading)


@pytest.mark.parametrize("shape", [(2, 4), (2, 1), (4,)])
def test_what_is_no_code_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"allowed: \(N, 2B \+ 1\)"):
        received(np.zeros(shape, np.float32), np.zeros(2, np.float32), np.random.default_rng(0))


# ---- encoder and decoder


@pytest.mark.parametrize("uses", [1, 3, USES, 128])
@torch.no_grad()
def test_every_code_has_unit_power_whatever_the_feature(uses: int) -> None:
    link = a_link(uses)
    for scale in (1e-2, 1.0, 1e3):
        code = link.encoder(scale * features(5))
        assert code.shape == (5, 2 * uses + 1) and (code[:, -1] == CLEAN_DB).all()
        torch.testing.assert_close(code[:, :-1].square().sum(1) / uses, torch.ones(5))


@pytest.mark.parametrize("shape", [SHAPE, (32, 8, 8), (64, 4, 4)])  # after segments 1, 2, 3: blocks of 8, 4 and 4
@torch.no_grad()
def test_without_noise_a_link_returns_what_its_uses_can_hold(shape: tuple[int, int, int]) -> None:
    """Features of few dimensions come back but for their scale; of more dimensions than numbers sent they do not."""
    generator = torch.Generator().manual_seed(2)
    basis = torch.randn(4, *shape, generator=generator)
    left = {}
    for uses in (1, 64):
        sent = torch.einsum("nd,dchw->nchw", torch.randn(200, 4, generator=generator), basis)
        link = AnalogBottleneck(shape, uses, (-10.0, 20.0))
        link.start(sent)
        back = link.eval().decoder(link.encoder(sent))
        scale = (back * sent).flatten(1).sum(1) / back.square().flatten(1).sum(1)
        residue = (scale.view(-1, 1, 1, 1) * back - sent).square().flatten(1).sum(1) / sent.square().flatten(1).sum(1)
        left[uses] = float(residue.mean())
    assert left[64] < 0.1 < left[1]


@torch.no_grad()
def test_the_decoder_hears_of_the_snr_and_more_noise_makes_a_worse_feature() -> None:
    link, sent = a_link(64), features(60)
    code = link.encoder(sent)
    errors = []
    for snr_db in (-10.0, 5.0, 40.0):
        arrived = transmit(code, torch.full((60,), snr_db), torch.Generator().manual_seed(0))
        errors.append(float((link.decoder(arrived) - sent).square().mean()))
    assert errors[0] > errors[1] > errors[2]
    other = code.clone()
    other[:, -1] = -10.0
    assert not torch.allclose(link.decoder(code), link.decoder(other))


def test_gradients_flow_through_the_channel_to_encoder_and_decoder() -> None:
    link = a_link().train()
    for name, parameter in link.named_parameters():
        if not parameter.detach().any():  # what starts at nothing would stop what is behind it
            torch.nn.init.normal_(parameter, std=0.01)
        assert parameter.requires_grad, name
    arrived = transmit(link.encoder(features(4)), torch.full((4,), 3.0), torch.Generator().manual_seed(0))
    link.decoder(arrived).square().sum().backward()
    assert [name for name, p in link.named_parameters() if p.grad is None or not float(p.grad.abs().sum())] == []


@pytest.mark.parametrize(("shape", "uses", "over_db", "message"), [
    (SHAPE, 0, (-10.0, 20.0), "uses is 0; allowed: 1 or more"),
    (SHAPE, 4, (20.0, -10.0), "the SNR range is 20 to -10 dB; allowed: from low to high"),
    (SHAPE, 4, (5.0, 5.0), "the SNR range is 5 to 5 dB"),
    (SHAPE, 4, (-10.0, float("nan")), "the SNR range is -10 to nan dB"),
    ((24, 18, 16), 4, (-10.0, 20.0), r"\(24, 18, 16\); allowed: .* multiples of 8"),
    ((24, 6, 8), 4, (-10.0, 20.0), r"\(24, 6, 8\); allowed: .* multiples of 4"),
])  # fmt: skip
def test_a_link_that_cannot_be_built_is_refused(
    shape: tuple[int, int, int], uses: int, over_db: tuple[float, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AnalogBottleneck(shape, uses, over_db)


# ---- training and checkpoint


@pytest.mark.parametrize(("cut", "shape"), [(1, SHAPE), (2, (32, 8, 8))])
def test_training_lowers_the_loss_and_leaves_the_network_alone(cut: int, shape: tuple[int, int, int]) -> None:
    network, _ = checkpoint.load(BUNDLED)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pixels, labels = images(32), np.arange(32) % 10
    cached = noisy.cache_features(network, cut, pixels, labels, mirrored=True, batch_size=20)
    assert cached.features.shape == (2, 32, *shape) and cached.said.shape == (2, 32, 5 - cut, 10)
    with torch.no_grad():
        feature: torch.Tensor | None = torch.from_numpy(pixels).flip(3)
        for k in range(1, cut + 1):
            assert feature is not None
            _, feature = network.run_segment(k, feature)
        assert feature is not None
        torch.testing.assert_close(cached.features[1].float(), feature, rtol=2e-3, atol=2e-3)
        clean = noisy.beyond(noisy.folded(network), cut, feature)
        for one, other in zip(clean, network.forward_exits(torch.from_numpy(pixels).flip(3))[cut:], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    losses: list[float] = []
    options = noisy.NoisyTraining(cut=cut, uses=16, epochs=8, batch_size=16)
    noisy.fit_link(network, cached, options, lambda epoch, loss, link: losses.append(loss))
    assert losses[-1] < losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled network with an untrained link after segment 1, kept as what it adds to the bundled checkpoint."""
    network, card = checkpoint.load(BUNDLED)
    network.bottlenecks["1"] = a_link()
    link = AnalogConfig(1, SHAPE, USES, -10.0, 20.0)
    card = dataclasses.replace(
        card, model=dataclasses.replace(card.model, analog=link), base=BUNDLED, base_sha256=card.weights_sha256
    )
    path = tmp_path_factory.mktemp("linked") / "linked.safetensors"
    checkpoint.save(path, network, card)
    return path


def test_a_checkpoint_with_a_base_holds_what_it_adds_and_loads_whole(linked: Path) -> None:
    base, base_card = checkpoint.load(BUNDLED)
    assert linked.stat().st_size < 2_500_000
    network, card = checkpoint.load(linked)
    assert card.model.analog == AnalogConfig(1, SHAPE, USES, -10.0, 20.0) and card.identity != base_card.identity
    for name, tensor in base.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name
    torch.testing.assert_close(network.bottlenecks["1"].state_dict(), a_link().state_dict(), rtol=1e-2, atol=1e-3)
    whole, alone = (segment_bytes(path, 5, Place("test")) for path in (linked, resolve(BUNDLED)))
    assert whole[0] > alone[0] and whole[1] > alone[1] and whole[2:] == alone[2:]


def test_another_base_than_the_card_s_is_refused(linked: Path, tmp_path: Path) -> None:
    content = linked.read_bytes()
    (tmp_path / "linked.safetensors").write_bytes(content)
    card = Card.load(linked.with_suffix(".json"))
    dataclasses.replace(card, base_sha256=hashlib.sha256(b"another").hexdigest()).save(tmp_path / "linked.json")
    with pytest.raises(CheckpointError, match=r"not the weights of the base that linked\.json names"):
        checkpoint.load(tmp_path / "linked")
    with pytest.raises(CardError, match=r"base is '\.\./x'; allowed: a checkpoint's name"):
        dataclasses.replace(card, base="../x")
    dataclasses.replace(card, base="nowhere").save(tmp_path / "linked.json")
    with pytest.raises(CheckpointError, match="nowhere: no such checkpoint"):
        checkpoint.load(tmp_path / "linked")


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_both_backends_run_the_link_and_hear_its_noise(linked: Path, tmp_path: Path, backend: str) -> None:
    prepared = prepare(linked, backend, tmp_path).carrying((1, 2))
    assert prepared.features.shape(1) == (2 * USES + 1,)
    runner = open_runner(prepared, (1, 2))
    _, code = runner.run(1, images(3))
    assert code is not None and code.shape == (3, 2 * USES + 1)
    network, _ = checkpoint.load(linked)
    noisy_code = received(np.ascontiguousarray(code), np.full(3, -5.0, np.float32), np.random.default_rng(0))
    for each in (code, noisy_code):
        with torch.no_grad():
            logits, _ = network.run_segment(2, torch.tensor(each))
        readings, _ = runner.run(2, each)
        assert [reading.prediction for reading in readings] == logits.argmax(1).tolist()
    assert not np.allclose(code, noisy_code)


@pytest.mark.parametrize(("link", "message"), [
    (AnalogConfig(5, SHAPE, 4, -10.0, 20.0), "model.analog has cut 5; allowed is one of 1 to 4"),
    (AnalogConfig(2, SHAPE, 4, -10.0, 20.0), "model.analog has cut 2"),
    (AnalogConfig(1, SHAPE, 0, -10.0, 20.0), "uses is at least 1"),
    (AnalogConfig(1, SHAPE, 4, 20.0, -10.0), "snr_low_db below snr_high_db"),
])  # fmt: skip
def test_a_card_with_an_impossible_link_is_refused(link: AnalogConfig, message: str) -> None:
    with pytest.raises(CardError, match=message):
        ModelConfig("mobilenet_v2", 32, ("a", "b"), (0.5,) * 3, (0.2,) * 3, (BottleneckConfig(2, 4),), link)
