"""Who imports whom: the source files as test_tidy.py sees them, and the rules on their imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# Which third-party library may be imported where: a module, or a package and all in it.
HOMES: Mapping[str, tuple[str, ...]] = {
    "networkx": ("mdi_exit.topology",),
    "msgpack": ("mdi_exit.wire",),
    "ray": ("mdi_exit.runtime",),
    "zmq": ("mdi_exit.runtime",),
    "highspy": ("mdi_exit.analysis.linear",),
    "torch": ("mdi_exit.models", "mdi_exit.training", "mdi_exit.compute.torch_runner", "mdi_exit.compute.export"),
    "onnx": ("mdi_exit.compute",),
    "onnxruntime": ("mdi_exit.compute",),
    "safetensors": ("mdi_exit.models", "mdi_exit.config"),
    "typer": ("mdi_exit.cli",),
    "pooch": ("mdi_exit.public_sets",),
}
# Clocks, sockets, threads, files, logs and unseeded randomness belong to the drivers of the core.
WORLDLY = ("asyncio", "concurrent", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "queue", "secrets",
           "select", "shutil", "socket", "subprocess", "sys", "tempfile", "threading", "time", "uuid")  # fmt: skip
# Which of our own packages must not know which others.
STRANGERS: Mapping[str, tuple[str, ...]] = {
    "mdi_exit.models": ("mdi_exit.core", "mdi_exit.policies", "mdi_exit.runtime", "mdi_exit.simulation"),
    "mdi_exit.training": ("mdi_exit.core", "mdi_exit.policies", "mdi_exit.runtime", "mdi_exit.simulation"),
    # A card is plain data, and says which of a device's times are the network's.
    "mdi_exit.simulation": ("mdi_exit.models.build", "mdi_exit.models.checkpoint", "mdi_exit.models.multi_exit",
                            "mdi_exit.training", "mdi_exit.compute", "mdi_exit.runtime"),
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One Python file: its dotted name, its text, its syntax tree."""

    module: str
    text: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def inside(self, *packages: str) -> bool:
        return _within(self.module, *packages)


def read(path: Path, root: Path) -> Source:
    """Return the file at `path` as a Source named relative to `root`."""
    parts = path.relative_to(root).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    return Source(".".join(parts[:-1] if is_package else parts), path.read_text(encoding="utf-8"), is_package)


# ---- imports


def imports(source: Source, top_level_only: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all that is imported; `from a import b` gives a.b, relative names made absolute."""
    for node in _outside_functions(source.tree) if top_level_only else ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = source.module.split(".")
                package = parts[: len(parts) - node.level + source.is_package]
                base = ".".join([*package, *([base] if base else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from _outside_functions(node)


def misplaced_imports(source: Source) -> list[str]:
    """Find libraries imported away from their home, and packages of ours that know what they must not."""
    found = []
    for line, name in imports(source):
        top, where = name.split(".")[0], f"{source.module}:{line}: imports {name}"
        homes = HOMES.get(top, ("mdi_exit",))
        if source.inside("mdi_exit") and not source.inside(*homes):
            found.append(f"{where}; {top} is for {', '.join(homes)} only")
        if source.inside("mdi_exit.core") and not (_pure(top) or _within(name, "mdi_exit.core")):
            found.append(f"{where}; core knows core and the pure part of the standard library")
        known = _pure(top) or _within(name, "mdi_exit.core", "mdi_exit.policies")
        if source.inside("mdi_exit.policies") and not known:
            found.append(f"{where}; policies know policies, core and the pure part of the standard library")
        if source.inside("mdi_exit.simulation") and top in WORLDLY:
            found.append(f"{where}; time is virtual and chance is seeded here")
        for package, strangers in STRANGERS.items():
            if source.inside(package) and _within(name, *strangers):
                found.append(f"{where}; {package} must not know it")
    return found


def _pure(top: str) -> bool:
    return top in sys.stdlib_module_names and top not in WORLDLY


def _within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def import_graph(sources: list[Source], top_level_only: bool) -> dict[str, set[str]]:
    """Return which modules importing a module brings in at once: ours by module, others by their top name."""
    ours = {source.module for source in sources}
    graph: dict[str, set[str]] = {}
    for source in sources:
        targets = graph[source.module] = set(_with_parents(source.module)[:-1])
        for _, name in imports(source, top_level_only):
            module = name if name in ours else name.rpartition(".")[0]
            targets.update([name.split(".")[0]] if module not in ours else _with_parents(module))
    return graph


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def path_to(graph: Mapping[str, set[str]], start: str, target: str) -> list[str] | None:
    """Return a chain of imports from `start` to `target`, or None."""
    chains, seen = [[start]], {start}
    for chain in chains:
        for name in sorted(graph.get(chain[-1], ())):
            if name == target:
                return [*chain, name]
            if name not in seen:
                seen.add(name)
                chains.append([*chain, name])
    return None
