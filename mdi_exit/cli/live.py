"""Live progress of a run: a display that redraws itself on a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

import psutil
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from mdi_exit.cli.tables import plain_console
from mdi_exit.runtime.record import Progress
from mdi_exit.snapshots import NodeSnapshot, SourceSnapshot

_LINE_S = 2.0  # how often a line is printed where nothing can be redrawn
_DOING = {
    "prepare": "preparing the network",
    "start": "starting the workers",
    "link": "linking the workers",
    "run": "running",
    "drain": "finishing what is under way",
    "collect": "collecting",
}


class LiveDisplay:
    """Shows every `Progress` it is called with. Used as a context; on standard error, so that results can be piped."""

    def __init__(
        self,
        title: str,
        duration_s: float,
        console: Console | None = None,
        announces_first: bool = True,
        shows_threshold: bool = True,
    ) -> None:
        """With `announces_first` it says when the first answer came, counted from this program's start; T_e is shown
        unless the exit rule does without."""
        self.title, self._announces_first, self._shows_threshold = title, announces_first, shows_threshold
        self.first_result_s: float | None = None  # from this program's start to the first answer on screen
        found = console or Console(stderr=True, highlight=False, markup=False)
        self._console = found if found.is_terminal else plain_console(file=found.file)
        self._duration_s = duration_s
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._printed: tuple[str, float] = ("", -_LINE_S)

    def __enter__(self) -> LiveDisplay:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._console.print(self.title)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Show how the run stands."""
        node = progress.source
        answered = node is not None and node.source is not None and node.source.outcomes["completed"] > 0
        if answered and self._announces_first and self.first_result_s is None:
            self.first_result_s = time.time() - psutil.Process().create_time()
            self._console.print(f"{self.first_result_s:5.1f} s after the start of this program: the first answer")
        if self._console.is_terminal:
            self._live.update(_picture(self.title, progress, self._duration_s, self._shows_threshold), refresh=True)
            return
        phase, shown_s = self._printed
        if progress.phase != phase or progress.elapsed_s - shown_s >= _LINE_S:
            self._printed = (progress.phase, progress.elapsed_s)
            self._console.print(_line(progress, self._shows_threshold), soft_wrap=True)


def _line(progress: Progress, shows_threshold: bool) -> str:
    doing = _DOING[progress.phase]
    at_source = progress.source
    if at_source is None or at_source.source is None:
        return f"{progress.elapsed_s:5.1f} s  {doing}"
    source = at_source.source
    nodes = sorted(progress.nodes.items())
    queues = "  ".join(f"{name} {node.input_queue}+{node.output_queue}" for name, node in nodes)
    lost = f"  down: {', '.join(progress.lost)}" if progress.lost else ""
    left = f"{progress.left_s:.0f} s left"
    return f"{progress.elapsed_s:5.1f} s  {doing}, {left}: {_in_words(source, shows_threshold)}  queues {queues}{lost}"


def _in_words(source: SourceSnapshot, shows_threshold: bool) -> str:
    accuracy = "-" if source.accuracy is None else f"{100 * source.accuracy:.1f} %"
    known = source.threshold is not None and shows_threshold
    threshold = f"  threshold {source.threshold:.2f}" if known else ""
    answered = source.outcomes["completed"]
    return f"{source.throughput_per_s:.0f}/s  accuracy {accuracy}{threshold}  {answered} answered"


def _picture(title: str, progress: Progress, duration_s: float, shows_threshold: bool) -> RenderableType:
    done_s = {"run": duration_s - progress.left_s, "drain": duration_s, "collect": duration_s}
    bar = Table.grid(padding=(0, 2))
    completed = max(0.0, done_s.get(progress.phase, 0.0))
    bar.add_row(ProgressBar(total=duration_s, completed=completed, width=37), _waiting(progress))
    head = Group(title, bar)
    node = progress.source
    if node is None or node.source is None:
        return head
    lines: list[RenderableType] = [
        head,
        _in_words(node.source, shows_threshold),
        _bars(node.source),
        _nodes(progress.nodes),
    ]
    if progress.lost:
        lines.append(f"down: {', '.join(progress.lost)}")
    return Group(*lines)


def _waiting(progress: Progress) -> str:
    if progress.phase in ("run", "drain"):
        return f"{_DOING[progress.phase]}, {progress.left_s:.0f} s left"
    return f"{_DOING[progress.phase]}, {progress.elapsed_s:.0f} s"


def _bars(source: SourceSnapshot) -> RenderableType:
    """How many left at each exit, as bars."""
    table = Table.grid(padding=(0, 2))
    total = max(1, sum(source.exits))
    for k, count in enumerate(source.exits, 1):
        table.add_row(f"exit {k}", ProgressBar(total=total, completed=count, width=30), f"{100 * count / total:.0f} %")
    return table


def _nodes(nodes: Mapping[str, NodeSnapshot]) -> RenderableType:
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for number, heading in enumerate(("worker", "input queue", "output queue", "computed", "offloaded", "busy")):
        table.add_column(heading, justify="right" if number else "left")
    for name, node in sorted(nodes.items()):
        counts = (node.input_queue, node.output_queue, node.processed, node.offloaded)
        table.add_row(name, *map(str, counts), f"{100 * node.utilization:.0f} %")
    return table
