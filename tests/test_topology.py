"""The graph: what is shipped, what is refused, and routes that always lead somewhere."""

from __future__ import annotations

import json
import math
from collections import deque
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from mdi_exit import drawing
from mdi_exit.cli import topologies as command
from mdi_exit.errors import UserError
from mdi_exit.shaping import BandwidthTrace, Shape
from mdi_exit.topology import Link, Topology, TopologyError, WorkerSettings, routes
from mdi_exit.topology_file import built_in, load
from mdi_exit.yamlfile import ConfigError

RING = Topology("ring", "a", ("a", "b", "c"), (Link("a", "b", True), Link("b", "c", True), Link("c", "a", True)))
LINE = Topology("line", "a", ("a", "b", "c", "d"), (Link("a", "b"), Link("b", "c"), Link("c", "d")))


def everything(topology: Topology, exits: int) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(topology.workers, tuple(range(1, exits + 1)))


# ---- shipped


@pytest.mark.parametrize(
    ("name", "workers", "links", "farthest"),
    [
        ("local", 1, 0, 0),
        ("2-node", 2, 1, 1),
        ("3-node-mesh", 3, 3, 1),
        ("3-node-circular", 3, 3, 2),
        ("5-node-mesh", 5, 10, 1),
        ("star", 5, 4, 1),
        ("line", 4, 3, 3),
    ],
)
def test_shipped_topologies_are_what_their_names_say(name: str, workers: int, links: int, farthest: int) -> None:
    topology = load(name)
    assert (topology.name, len(topology.workers), len(topology.links)) == (name, workers, links)
    assert max(topology.hops_from_source().values()) == farthest
    assert topology.description


def test_the_circular_one_is_one_way_and_every_shipped_one_is_known() -> None:
    assert all(link.one_way for link in load("3-node-circular").links)
    names = ("2-node", "3-node-circular", "3-node-mesh", "5-node-mesh", "line", "local", "star")
    assert built_in() == names


# ---- files


def write(folder: Path, text: str) -> Path:
    path = folder / "graph.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_says_everything_of_workers_and_links(tmp_path: Path) -> None:
    topology = load(
        write(
            tmp_path,
            """
            description: three and a half devices
            source: hub
            workers:
              hub:
              n1: {device: jetson-nano, speed: 0.5, slice: 1-3, options: {group_max: 4}}
              n2: {device: devices/mine.yaml, slice: [2, 3]}
            links:
              - [hub, n1]
              - {between: [n1, n2], bandwidth: 2.5 kbit/s, latency_s: 0.002, loss: 0.25}
              - {from: n2, to: hub, bandwidth_bps: null}
            """,
        ),
        shaping=Shape(bandwidth_bps=1e6, latency_s=0.5),
    )
    assert topology.name == "graph"
    assert topology.workers == ("hub", "n1", "n2")
    assert topology.links == (
        Link("hub", "n1", False, Shape(1e6, 0.5, 0.0)),
        Link("n1", "n2", False, Shape(2500.0, 0.002, 0.25)),
        Link("n2", "hub", True, Shape(None, 0.5, 0.0)),
    )
    assert topology.settings_of("hub") == WorkerSettings()
    assert topology.settings_of("n1") == WorkerSettings("jetson-nano", "1-3", 0.5, {"group_max": 4})
    assert topology.settings_of("n2") == WorkerSettings(str(tmp_path / "devices/mine.yaml"), (2, 3))
    assert [link.label for link in topology.links] == ["hub-n1", "n1-n2", "n2->hub"]


def test_a_link_may_have_a_bandwidth_that_changes_and_a_channel(tmp_path: Path) -> None:
    (tmp_path / "lte.txt").write_text("# seconds bit/s\n1.5 2e6\n\n0.5 0 # a tunnel\n")
    text = """
        source: a
        workers: [a, b, c]
        links:
          - {between: [a, b], bandwidth_trace: lte.txt}
          - {between: [b, c], bandwidth: 1 Mbit/s, channel: wifi}
          - {between: [a, c], bandwidth_bps: 3e6, channel: null}
        """
    topology = load(write(tmp_path, text), shaping=Shape(bandwidth_bps=1e6, channel="hall"))
    trace = BandwidthTrace(((1.5, 2e6), (0.5, 0.0)))
    assert [link.shape for link in topology.links] == [
        Shape(bandwidth_trace=trace, channel="hall"),
        Shape(1e6, channel="wifi"),
        Shape(3e6),
    ]
    assert topology.channels() == ("hall", "wifi")
    plain = topology.plain()["links"]
    assert plain[0]["bandwidth_trace"] == [[1.5, 2e6], [0.5, 0.0]] and plain[1]["channel"] == "wifi"
    drawn = run(str(tmp_path / "graph.yaml")).output
    assert "on average 1.5 Mbit/s" in drawn and "on channel wifi" in drawn


def test_a_file_alone_may_leave_a_channels_bandwidth_to_the_experiment(tmp_path: Path) -> None:
    path = write(tmp_path, "source: a\nworkers: [a, b]\nlinks: [{between: [a, b], channel: wifi}]")
    assert "on channel wifi, its bandwidth left to the experiment's links" in run(str(path)).output
    assert load(path, shaping=Shape(1e6)).links[0].shape == Shape(1e6, channel="wifi")


START = "source: a\nworkers: [a, b, c]\n"
REFUSALS = {
    "unknown key": (START + "link: []", "unknown key 'link' (did you mean 'links'?); allowed: name, description,"),
    "unknown key of a worker": (
        "source: a\nworkers: {a: {devise: x}}",
        "workers.a: unknown key 'devise' (did you mean 'device'?); allowed: device, slice, speed, options",
    ),
    "unknown key of a link": (START + "links: [{between: [a, b], lossy: 1}]", "links[0]: unknown key 'lossy'"),
    "unknown option of a worker": (
        "source: a\nworkers: {a: {options: {groupmax: 2}}}",
        "workers.a.options: unknown key 'groupmax' (did you mean 'group_max'?); allowed: group_max,",
    ),
    "wrong option of a worker": (
        "source: a\nworkers: {a: {options: {group_max: 0}}}",
        "workers.a.options.group_max: is 0, but group_max and link_window must be within 1..1024",
    ),
    "wrong type of loss": (
        START + "links: [{between: [a, b], loss: many}]",
        "links[0].loss: is 'many'; allowed: a number",
    ),
    "loss of everything": (START + "links: [{between: [a, b], loss: 1}]", "links[0].loss: is 1; allowed: below 1.0"),
    "negative latency": (START + "links: [{between: [a, b], latency_s: -1}]", "links[0].latency_s: is -1; allowed: 0"),
    "no bandwidth": (
        START + "links: [{between: [a, b], bandwidth_bps: 0}]",
        "links[0].bandwidth_bps: is 0; allowed: above",
    ),
    "endless bandwidth": (START + "links: [{between: [a, b], bandwidth_bps: .inf}]", "allowed: a finite number"),
    "odd bandwidth": (
        START + "links: [{between: [a, b], bandwidth: 3 MB/s}]",
        "links[0].bandwidth: is '3 MB/s'; allowed: a",
    ),
    "two bandwidths": (
        START + "links: [{between: [a, b], bandwidth: 1 bit/s, bandwidth_bps: 1}]",
        "links[0]: gives bandwidth and bandwidth_bps; allowed: one of them",
    ),
    "a bandwidth and a trace": (
        START + "links: [{between: [a, b], bandwidth: 1 bit/s, bandwidth_trace: fine.txt}]",
        "links[0]: gives bandwidth and bandwidth_trace; allowed: one of them",
    ),
    "no such trace": (
        START + "links: [{between: [a, b], bandwidth_trace: nothing.txt}]",
        "links[0].bandwidth_trace: ",
    ),
    "a trace of words": (
        START + "links: [{between: [a, b], bandwidth_trace: words.txt}]",
        "words.txt line 2: is '1 fast'; allowed: seconds and bit/s",
    ),
    "a trace without bandwidth": (
        START + "links: [{between: [a, b], bandwidth_trace: outage.txt}]",
        "outage.txt: a bandwidth trace wants lines of a duration above 0 s and",
    ),
    "a channel without a bandwidth": (
        START + "links: [{between: [a, b], channel: wifi}]",
        "links[0]: is on channel wifi without a bandwidth; allowed: bandwidth or bandwidth_trace here, or in the exp",
    ),
    "a channel that is no file name": (
        START + "links: [{between: [a, b], channel: .., bandwidth: 1 bit/s}]",
        "links[0]: a channel cannot be called '..'; letters, digits, '-', '_' and '.', at most 64, a letter or digit",
    ),
    "a channel too long for a file name": (
        START + f"links: [{{between: [a, b], channel: {'a' * 65}, bandwidth: 1 bit/s}}]",
        "links[0]: a channel cannot be called 'aaaa",
    ),
    "a worker too long for a file name": (f"source: a\nworkers: [a, {'b' * 65}]", "workers: holds 'bbbb"),
    "negative speed": ("source: a\nworkers: {a: {speed: -1}}", "workers.a.speed: is -1; allowed: above 0"),
    "workers as text": ("source: a\nworkers: a", "workers: is 'a'; allowed: a list of names, or a mapping"),
    "a worker that is a number": ("source: 1\nworkers: [1]", "source: is 1; allowed: text"),
    "a number among workers": ("source: a\nworkers: [a, 1]", "workers: holds 1 as a name; allowed: letters"),
    "a worker with a path for a name": ("source: a\nworkers: [a, ../b]", "workers: holds '../b' as a name"),
    "no workers": ("source: a\nworkers: []", "workers: there are none; allowed: one or more names"),
    "worker twice": ("source: a\nworkers: [a, b, a]", "workers: 'a' is named twice; allowed: each name once"),
    "no source": ("workers: [a]", "source: is missing"),
    "unknown source": ("source: z\nworkers: [a, b]", "source: unknown worker 'z'; allowed: a, b"),
    "self link": (START + "links: [[a, a]]", "links[0]: joins 'a' to itself; allowed: two different workers"),
    "link twice": (
        START + "links: [[a, b], [b, a]]",
        "links[1]: 'b' to 'a' is already links[0]; allowed: each way once",
    ),
    "one way of a link twice": (
        START + "links: [[a, b], {from: b, to: a}]",
        "links[1]: 'b' to 'a' is already links[0]",
    ),
    "unknown worker in a link": (START + "links: [[a, b], [b, x]]", "links[1]: unknown worker 'x'; allowed: a, b, c"),
    "link of three": (START + "links: [[a, b, c]]", "links[0]: has 3 ends; allowed: [a, b], or a mapping"),
    "link of nobody": (START + "links: [{loss: 0.1}]", "links[0]: does not say which two workers it joins; allowed:"),
    "link from only": (START + "links: [{from: a}]", "links[0]: does not say which two workers it joins"),
    "link both forms": (START + "links: [{between: [a, b], from: a, to: c}]", "links[0]: does not say which two"),
    "link as text": (START + "links: [a-b]", "links[0]: is 'a-b'; allowed: [a, b], or a mapping"),
    "one worker cut off": (
        START + "links: [[a, b]]",
        "links: the graph is not connected: c is cut off from the source 'a'",
    ),
    "two workers cut off": (START, "links: the graph is not connected: b, c are cut off from the source 'a'; allowed:"),
    "out of reach": (
        START + "links: [[a, b], {from: c, to: a}]",
        "links: c is out of reach of the source 'a' along the one-way links; allowed: every worker has a way",
    ),
    "no way back": (
        START + "links: [[a, b], {from: a, to: c}]",
        "links: c is without a way back to the source 'a' for results; allowed: every worker has a way",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    text, complaint = REFUSALS[case]
    (tmp_path / "words.txt").write_text("1 1e6\n1 fast\n")
    (tmp_path / "outage.txt").write_text("1 0\n")
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as refusal:
        load(path, shaping=Shape())
    assert str(refusal.value).startswith((f"{path}: ", str(tmp_path)))
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_unknown_names_and_missing_files_list_what_is_shipped(tmp_path: Path) -> None:
    for reference, complaint in (("ring", "no such name 'ring'"), (tmp_path / "x.yaml", "no such file")):
        with pytest.raises(ConfigError, match=complaint) as refusal:
            load(reference)
        assert "allowed: a path to a YAML file, or 2-node, 3-node-circular" in str(refusal.value)


def test_a_graph_made_by_a_program_is_checked_as_well() -> None:
    with pytest.raises(TopologyError, match=r"links\[0\]: joins 'a' to itself"):
        Topology("x", "a", ("a", "b"), (Link("a", "a"),))
    with pytest.raises(TopologyError, match="workers: settings for an unknown worker 'z'"):
        Topology("x", "a", ("a",), (), {"z": WorkerSettings()})


# ---- routes


def test_on_a_one_way_ring_everything_goes_round() -> None:
    route = routes(RING, {"a": (1,), "b": (2,), "c": (3,)}, 3, RING.workers, version=7)
    assert route["a"].toward_segment == ((), ("b",), ("b",))
    assert route["b"].toward_segment == (("c",), (), ("c",))
    assert route["c"].toward_segment == (("a",), ("a",), ())
    assert [route[w].toward_source for w in "abc"] == [(), ("c",), ("a",)]
    assert [route[w].report_to for w in "abc"] == [("c",), ("a",), ("b",)]
    assert route["a"].peers == ("b", "c")
    assert route["a"].version == 7


def test_a_host_hands_on_to_hosts_only() -> None:
    route = routes(LINE, {"a": (1,), "b": (1, 2), "c": (1,), "d": (2,)}, 2, LINE.workers, version=0)
    assert route["b"].toward_segment == (("a", "c"), ())  # b hosts 2 itself, and no neighbour of b does
    assert route["c"].toward_segment == (("b",), ("b", "d"))


def test_results_go_to_whoever_is_nearer_in_the_files_order() -> None:
    links = (Link("a", "b"), Link("b", "c"), Link("a", "d"), Link("d", "e"), Link("e", "c"), Link("e", "b"))
    graph = Topology("x", "a", ("e", "d", "c", "b", "a"), links)
    route = routes(graph, everything(graph, 1), 1, graph.workers, version=0)
    assert route["c"].toward_source == ("b",)  # e is as far from a as c is
    assert route["e"].toward_source == ("d", "b")
    assert route["e"].peers == ("d", "c", "b")


def test_the_dead_are_absent_and_what_they_cut_off_has_no_way() -> None:
    route = routes(LINE, {"a": (1,), "b": (2,), "c": (2,), "d": (3,)}, 3, {"a", "b", "d"}, version=1)
    assert list(route) == ["a", "b", "d"]
    assert route["b"].peers == route["b"].report_to == ("a",)
    assert route["b"].toward_segment == (("a",), (), ())
    assert route["d"].toward_source == route["d"].peers == ()


def test_without_the_source_no_result_has_a_way() -> None:
    route = routes(LINE, everything(LINE, 1), 1, ("b", "c"), version=1)
    assert route["b"].toward_source == route["c"].toward_source == ()


@st.composite
def graphs(draw: st.DrawFn) -> Topology:
    """A graph in which everyone has a way from the source and back: a tree or a one-way ring, and more links."""
    names = draw(st.permutations([f"n{i}" for i in range(draw(st.integers(1, 8)))]))
    links: dict[tuple[str, str], Link] = {}

    def add(a: str, b: str, one_way: bool) -> None:
        taken = (a, b) in links or ((b, a) in links and not (one_way and links[b, a].one_way))
        if a != b and not taken:
            links[a, b] = Link(a, b, one_way)

    if draw(st.booleans()):
        for index in range(1, len(names)):
            add(names[draw(st.integers(0, index - 1))], names[index], False)
    elif len(names) > 1:
        for index, name in enumerate(names):
            add(name, names[(index + 1) % len(names)], True)
    ends = st.sampled_from(names)
    for a, b, one_way in draw(st.lists(st.tuples(ends, ends, st.booleans()), max_size=8)):
        add(a, b, one_way)
    order = draw(st.permutations(names))
    return Topology("drawn", draw(ends), tuple(order), tuple(links.values()))


def hops_between(topology: Topology, alive: list[str], start: str) -> dict[str, int]:
    """Links from `start` to each worker it reaches; written again here, to hold the product's answer against."""
    hops, waiting = {start: 0}, deque([start])
    while waiting:
        n = waiting.popleft()
        for link in topology.links:
            for a, b in ((link.a, link.b), (link.b, link.a))[: 1 if link.one_way else 2]:
                if a == n and b in alive and b not in hops:
                    hops[b] = hops[n] + 1
                    waiting.append(b)
    return hops


@given(graphs(), st.data())
def test_whatever_is_alive_every_hop_of_a_task_or_a_result_leads_nearer(
    topology: Topology, data: st.DataObject
) -> None:
    exits = data.draw(st.integers(1, 4))
    segments = st.lists(st.integers(1, exits), min_size=1, unique=True).map(lambda ks: tuple(sorted(ks)))
    hosted = {worker: data.draw(segments) for worker in topology.workers}
    alive = [w for w in topology.workers if w == topology.source or data.draw(st.booleans())]
    route = routes(topology, hosted, exits, frozenset(alive), version=3)
    assert list(route) == alive
    hops = {worker: hops_between(topology, alive, worker) for worker in alive}
    for n in alive:
        out = [m for m in alive if hops[n].get(m) == 1]
        into = [m for m in alive if hops[m].get(n) == 1]
        assert route[n].report_to == tuple(into)
        assert route[n].peers == tuple(m for m in alive if m in out or m in into)
        home = {m: hops[m].get(topology.source, math.inf) for m in alive}
        nearer = [m for m in out if home[m] < home[n]]
        assert route[n].toward_source == tuple(nearer)
        assert {home[m] for m in nearer} <= {home[n] - 1}  # so the nearest come first in any order
        assert bool(nearer) == (n != topology.source and home[n] < math.inf)
        for k in range(1, exits + 1):
            away = {
                m: min((hops[m].get(h, math.inf) for h in alive if k in hosted[h]), default=math.inf) for m in alive
            }
            wanted = [m for m in out if away[m] == 0 or away[m] < away[n]]
            assert route[n].toward_segment[k - 1] == tuple(wanted)
            assert wanted or away[n] in (0, math.inf)  # who cannot compute it has somebody to hand it to


@given(graphs(), st.data())
def test_news_of_the_source_reach_everybody_once_and_by_as_few_links_as_can_be(
    topology: Topology, data: st.DataObject
) -> None:
    alive = [w for w in topology.workers if w == topology.source or data.draw(st.booleans())]
    route = routes(topology, everything(topology, 1), 1, frozenset(alive), version=0)
    links = tuple(Link(link.a, link.b) for link in topology.links)  # news go against a one-way link, too
    both_ways = Topology(
        "both", topology.source, topology.workers, tuple({frozenset((k.a, k.b)): k for k in links}.values())
    )
    near = hops_between(both_ways, alive, topology.source)
    heard = {topology.source: 0}
    telling = deque([topology.source])
    while telling:
        n = telling.popleft()
        for m in route[n].news_to:
            assert m not in heard and m in route[n].peers
            heard[m] = heard[n] + 1
            telling.append(m)
    assert heard == near


@given(graphs(), st.data())
def test_with_all_alive_any_choice_of_hops_arrives(topology: Topology, data: st.DataObject) -> None:
    host = data.draw(st.sampled_from(topology.workers))
    hosted = {worker: (1, 2) if worker == host else (1,) for worker in topology.workers}
    route = routes(topology, hosted, 2, topology.workers, version=0)
    for start in topology.workers:
        task, result = start, start
        for _ in topology.workers:
            if task != host:
                task = data.draw(st.sampled_from(route[task].toward_segment[1]))
            if result != topology.source:
                result = data.draw(st.sampled_from(route[result].toward_source))
        assert (task, result) == (host, topology.source)


def test_frames_find_the_link_that_carries_them() -> None:
    assert RING.carrier("a", "b") is RING.links[0]
    assert RING.carrier("b", "a") is RING.links[0]  # an acknowledgement, against the link
    assert LINE.carrier("c", "b") is LINE.links[1]
    assert LINE.carrier("a", "c") is None
    slow_back = Topology("x", "a", ("a", "b"), (Link("a", "b", True), Link("b", "a", True, Shape(latency_s=1.0))))
    assert slow_back.carrier("b", "a") is slow_back.links[1]


# ---- drawings and the command


@settings(max_examples=15)  # finding places is what takes long here
@given(graphs())
def test_a_drawing_shows_every_worker_apart_and_keeps_within_bounds(topology: Topology) -> None:
    places = topology.layout()
    assert len({(x, y) for x, y in places.values()}) == len(topology.workers)
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in places.values())


def test_a_text_drawing_marks_the_source_and_the_direction() -> None:
    ring, line = drawing.as_text(load("3-node-circular")), drawing.as_text(load("line"))
    assert "[n1*]" in ring and "[n2]" in ring and "[n3]" in ring
    assert sum(ring.count(head) for head in "<>^") == 3
    assert line.replace("-", "") == "[n1*][n2][n3][n4]"


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    return CliRunner().invoke(app, ["topologies", *arguments])


def test_the_command_lists_what_is_shipped_and_draws_into_a_folder(tmp_path: Path) -> None:
    result = run("--out", str(tmp_path / "new"))
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in built_in())
    assert sorted(path.stem for path in (tmp_path / "new").glob("*.png")) == list(built_in())
    assert (tmp_path / "new" / "star.png").read_bytes().startswith(b"\x89PNG")
    star = json.loads((tmp_path / "new" / "star.json").read_text())
    assert star["source"] == "hub"
    assert star["links"][0]["label"] == "hub-n1"


def test_the_command_shows_a_file_and_refuses_what_is_none(tmp_path: Path) -> None:
    path = write(
        tmp_path, "source: a\nworkers: {a: {device: jetson-nano, speed: 2}, b: }\nlinks: [{between: [a, b], loss: .1}]"
    )
    result = run(str(path))
    assert result.exit_code == 0, result.output
    for text in ("[a*]-", "jetson-nano x2", "10.00% lost", "a (source)"):
        assert text in result.output
    assert isinstance(run("nowhere").exception, UserError)
    assert isinstance(run("local", "--out", str(path)).exception, UserError)
