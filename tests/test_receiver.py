"""What a worker hears of an analog link: noise on codes from noisy neighbours, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from mdi_exit.channel import CLEAN_DB, Channel
from mdi_exit.runtime.receiver import Receiver, no_noise
from mdi_exit.shaping import Shape

CUT, USES = 1, 500


def code(seed: int = 0) -> np.ndarray:
    symbols = np.random.default_rng(seed).normal(0, np.sqrt(0.5), 2 * USES)
    sent = np.append(symbols, CLEAN_DB).astype(np.float32)
    sent.flags.writeable = False  # as what comes off a link
    return sent


def a_receiver(snr_db: float = 3.0, fading: str = "none", seed: int = 0) -> Receiver:
    return Receiver({"far": Channel(snr_db, fading)}, CUT, np.random.default_rng(seed))


def test_codes_from_a_noisy_neighbour_arrive_with_its_snr() -> None:
    sent = [code(1), code(2)]
    heard = a_receiver().hear("far", CUT + 1, sent)
    for one, other in zip(heard, sent, strict=True):
        assert one.shape == other.shape and one.dtype == np.float32 and one[-1] == np.float32(3.0)
        assert float((one - other)[:-1].var()) == pytest.approx(10**-0.3 / 2, rel=0.2)
    assert not np.allclose(heard[0][:-1] - sent[0][:-1], heard[1][:-1] - sent[1][:-1])  # each its own noise


def test_what_crosses_two_noisy_links_has_the_noise_of_both_and_says_so() -> None:
    (once,) = a_receiver(5.0, seed=1).hear("far", CUT + 1, [code()])
    (twice,) = a_receiver(5.0, seed=2).hear("far", CUT + 1, [once])
    assert float(twice[-1]) == pytest.approx(5.0 - 10 * np.log10(2), abs=1e-3)
    assert float((twice - code())[:-1].var()) == pytest.approx(10**-0.5, rel=0.25)


def test_a_fading_link_draws_an_snr_for_each_task() -> None:
    heard = a_receiver(10.0, "rayleigh").hear("far", CUT + 1, [code(seed) for seed in range(20)])
    snr_db = [float(one[-1]) for one in heard]
    assert len(set(snr_db)) == 20
    deviations = [float((one - code(seed))[:-1].std()) for seed, one in enumerate(heard)]
    assert deviations == pytest.approx([10 ** (-each / 20) / np.sqrt(2) for each in snr_db], rel=0.2)


def test_all_else_arrives_as_it_was_sent() -> None:
    sent = [code()]
    assert a_receiver().hear("near", CUT + 1, sent) is sent  # another neighbour
    assert a_receiver().hear("far", CUT, sent) is sent and a_receiver().hear("far", CUT + 2, sent) is sent
    assert no_noise().hear("far", CUT + 1, sent) is sent
    assert Receiver({"far": Channel(0.0)}, None, np.random.default_rng(0)).hear("far", 1, sent) is sent


def test_the_same_generator_hears_the_same() -> None:
    one, same, other = (a_receiver(seed=seed).hear("far", CUT + 1, [code()])[0] for seed in (5, 5, 6))
    assert (one == same).all() and (one != other).any()


@pytest.mark.parametrize(("wrong", "message"), [
    ({"snr_db": 70.0}, "snr_db is 70.0; allowed: -60 to 60 dB"),
    ({"snr_db": 0.0, "fading": "rice"}, "fading is 'rice'; allowed: none, rayleigh"),
    ({"fading": "rayleigh"}, "fading of a link without snr_db"),
])  # fmt: skip
def test_a_link_that_cannot_be_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shape(**wrong)  # type: ignore[arg-type]


def test_noise_alone_holds_nothing_back() -> None:
    assert Shape(snr_db=5.0).transparent and Shape(snr_db=5.0).noise == Channel(5.0) and Shape().noise is None
