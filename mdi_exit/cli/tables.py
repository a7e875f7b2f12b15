"""The closing tables of one run, or of several side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

Report = Mapping[str, Any]
Reports = Mapping[str, Report]  # what each run is called, and its report
_NONE = "-"
_PACE_MISSED_MAX = 0.01  # a run whose host missed the devices' pace more often is not what it says


def tables(reports: Reports) -> list[RenderableType]:
    """Everything worth seeing of these runs, in reading order."""
    shown = [
        _titled("Summary", summary(reports)),
        _titled("Per exit: its share of the answers, and how many of them are right", exits(reports)),
    ]
    compared = {name: report["optimum"] for name, report in reports.items() if report.get("optimum")}
    if compared:
        shown.append(_titled("Beside the best that any policy could do (the fluid bound)", beside_best(compared)))
        shown += [line for found in compared.values() for line in _limits(found)]
    for name, report in reports.items():
        suffix = f", {name}" if len(reports) > 1 else ""
        meaning = "input, output: mean lengths of its queues; each: time per task"
        shown.append(_titled(f"Per worker{suffix} ({meaning})", workers(report)))
        if report["links"]:
            shown.append(_titled(f"Per link{suffix}", links(report)))
        shown += remarks(report)
    return shown


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
    table = _table("", *reports)
    lines: dict[str, list[str]] = {}
    for report in reports.values():
        for label, cell in _summary_cells(report).items():
            lines.setdefault(label, []).append(cell)
    for label, cells in lines.items():
        table.add_row(label, *cells)
    return table


def _summary_cells(report: Report) -> dict[str, str]:
    settled, latency = report["steady"] or {}, report["latency_s"]
    return {
        "answers per second, all of the run": _number(report["throughput_per_s"]),
        "answers per second, second half": _number(settled.get("throughput_per_s")),
        "accuracy of the answers": _percent(report["accuracy"]),
        "accuracy, second half": _percent(settled.get("accuracy")),
        "accuracy of all that was offered": _percent(report["accuracy_offered"]),
        "exit threshold, mean / at the end": _pair(report["threshold"], "{:.2f}"),
        "time between images, mean / at the end": _pair(report["interarrival_s"], "{:.1f} ms", 1000),
        "latency p50 / p95 / p99": " / ".join(_ms(latency[share], 0) for share in ("p50", "p95", "p99")),
        "offered = answered+shed+failed+lost": _conservation(report),
        "asked for again / answered twice": f"{report['resubmitted']} / {report['duplicates']}",
        "admission was open / drain": f"{report['duration_s']:.1f} s / {report['drain_s']:.1f} s",
    }


def _conservation(report: Report) -> str:
    parts = "+".join(str(report[key]) for key in ("completed", "shed", "failed", "lost"))
    return f"{report['offered']} = {parts}"


def exits(reports: Reports) -> Table:
    """Who left at which exit, and how right they were."""
    table = _table("exit", *reports)
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
    table = _table("", *compared)
    lines: dict[str, list[str]] = {}
    for found in compared.values():
        fixed = found["fixed_rate"] or {}
        common, per_exit = fixed.get("best_common", {}), fixed.get("best_per_exit", {})
        cells = {
            "answers per second": _number(found["answered_per_s"]),
            "the highest possible with these thresholds": _number(found["rate_per_s"]),
            "share of it": _percent(found["ratio"]),
            "data offered per second": _number(fixed.get("rate_per_s")),
            "accuracy of all that was offered": _percent(fixed.get("accuracy_offered")),
            "with the best common threshold at that rate": _percent(common.get("accuracy")),
            "with the best threshold per exit": _percent(per_exit.get("accuracy")),
        }
        for label, cell in cells.items():
            lines.setdefault(label, []).append(cell)
    for label, row in lines.items():
        if set(row) != {_NONE}:
            table.add_row(label, *row)
    return table


def _limits(found: Mapping[str, Any]) -> list[str]:
    """What stands in the way of more, in words."""
    lines = [f"What limits the rate, and its share: {found['binding']}"] if found["binding"] else []
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


def remarks(report: Report) -> list[str]:
    """What a reader must know before believing the figures."""
    lines = [
        f"{count} {outcome}: {reason}"
        for outcome, reasons in report["reasons"].items()
        for reason, count in list(reasons.items())[:5]
    ]
    missed = [row["pace_missed"] for row in report["workers"].values() if row["pace_missed"] is not None]
    if missed and max(missed) > _PACE_MISSED_MAX:
        lines.append(
            f"This machine was too slow for its emulated devices in {100 * max(missed):.1f} % of the computations "
            "of one of them: the rates may be too low."
        )
    if report["interrupted"]:
        lines.append("The run was interrupted: these figures are of the part that was done.")
    return lines + list(report.get("notes", ()))


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


def _pair(values: Mapping[str, float], form: str, scale: float = 1) -> str:
    return " / ".join(form.format(scale * values[key]) for key in ("mean", "final"))


def _segments(segments: list[int]) -> str:
    return f"{segments[0]}-{segments[-1]}" if len(segments) > 1 else ", ".join(map(str, segments))
