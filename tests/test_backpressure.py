"""Back-pressure, with prices and without, and the rules of admission and exit that go with it."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from mdi_exit.config.load import load_experiment
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import ANY_SHARE, ExitReading, Limits, Prices, Routes, Way, WorkerOptions
from mdi_exit.core.views import ExitDecision
from mdi_exit.policies.backpressure import BackPressure, DualBackPressure
from mdi_exit.policies.control import FillQueue, PiControl
from mdi_exit.policies.exit import DriftPlusPenalty

from .worlds import EXITS, SURE, UNSURE, admit, done, mesh_world, of, only, report, task, worker

RNG = random.Random(0)
ALL = (1.0, 1.0, 1.0)  # a share of a way that nothing holds back


@dataclass
class Queue:
    tasks: dict[int, int]
    crossed: int = 0

    def __len__(self) -> int:
        return sum(self.tasks.values())

    @property
    def counts(self) -> list[int]:
        return [self.tasks.get(k, 0) for k in (1, 2, 3)]

    def hops(self, k: int) -> int:
        return self.crossed


@dataclass
class Neighbour:
    """A NeighbourView."""

    name: str = "m"
    accepts: tuple[int, ...] = (1, 2, 3)
    tasks: dict[int, int] = field(default_factory=dict)
    delay_s: float = 0.01
    round_trip_s: float = 0.0
    sent: int = 0
    quarantined: bool = False

    @property
    def backlogs(self) -> list[int]:
        return [self.tasks.get(k, 0) for k in (1, 2, 3)]

    @property
    def handed(self) -> list[int]:
        return [self.sent] * 3

    def segment_delay_s(self, k: int) -> float:
        return self.delay_s


@dataclass
class Worker:
    """A WorkerView; K = 3."""

    waiting: dict[int, int]
    hosted: tuple[int, ...] = (1, 2, 3)
    pi: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    air: Way | None = None
    sending: float = 0.0
    trip_s: float = 0.0
    dealt_of: tuple[float, float] = (0.0, 0.0)
    toward: tuple[Neighbour, ...] = ()
    ways: Mapping[str, Way] = field(default_factory=dict)  # beside that to m
    continuing: float = 0.5
    beside_s: float = 0.0
    overtaken: Mapping[int, int] = field(default_factory=dict)
    crossed: int = 0
    together: int = 1
    name: str = "n"
    exits: int = 3

    def __post_init__(self) -> None:
        self.input, self.output, self.either = Queue({}), Queue({}), Queue(self.waiting, self.crossed)

    @property
    def backlogs(self) -> list[int]:
        return [self.waiting.get(k, 0) for k in (1, 2, 3)]

    @property
    def memo(self) -> dict[str, tuple[float, int | None]]:
        return {}

    def continuation(self, k: int) -> float:
        return self.continuing

    def segment_delay_s(self, k: int) -> float:
        return 0.01

    def group(self, k: int) -> int:
        return self.together

    def prices(self, name: str) -> tuple[float, ...]:
        return self.pi.get(name, (0.0, 0.0, 0.0))

    def since_oldest(self, k: int) -> int:
        return self.overtaken.get(k, 0)

    def way(self, neighbour: str) -> Way | None:
        return self.ways.get(neighbour, self.air)

    def neighbours_toward(self, k: int) -> tuple[Neighbour, ...]:
        return self.toward

    def air_use(self, channel: str) -> tuple[float, float]:
        return self.sending, self.trip_s

    def dealt(self, neighbour: str, k: int) -> tuple[float, float]:
        handed, in_all = self.dealt_of
        return in_all - handed if neighbour == self.name else handed, in_all


def runs(policy: Any, view: Worker) -> int | None:
    answer: int | None = policy.next_to_run(view)
    return answer


def sends(policy: Any, view: Worker, neighbour: Neighbour) -> int | None:
    answer: int | None = policy.next_to_send(view, neighbour, RNG)
    return answer


class TestBackPressure:
    def test_a_link_takes_the_segment_with_the_largest_difference_per_second(self) -> None:
        assert sends(BackPressure(), Worker({1: 5, 2: 9}), Neighbour(tasks={1: 0, 2: 6})) == 1
        assert sends(BackPressure(), Worker({1: 5, 2: 9}), Neighbour(tasks={1: 0, 2: 2})) == 2

    def test_nothing_is_sent_unless_the_queue_here_is_longer_by_more_than_theta(self) -> None:
        assert sends(BackPressure(theta=1), Worker({1: 3}), Neighbour(tasks={1: 2})) is None
        assert sends(BackPressure(theta=0.5), Worker({1: 3}), Neighbour(tasks={1: 2})) == 1

    def test_of_what_is_on_its_way_half_counts(self) -> None:
        for sent, answer in ((2, 1), (6, None)):
            assert sends(BackPressure(theta=1), Worker({1: 5}), Neighbour(tasks={1: 1}, sent=sent)) == answer

    def test_a_hand_over_is_worth_more_than_computing_while_it_is_handled(self) -> None:
        there = Neighbour(tasks={3: 4})
        for beside_s, answer in ((0.0, 3), (0.001, 3), (0.003, None)):  # computing relieves by 20 in 10 ms
            for policy in (BackPressure(), DualBackPressure(kappa=0)):
                assert sends(policy, Worker({3: 10}, beside_s=beside_s), there) == answer

    def test_a_task_that_was_handed_here_is_dearer_to_hand_on(self) -> None:
        there = Neighbour(tasks={3: 4})
        for crossed, answer in ((0, 3), (1, 3), (2, None)):
            assert sends(BackPressure(), Worker({3: 10}, beside_s=0.001, crossed=crossed), there) == answer

    def test_a_last_task_that_cannot_be_computed_here_leaves(self) -> None:
        assert sends(BackPressure(), Worker({3: 1}, hosted=(1, 2)), Neighbour()) == 3
        assert sends(BackPressure(), Worker({3: 1}), Neighbour()) is None

    def test_the_deepest_segment_runs_first_or_the_one_that_relieves_most(self) -> None:
        assert runs(BackPressure(), Worker({1: 9, 2: 1})) == 2
        assert runs(BackPressure(service="max_weight"), Worker({1: 9, 2: 1})) == 1

    def test_a_worker_rests_rather_than_lengthen_a_queue_for_links(self) -> None:
        policy = BackPressure(service="max_weight")
        assert runs(policy, Worker({1: 3, 2: 9}, hosted=(1,))) is None
        assert runs(policy, Worker({1: 3, 2: 5}, hosted=(1,))) == 1
        assert runs(policy, Worker({1: 3}, hosted=(1,))) == 1

    def test_a_nonsensical_option_is_refused(self) -> None:
        for wrong in ({"theta": -1.0}, {"kappa": -1.0}, {"price_scale": -1.0}):
            with pytest.raises(ValueError, match="must not be negative"):
                DualBackPressure(**wrong)


class TestPrices:
    def test_tasks_go_where_they_cost_less_long_before_queues_say_so(self) -> None:
        view = Worker({1: 1}, pi={"n": (1.0, 0, 0), "m": (0.5, 0, 0)})
        assert sends(DualBackPressure(), view, Neighbour(tasks={1: 5})) == 1
        assert sends(DualBackPressure(price_scale=0), view, Neighbour(tasks={1: 5})) is None
        dearer = Worker({1: 20}, pi={"n": (0.2, 0, 0), "m": (1.0, 0, 0)})
        assert sends(DualBackPressure(), dearer, Neighbour()) is None

    def test_the_price_of_a_radio_channel_counts_and_so_does_the_airtime(self) -> None:
        pi = {"n": (1.0, 1.0, 0), "m": (0.5, 0.5, 0)}
        dear = Way("n", "m", "air", 10.0, (0.1, 0.04, 0.0), ALL)  # 1.0 and 0.4 of a datum
        assert sends(DualBackPressure(), Worker({1: 9, 2: 3}, pi=pi, air=dear), Neighbour()) == 2
        assert sends(DualBackPressure(), Worker({1: 9}, pi=pi, air=dear), Neighbour()) is None

    def test_a_worker_does_not_crowd_a_channel_with_airtime(self) -> None:
        air = Way("n", "m", "air", 0.0, (0.004, 0.1, 0.0), ALL)
        assert sends(DualBackPressure(), Worker({1: 9}, air=air, sending=0.019), Neighbour()) == 1
        assert sends(DualBackPressure(), Worker({1: 9}, air=air, sending=0.021), Neighbour()) is None
        assert sends(DualBackPressure(), Worker({2: 9}, air=air), Neighbour()) == 2, "however long, alone it may"

    def test_the_room_on_a_channel_is_that_of_the_longest_round_trip_for_every_neighbour(self) -> None:
        """Else whoever is near would wait for ever behind what fills the room of those far away."""
        air = Way("n", "m", "air", 0.0, (0.004, 0.1, 0.0), ALL)
        near = Neighbour(round_trip_s=0.01)
        assert sends(DualBackPressure(), Worker({1: 9}, air=air, sending=0.05, trip_s=0.06), near) == 1
        assert sends(DualBackPressure(), Worker({1: 9}, air=air, sending=0.05, trip_s=0.04), near) is None

    def test_a_way_of_a_channel_gets_little_more_than_its_part_of_the_optimum(self) -> None:
        half = Way("n", "m", "air", 0.0, (0.004, 0.1, 0.0), (0.5, 0.0, 1.0))
        for dealt, answer in (((50, 100), 1), ((53, 100), 1), ((54, 100), None), ((3, 1), 1), ((5, 1), None)):
            view = Worker({1: 9}, air=half, dealt_of=(float(dealt[0]), float(dealt[1])))
            assert sends(DualBackPressure(), view, Neighbour()) == answer, dealt
        assert sends(DualBackPressure(), Worker({2: 9}, air=half), Neighbour()) is None, "the optimum never goes there"
        assert sends(DualBackPressure(), Worker({3: 9}, air=half, dealt_of=(99.0, 100.0)), Neighbour()) == 3

    def test_a_way_of_a_link_is_favoured_until_it_has_had_its_part_and_free_to_take_more(self) -> None:
        way = Way("n", "m", "", 0.0, (), (0.5, 0.0, 0.0))
        for dealt, answer in (((50, 100), 1), ((53, 100), 1), ((54, 100), None)):
            for waiting in (2, 3):
                view = Worker({1: waiting}, air=way, dealt_of=(float(dealt[0]), float(dealt[1])))
                assert sends(DualBackPressure(), view, Neighbour(tasks={1: 1})) == (answer if waiting == 2 else 1)
        assert sends(DualBackPressure(), Worker({2: 2}, air=way), Neighbour(tasks={2: 1})) is None

    def test_the_processor_leaves_to_links_what_is_their_part(self) -> None:
        """Unless it has nothing better to do."""
        way, there = Way("n", "m", "", 0.0, (), (0.5, 0.0, 0.0)), (Neighbour(),)
        for sent, answer in ((50, 1), (47, 1), (46, 2)):
            view = Worker({1: 9, 2: 6}, air=way, toward=there, dealt_of=(float(sent), 100.0))
            assert runs(DualBackPressure(kappa=0), view) == answer
        idle = Worker({1: 1}, air=way, toward=there, dealt_of=(0.0, 100.0))
        assert runs(DualBackPressure(kappa=0), idle) == 1
        broken = Worker({1: 9, 2: 6}, air=way, toward=(Neighbour(quarantined=True),), dealt_of=(46.0, 100.0))
        assert runs(DualBackPressure(kappa=0), broken) == 1, "nobody is there to leave it to"

    def test_beyond_its_part_a_late_segment_is_worth_no_more_to_the_processor_than_an_early_one(self) -> None:
        for channel in ("", "air"):
            way = Way("n", "m", channel, 0.0, (0.004,) * 3, (0.0, 0.0, 1.0))
            for computed, answer in ((3, 3), (4, 1)):  # where links should have them all
                view = Worker({1: 6, 3: 6}, air=way, toward=(Neighbour(),), dealt_of=(10.0 - computed, 10.0))
                assert runs(DualBackPressure(kappa=3), view) == answer, (channel, computed)

    def test_on_a_channel_what_a_way_is_short_of_its_part_counts_for_it(self) -> None:
        def view(handed: float) -> Worker:
            ways = {name: Way("n", name, "air", 0.0, (0.004,) * 3, (0.5,) * 3) for name in "mq"}
            return Worker({1: 9}, ways=ways, dealt_of=(handed, 20.0))

        behind, ahead = Neighbour("m", tasks={1: 11}), Neighbour("q", tasks={1: 2})
        assert (
            sends(DualBackPressure(), view(5.0), behind) == 1 and sends(DualBackPressure(), view(7.0), behind) is None
        )
        assert (
            sends(DualBackPressure(), view(13.0), ahead) == 1 and sends(DualBackPressure(), view(14.0), ahead) is None
        )

    def test_where_no_tasks_are_expected_no_part_is_known_and_nothing_follows_from_it(self) -> None:
        way = Way("n", "m", "air", 0.0, (0.004,) * 3, (ANY_SHARE,) * 3)
        for waiting, answer in ((1, 1), (2, None), (6, None)):
            view = Worker({1: 3}, air=way, dealt_of=(0.0, 20.0))
            assert sends(DualBackPressure(), view, Neighbour(tasks={1: waiting})) == answer
        for toward in ((Neighbour(),), (Neighbour(), Neighbour("q"))):
            view = Worker({1: 6, 3: 6}, air=way, toward=toward, dealt_of=(0.0, 10.0))
            assert runs(DualBackPressure(kappa=3), view) == 3, "the processor is not beyond its part"

    def test_what_was_long_overtaken_has_its_turn(self) -> None:
        for overtaken, answer in ((24, 1), (29, 1), (40, 2)):
            for policy in (BackPressure(service="max_weight"), DualBackPressure(kappa=0)):
                assert runs(policy, Worker({1: 9, 2: 1}, overtaken={2: overtaken})) == answer

    def test_a_whole_group_runs_before_part_of_one_until_that_has_waited_for_long(self) -> None:
        deep = DualBackPressure(kappa=9)
        assert runs(deep, Worker({1: 8, 3: 1}, together=1)) == runs(deep, Worker({1: 3, 3: 1}, together=4)) == 3
        assert runs(deep, Worker({1: 4, 3: 3}, together=4)) == 1
        assert runs(deep, Worker({1: 4, 3: 4}, together=4)) == 3
        for overtaken, answer in ((96, 1), (97, 3)):
            assert runs(deep, Worker({1: 4, 3: 3}, together=4, overtaken={3: overtaken})) == answer

    def test_what_was_overtaken_is_no_reason_to_keep_everything_here(self) -> None:
        for overtaken in (0, 900):
            view = Worker({3: 10}, beside_s=0.001, overtaken={3: overtaken})
            assert sends(DualBackPressure(kappa=0), view, Neighbour(tasks={3: 4})) == 3

    def test_what_is_worked_out_once_is_what_would_be_worked_out_each_time(self) -> None:
        class Forgetful(dict[str, Any]):
            def __setitem__(self, key: str, value: Any) -> None:
                pass

        def digest(forgetful: bool) -> list[Any]:
            world = mesh_world(7, admission=FillQueue(queue_target=9), offloading=DualBackPressure(), data_max=400)
            said: list[Any] = []
            for core in world.workers.values():
                core._delays.beside_s = 0.001
                if forgetful:
                    core.memo = Forgetful()
            world._observe = lambda now, node, event, effects: said.append((now, node, effects))
            world.run(8.0)
            return said

        assert digest(False) == digest(True)

    def test_a_worker_knows_how_many_came_since(self) -> None:
        core = worker("m", offloading=DualBackPressure())
        admit(core, *range(5))  # the first is computed, or on its way
        held = core.backlogs[0]
        assert core.since_oldest(1) == held - 1 and core.since_oldest(2) == 0

    def test_what_cannot_be_computed_here_goes_for_just_the_price_of_its_air(self) -> None:
        pi, air = {"n": (1.0, 0, 0), "m": (0.5, 0, 0)}, Way("n", "m", "air", 10.0, (0.05, 0.0, 0.0), ALL)
        assert sends(DualBackPressure(), Worker({1: 1}, pi=pi, air=air), Neighbour()) is None, "theta holds it back"
        relay = Worker({1: 1}, hosted=(2, 3), pi=pi, air=air)
        assert sends(DualBackPressure(), relay, Neighbour()) == 1, "it must not stay for ever"

    def test_who_cannot_be_reached_leaves_its_part_to_the_others(self) -> None:
        """Else what cannot be computed here would wait for ever beside an idle neighbour."""
        ways = {name: Way("n", name, "air", 0.0, (0.004,) * 3, (share,) * 3) for name, share in
                (("m", 0.0), ("q", 1.0), ("r", 0.25))}  # fmt: skip
        for broken, answer in ((False, None), (True, 1)):
            view = Worker({1: 9}, hosted=(2, 3), ways=ways, toward=(Neighbour("q", quarantined=broken), Neighbour("m")))
            assert sends(DualBackPressure(), view, Neighbour("m")) == answer
        for broken, answer in ((False, None), (True, 1)):  # .5 of 100 are .5 of what the optimum sends to others than r
            half = {**ways, "m": Way("n", "m", "air", 0.0, (0.004,) * 3, (0.5,) * 3)}
            toward = (Neighbour("r", quarantined=broken), Neighbour("m"))
            view = Worker({1: 9}, ways=half, toward=toward, dealt_of=(70.0, 100.0))
            assert sends(DualBackPressure(), view, Neighbour("m")) == answer

    def test_without_prices_the_queues_decide(self) -> None:
        assert sends(DualBackPressure(), Worker({1: 3}), Neighbour()) == 1
        assert runs(DualBackPressure(kappa=0), Worker({1: 9, 2: 1})) == 1

    def test_workers_take_prices_over_and_pass_them_on_once(self) -> None:
        core = worker("m", "q", offloading=DualBackPressure())
        news = ev.PricesReceived(Prices(3, ("n", "m"), ((1, 0.5, 0.2), (0.9, 0.4, 0.1)), ()), "m")
        assert [effect.to for effect in of(core.handle(news, 0.0), fx.SendPrices)] == ["q"]
        assert core.prices("m") == (0.9, 0.4, 0.1) and core.prices("n")[0] == 1
        assert core.prices("newcomer") == core.prices("n"), "neither cheap nor dear"
        assert not of(core.handle(news, 0.0), fx.SendPrices)


def test_prices_are_told_again_to_whoever_is_behind_for_a_second() -> None:
    """Also by a worker that was not to tell it, and although there are ever newer ones: its own teller may be gone."""
    core = worker("m", "q", offloading=DualBackPressure())
    core.handle(ev.RoutesChanged(Routes(1, (("m", "q"),) * EXITS, (), ("m", "q"), ("m", "q"), ("q",))), 0.0)
    again: list[float] = []
    for tick in range(1, 41):
        now = tick / 10
        if tick % 10 == 1:  # new ones every second
            told = core.handle(ev.PricesReceived(Prices(tick, ("n",), ((1.0, 0.5, 0.2),), ()), None), now)
            assert [effect.to for effect in of(told, fx.SendPrices)] == ["q"]
        told = core.handle(ev.ReportReceived(report("m", sequence=tick)), now)
        again += [now] * len(of(told, fx.SendPrices))
    assert again == [1.2, 2.3, 3.4], "reports overtake what is large, so not at once"


def test_who_has_the_prices_is_not_told_again() -> None:
    core = worker("m", offloading=DualBackPressure())
    core.handle(ev.PricesReceived(Prices(1, ("n",), ((1.0, 0.5, 0.2),), ()), None), 0.0)
    core.handle(ev.ReportReceived(report("m", sequence=1)), 0.0)
    holds = dataclasses.replace(report("m", sequence=2), prices_version=1)
    core.handle(ev.ReportReceived(holds), 5.0)
    core.handle(ev.PricesReceived(Prices(2, ("n",), ((1.0, 0.5, 0.2),), ()), None), 5.1)
    behind = dataclasses.replace(holds, sequence=3)
    assert not of(core.handle(ev.ReportReceived(behind), 5.2), fx.SendPrices), "it has just been told"


class TestFillQueue:
    def test_it_keeps_so_many_tasks_waiting_at_the_source_and_admits_each_datum_once(self) -> None:
        waiting: list[int] = []
        world = mesh_world(1, admission=FillQueue(queue_target=5), offloading=BackPressure(), data_max=300)
        world._observe = lambda now, node, *rest: (
            waiting.append(world.workers["a"].backlogs[0]) if node == "a" else None
        )
        world.run(8.0)
        assert world.finished and world.controller.in_flight == 0
        assert max(waiting) == 5

    def test_no_more_than_in_flight_max_are_admitted(self) -> None:
        limits = Limits(in_flight_max=7)
        world = mesh_world(2, admission=FillQueue(queue_target=50), offloading=BackPressure(), limits=limits)
        world.run(0.5)
        assert world.controller.in_flight == 7

    def test_a_target_that_cannot_be_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"queue_target must be within 1\.\.1000"):
            FillQueue(queue_target=0)


@dataclass
class Source:
    """A SourceView; 100 data per s."""

    in_flight: int
    memory: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = (0.8, 0.8)
    interarrival_s: float = 0.01
    input_queue: int = 0
    output_queue: int = 0
    first_segment: int = 0


class TestPiControl:
    def test_the_threshold_rises_while_fewer_data_are_in_flight_than_wanted_and_falls_otherwise(self) -> None:
        policy = PiControl(target_latency_s=0.2)  # N* = 20
        assert policy.adapt(Source(20)).thresholds == (0.8, 0.8)
        up, down = policy.adapt(Source(10)), policy.adapt(Source(400))
        assert up.thresholds[0] == pytest.approx(0.8 + 0.02 * 0.5 + 0.1 * 0.5) and up.memory == pytest.approx((0.81,))
        assert down.thresholds[0] == pytest.approx(0.8 - 0.02 - 0.1), "the error is kept within -1..1"

    def test_what_it_remembers_adds_up_within_its_bounds(self) -> None:
        policy = PiControl(threshold_max=0.9, threshold_min=0.3)
        memory: tuple[float, ...] = ()
        for _ in range(100):
            decision = policy.adapt(Source(0, memory))
            memory = decision.memory
        assert decision.thresholds == (0.9, 0.9) and memory == (0.9,)
        for _ in range(100):
            decision = policy.adapt(Source(1_000, memory))
            memory = decision.memory
        assert decision.thresholds == (0.3, 0.3)


class TestDriftPlusPenalty:
    @dataclass
    class View:
        waiting: int
        exits: int = 3

        def threshold(self, k: int) -> float:
            return 0.9

        @property
        def backlogs(self) -> tuple[int, ...]:
            return (99, self.waiting, 99)  # the queue that going on lengthens is the next segment's

    @pytest.mark.parametrize(("waiting", "leaves_above"), [(0, 0.9), (2, 0.9), (10, 0.75), (40, 0.0)])
    def test_the_threshold_falls_with_the_queue_behind_it(self, waiting: int, leaves_above: float) -> None:
        policy, view = DriftPlusPenalty(v=40), self.View(waiting)
        assert policy.decide(task(), ExitReading(leaves_above, 0, 0.0), view) is ExitDecision.GO_ON
        assert policy.decide(task(), ExitReading(leaves_above + 0.01, 0, 0.0), view) is ExitDecision.LEAVE


def test_a_worker_measures_segments_and_who_goes_on_and_tells_the_source() -> None:
    core = worker("m", offloading=DualBackPressure(), is_source=False, toward_source=("m",))
    run = only(admit(core, 0), fx.RunSegment)
    run = only(done(core, run, UNSURE, duration_s=0.02), fx.RunSegment)
    done(core, run, SURE, duration_s=0.03)
    told = only(core.handle(ev.TimerFired("measure"), 1.0), fx.SendMeasurements)
    measured = told.measurements[0]
    assert told.to == "m" and measured.worker == "n" and measured.compute_s == (0.02, 0.03, 0.0)
    assert measured.computed == (1, 1, 0) and measured.went_on == (1, 0, 0)
    passed_on = core.handle(ev.MeasurementsArrived(told.measurements), 1.0)
    assert passed_on == [told], "those of others travel on as results do"


def test_what_is_on_its_way_to_a_neighbour_does_not_make_it_busy_but_takes_of_the_medium() -> None:
    core = worker("m", offloading=BackPressure(theta=0), options=WorkerOptions(link_window=3))
    admit(core, *range(5))
    neighbour = core.neighbours_toward(1)[0]
    assert len(neighbour.transfers) == 3 and neighbour.backlogs[0] == 0
    air = Way("n", "m", "air", 1.0, (0.002, 0.0, 0.0), ALL)
    core.handle(ev.PricesReceived(Prices(1, ("n", "m"), ((0.0,) * 3,) * 2, (air,)), None), 0.05)
    assert core.air_use("air")[0] == pytest.approx(0.006) and core.air_use("another") == (0, 0)
    core.handle(ev.ReportReceived(report("m", waiting=2)), 0.1)
    assert neighbour.backlogs[0] == 2


def test_what_was_disposed_of_lately_is_counted_while_a_channel_limits_and_fades() -> None:
    core = worker("m", "q", offloading=BackPressure(theta=0), options=WorkerOptions(link_window=2))
    admit(core, 0)
    assert core.dealt("m", 1) == (0, 0), "no channel limits"
    air = Way("n", "m", "air", 1.0, (0.002, 0.0, 0.0), ALL)
    core.handle(ev.PricesReceived(Prices(1, ("n", "m"), ((0.0,) * 3,) * 2, (air,)), None), 0.0)
    core.handle(ev.TasksArrived((task(1), task(2), task(3), task(4)), None, 0), 0.0)
    handed = [core.dealt(name, 1)[0] for name in ("m", "q")]
    assert min(handed) >= 1 and core.dealt("m", 1)[1] == sum(handed) + core.computing
    before = core.dealt("m", 1)
    core.handle(ev.ReportReceived(report("m", waiting=9)), 1.0)
    assert core.dealt("m", 1) == pytest.approx([count / math.e for count in before])


def test_a_channel_s_round_trip_is_the_longest_of_its_neighbours() -> None:
    core = worker("m", "q", "r", offloading=BackPressure(theta=0))
    sent = {effect.to: effect.transfer_id for effect in of(admit(core, *range(4)), fx.SendTasks)}
    for name, trip_s in (("m", 0.03), ("q", 0.05), ("r", 0.9)):
        core.handle(ev.TasksDelivered(name, sent[name], trip_s, report(name)), 1.0)
    ways = tuple(Way("n", name, "air", 1.0, (0.002, 0.0, 0.0), ALL) for name in ("m", "q"))
    core.handle(ev.PricesReceived(Prices(1, ("n",), ((0.0,) * 3,), ways), None), 1.0)
    assert core.air_use("air")[1] == 0.05
    unused = Way("n", "q", "air", 1.0, (0.002, 0.0, 0.0), (0.0, 0.0, 0.0))
    while (last := core.neighbours_toward(1)[1]).transfers:  # q's; what comes back from it is not sent again
        core.handle(ev.TasksRefused("q", next(iter(last.transfers)), report("q", sequence=9)), 1.1)
    core.handle(ev.PricesReceived(Prices(2, ("n",), ((0.0,) * 3,), (ways[0], unused)), None), 1.2)
    assert core.air_use("air")[1] == 0.03, "who is never sent anything is not waited for"


def test_what_a_task_takes_of_a_link_is_told_from_what_it_waited_for_others() -> None:
    options = WorkerOptions(link_window=2)
    core = worker("m", offloading=BackPressure(theta=0), options=options)
    sent = of(admit(core, *range(4)), fx.SendTasks)
    assert [effect.transfer_id for effect in sent] == [1, 2]
    for transfer_id, now in ((1, 0.010), (2, 0.014)):
        core.handle(ev.TasksDelivered("m", transfer_id, now, report("m", sequence=transfer_id)), now)
    neighbour = core.neighbours_toward(1)[0]
    first_s, second_s = 0.010 / 2, 0.004
    assert neighbour.segment_delay_s(1) == pytest.approx(first_s + 0.1 * (second_s - first_s))


class TestKappa:
    def test_it_grows_with_the_queue_at_the_source_unless_it_is_given(self) -> None:
        settings = {"admission": {"rule": "fill_queue", "queue_target": 48}}
        found = load_experiment("near-optimal", settings).offloading
        assert found == DualBackPressure(kappa=5 * 48 / 9) == DualBackPressure().at(48)
        given = load_experiment("near-optimal", {**settings, "offloading": {"rule": "dual_backpressure", "kappa": 3}})
        assert given.offloading == DualBackPressure(kappa=3)
        assert DualBackPressure().at(0) == DualBackPressure(kappa=5.0)
