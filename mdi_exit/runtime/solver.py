"""Solves for prices beside the source's loop, which must go on answering meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from mdi_exit.core.effects import SolvePrices
from mdi_exit.core.types import Prices
from mdi_exit.runtime.life import Life


class Solver:
    """One thread for one question at a time. `wake` is called, on that thread, when there is an answer to collect."""

    def __init__(self, life: Life, wake: Callable[[], None]) -> None:
        from mdi_exit.analysis.prices import price_solver  # a solver's library: only where prices are made

        features = life.prepared.features
        payload_bytes = [*(features.size_bytes(k) for k in range(features.exits)), 0]
        self._solve = price_solver(life.experiment, life.prepared.card, payload_bytes)
        self._pool = ThreadPoolExecutor(1, "prices")
        self._wake = wake
        self._answer: Future[Prices] | None = None

    def ask(self, asked: SolvePrices) -> None:
        """Begin to solve; nothing else may be asked before the answer was collected."""
        assert self._answer is None, "the core asks one question at a time"
        self._answer = self._pool.submit(self._solve, asked)
        self._answer.add_done_callback(lambda answer: self._wake())

    def collect(self) -> Prices | None:
        """The answer, once it is there. Raises what solving raised: that is a bug of ours."""
        if self._answer is None or not self._answer.done():
            return None
        answer, self._answer = self._answer, None
        return answer.result()

    def stop(self) -> None:
        """Let the thread end; what it still solves nobody will ask for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
