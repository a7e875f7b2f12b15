"""The closing tables of one run, or of several side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mdi_exit.cli.remarks import remarks
from mdi_exit.policies import OWN_THRESHOLDS
from mdi_exit.report import settled_over

Report = Mapping[str, Any]
Reports = Mapping[str, Report]  # what each run is called, and its report
_NONE = "-"
_ACROSS = 2  # runs side by side in the closing tables; more do not fit into a terminal
_CELL = 20  # characters of a heading beside others, so that two runs fit into 80; longer names take several lines
_TROUBLES = ("shed", "failed", "lost")
_WINDOW = (
    "A window is how many groups of tasks a link may have under way, each until it is acknowledged: 1 unless an "
    "experiment says otherwise (worker: {link_window: 4}). Where it binds, latency limits the rate."
)


def tables(reports: Reports) -> list[RenderableType]:
    """Everything worth seeing of these runs, in reading order."""
    shown: list[RenderableType] = []
    names = list(reports)
    for first in range(0, len(names), _ACROSS):
        few = {name: reports[name] for name in names[first : first + _ACROSS]}
        shown += [
            _titled("Summary", summary(few)),
            _titled("Per exit: its share of the answers, and how many of them are right", exits(few)),
        ]
    compared = {name: report["optimum"] for name, report in reports.items() if report.get("optimum")}
    if compared:
        shown.append(_titled("Beside the best that any policy could do (the fluid bound)", beside_best(compared)))
        shown += [line for found in compared.values() for line in _limits(found)]
    for name, report in reports.items():
        suffix = f", {name}" if len(reports) > 1 else ""
        meaning = "mean queues, time for each task"
        shown.append(_titled(f"Per worker{suffix} ({meaning})", workers(report)))
        if report["links"]:
            shown.append(_titled(f"Per link{suffix}", links(report)))
        shown += remarks(report)
    return shown


def repeated(reports: Reports, spread: Mapping[str, Mapping[str, float]]) -> list[RenderableType]:
    """The same of one experiment over several seeds: how they differ, and what is to be known of each."""
    table = _table("", "mean", "std. dev.", "lowest", "highest")
    first = next(iter(reports.values()))
    for name, (label, form) in _SPREAD.items():
        row = [spread[name][key] for key in ("mean", "deviation", "low", "high")] if name in spread else []
        if any(row) or (row and name not in _TROUBLES):
            table.add_row(label.format(settled_over(dict(first))), *map(form, row))
    compared = [report["optimum"] for report in reports.values() if report.get("optimum")]
    # What binds is much the same for all, and said of the first.
    lines = {line: None for found in compared for line in _limits({**found, "binding": compared[0]["binding"]})}
    lines |= {f"{name}: {line}": None for name, report in reports.items() for line in remarks(report)}
    return [_titled(f"Over {len(reports)} seeds", table), *lines]


def _titled(title: str, table: Table) -> RenderableType:
    return Group(Text(title, style="bold"), table, "")


def plain_console(width: int = 110, **options: Any) -> Console:
    """A console for files and pipes: lines of text, no control codes, the same width everywhere."""
    return Console(width=width, color_system=None, highlight=False, markup=False, **options)


def show(reports: Reports, console: Console) -> None:
    """Print everything worth seeing of these runs. Names may hold brackets, so the console must not know markup."""
    for shown in tables(reports):
        console.print(shown, soft_wrap=isinstance(shown, str))


def summary(reports: Reports) -> Table:
    """What each run amounts to, a column per run."""
    return _side_by_side({name: _summary_cells(report) for name, report in reports.items()})


def _side_by_side(columns: Mapping[str, Mapping[str, str]]) -> Table:
    """A column per run, a row per label that any of them has."""
    table = _beside("", columns)
    for label in dict.fromkeys(label for cells in columns.values() for label in cells):
        table.add_row(label, *(cells.get(label, _NONE) for cells in columns.values()))
    return table


def _summary_cells(report: Report) -> dict[str, str]:
    settled, latency = report["steady"] or {}, report["latency_s"]
    offered = report["offered"] / report["duration_s"] if report["duration_s"] else None
    return {
        "answers per second, all of the run": _number(report["throughput_per_s"]),
        "answers per second, second half": _number(settled.get("throughput_per_s")),
        "accuracy of the answers": _percent(report["accuracy"]),
        "accuracy, second half": _percent(settled.get("accuracy")),
        "accuracy of all that was offered": _percent(report["accuracy_offered"]),
        **_threshold(report),
        "offered per second, all of the run": _number(offered),
        "offered per second, second half": _number(settled.get("offered_per_s")),
        "latency, mean": _ms(latency.get("mean"), 0),
        "latency p50 / p95 / p99": _percentiles(latency),
        "offered = answered+shed+failed+lost": _conservation(report),
        "asked for again / answered twice": f"{report['resubmitted']} / {report['duplicates']}",
        "admission was open / drain": f"{report['duration_s']:.1f} s / {report['drain_s']:.1f} s",
    }


def _threshold(report: Report) -> dict[str, str]:
    """T_e^k, or what the exit rule has in its stead, if that is one number."""
    rule = report.get("experiment", {}).get("exit", {})
    if rule.get("rule") not in OWN_THRESHOLDS:
        return {"exit threshold, mean / at the end": _pair(report["threshold"], "{:.2f}")}
    return {"exit threshold, the rule's own": f"{rule['threshold']:.2f}"} if "threshold" in rule else {}


def _percentiles(latency: Mapping[str, float | None]) -> str:
    each = [latency[share] for share in ("p50", "p95", "p99")]
    return " / ".join(_NONE if value is None else f"{1000 * value:.0f}" for value in each) + " ms"


def _conservation(report: Report) -> str:
    parts = "+".join(str(report[key]) for key in ("completed", "shed", "failed", "lost"))
    return f"{report['offered']} = {parts}"


def exits(reports: Reports) -> Table:
    """Who left at which exit, and how right they were."""
    table = _beside("exit", reports)
    for k in range(len(next(iter(reports.values()))["exits"])):
        cells = []
        for report in reports.values():
            total = sum(report["exits"])
            share, accuracy = _percent(report["exits"][k] / total if total else None), report["exit_accuracy"][k]
            cells.append(share if accuracy is None else f"{share}, {_percent(accuracy)} right")
        table.add_row(str(k + 1), *cells)
    return table


def beside_best(compared: Mapping[str, Mapping[str, Any]]) -> Table:
    """What was reached beside what is possible, a column per run; `compared` holds the reports' `optimum`."""
    columns = {}
    for name, found in compared.items():
        fixed = found["fixed_rate"] or {}
        common, per_exit = fixed.get("best_common", {}), fixed.get("best_per_exit", {})
        cells = {
            f"answers per second, {found.get('answered_over', 'as it settled')}": _number(found["answered_per_s"]),
            "the highest possible with these thresholds": _number(found["rate_per_s"]),
            "share of it": _percent(found["ratio"]),
            "data offered per second": _number(fixed.get("rate_per_s")),
            "accuracy of all that was offered": _percent(fixed.get("accuracy_offered")),
            "with the best common threshold at that rate": _percent(common.get("accuracy")),
            "with the best threshold per exit": _percent(per_exit.get("accuracy")),
        }
        columns[name] = {label: cell for label, cell in cells.items() if cell != _NONE}
    return _side_by_side(columns)


def _limits(found: Mapping[str, Any]) -> list[str]:
    """What stands in the way of more, in words."""
    lines = [f"What limits the rate, and its share: {found['binding']}"] if found["binding"] else []
    if "window " in found["binding"]:
        lines.append(_WINDOW)
    if why := found.get("why"):
        lines.append(f"No highest possible rate is shown: {why}.")
    lines += found.get("notes", ())
    fixed = found["fixed_rate"] or {}
    if fixed and not fixed["possible"]:
        lines.append(f"Not every datum could be answered: {fixed['why']}")
    return [f"{line}\n" for line in lines]


def workers(report: Report) -> Table:
    """What each worker did."""
    headings = ("worker", "slice", "done", "offloaded", "received", "input", "output", "each", "busy", "memory")
    table = _table(*headings)
    for name, row in report["workers"].items():
        table.add_row(
            name,
            _segments(row["slice"]),
            str(row["processed"]),
            str(row["offloaded"]),
            str(row["received"]),
            _number(row["input_queue_mean"]),
            _number(row["output_queue_mean"]),
            _ms(row["compute_delay_s"]),
            _percent(row["utilization"], 0),
            _NONE if row["rss_bytes"] is None else f"{row['rss_bytes'] / 2**20:.0f} MiB",
        )
    return table


def links(report: Report) -> Table:
    """What crossed each link."""
    table = _table("link", "tasks", "payload", "each", "refused", "undelivered")
    for name, row in report["links"].items():
        cells = (f"{row['bytes'] / 1e6:.2f} MB", _ms(row["transfer_delay_s"]))
        table.add_row(name, str(row["tasks"]), *cells, str(row["refused"]), str(row["undelivered"]))
    return table


def _beside(first: str, columns: Collection[str]) -> Table:
    """A table with a column per run."""
    table = _table(first, *columns)
    for column in table.columns[1:] if len(columns) > 1 else ():
        column.max_width, column.overflow = _CELL, "fold"
    return table


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}"


def _percent(share: float | None, digits: int = 1) -> str:
    return _NONE if share is None else f"{100 * share:.{digits}f} %"


def _ms(seconds: float | None, digits: int = 1) -> str:
    return _NONE if seconds is None else f"{1000 * seconds:.{digits}f} ms"


def _pair(values: Mapping[str, float], form: str) -> str:
    return " / ".join(form.format(values[key]) for key in ("mean", "final"))


_SPREAD: Mapping[str, tuple[str, Callable[[float], str]]] = {  # of a report's `spread`: label and how to write it
    "throughput_per_s": ("answers per second, {}", _number),
    "ratio": ("share of the highest possible rate", lambda share: _percent(share, 2)),
    "accuracy": ("accuracy of the answers", lambda share: _percent(share, 2)),
    "accuracy_offered": ("accuracy of all that was offered", lambda share: _percent(share, 2)),
    "latency_mean_s": ("latency, mean", _ms),
    "latency_p50_s": ("latency p50", _ms),
    "latency_p99_s": ("latency p99", _ms),
    "offered": ("images offered", _number),
    **{name: (f"of those {name}", _number) for name in _TROUBLES},
}


def _segments(segments: list[int]) -> str:
    return f"{segments[0]}-{segments[-1]}" if len(segments) > 1 else ", ".join(map(str, segments))
