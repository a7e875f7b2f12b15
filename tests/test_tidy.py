"""The house rules, held by a test: what may import what, what is too long, what must never be written.

First each rule is shown to fail on a small bad example, then it is applied to the code. A limit or a list is changed
only in a commit that says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import mdi_exit

from . import tidy, tidy_imports
from .tidy_imports import Source, import_graph, path_to, read

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [read(path, ROOT) for folder in ("mdi_exit", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
CODE = [source for source in SOURCES if source.inside("mdi_exit")]
PURE = [source for source in CODE if source.inside("mdi_exit.core", "mdi_exit.policies")]
VIRTUAL = [*PURE, *(source for source in CODE if source.inside("mdi_exit.simulation", "mdi_exit.fuzzing"))]
# Lines of code: the core is read whole before it is changed, core and simulation in one sitting. A third of the core
# only declares what there is (types, events, effects, views); it serves two families of rules, prices, and farewells.
# The simulation also counts what the runtime itself takes of a device.
CORE_LINES_MAX = 1400
SITTING_LINES_MAX = 1920
# What persons write: the tidy rules spell in two halves what they forbid.
WRITTEN = (".md", ".py", ".sh", ".toml", ".txt", ".yaml")
TEXTS = [ROOT / "Makefile", ROOT / ".ci" / "run", *(path for path in ROOT.iterdir() if path.suffix in WRITTEN)]
for _folder in ("mdi_exit", "benchmarks", "cluster", "docs", "tests"):
    TEXTS += [path for path in (ROOT / _folder).rglob("*") if path.suffix in WRITTEN]

Rule = Callable[[Source], list[str]]
BAD: list[tuple[Rule, str, str]] = [
    (tidy_imports.misplaced_imports, "mdi_exit.core.worker", "import numpy"),
    (tidy_imports.misplaced_imports, "mdi_exit.core.worker", "import time"),
    (tidy_imports.misplaced_imports, "mdi_exit.core.worker", "from mdi_exit.policies import exit"),
    (tidy_imports.misplaced_imports, "mdi_exit.core.worker", "from ..compute import base"),
    (tidy_imports.misplaced_imports, "mdi_exit.policies.exit", "def f():\n    from mdi_exit.models import card"),
    (tidy_imports.misplaced_imports, "mdi_exit.placement", "import networkx as nx"),
    (tidy_imports.misplaced_imports, "mdi_exit.journal", "from msgpack import packb"),
    (tidy_imports.misplaced_imports, "mdi_exit.compute.base", "import ray"),
    (tidy_imports.misplaced_imports, "mdi_exit.compute.onnx_runner", "from torch import nn"),
    (tidy_imports.misplaced_imports, "mdi_exit.simulation.world", "import time"),
    (tidy_imports.misplaced_imports, "mdi_exit.simulation.world", "from mdi_exit.runtime import links"),
    (tidy_imports.misplaced_imports, "mdi_exit.models.build", "import mdi_exit.core.types"),
    (tidy.impurities, "m", "x = hash('a')"),
    (tidy.impurities, "m", "print('a')"),
    (tidy.impurities, "m", "import random\nx = random.random()"),
    (tidy.impurities, "m", "from random import choice"),
    (tidy.impurities, "m", "for x in {1, 2}: pass"),
    (tidy.impurities, "m", "names = set('ab')\nfirst = [n for n in names]"),
    (tidy.impurities, "m", "def f(names: frozenset[str]):\n    return list(names | {'a'})"),
    (tidy.impurities, "m", "class A:\n    def f(self):\n        self.n: set[int] = set()\n        return self.n.pop()"),
    (tidy.impurities, "m", "names = {'a'}\ntext = ','.join(names.union('b'))"),
    (tidy.too_long, "m", "x = 1\n" * 301),
    (tidy.too_long, "m", "def f():\n" + "    x = 1\n" * 60),
    (tidy.swallowed_errors, "m", "try:\n    f()\nexcept:\n    pass"),
    (tidy.swallowed_errors, "m", "try:\n    f()\nexcept (OSError, Exception):\n    pass"),
    (tidy.pickles, "m", "import pickle\npickle.loads(b'')"),
    (tidy.pickles, "m", "from pickle import Unpickler"),
    (tidy.pickles, "m", "from ray import cloudpickle"),
    (tidy.pickles, "m", "import torch\ntorch.load('f', weights_only=False)"),
    (tidy.pickles, "m", "import numpy\nnumpy.load('f', allow_pickle=True)"),
    (tidy.undocumented, "m", "x = 1"),
    (tidy.undocumented, "m", '"""Doc."""\ndef f(): ...'),
    (tidy.undocumented, "m", '"""Doc."""\nclass A: ...'),
]


@pytest.mark.parametrize(("rule", "module", "text"), BAD)
def test_each_rule_finds_what_it_forbids(rule: Rule, module: str, text: str) -> None:
    assert len(rule(Source(module, text))) == 1


GOOD: list[tuple[Rule, str, str]] = [
    (tidy_imports.misplaced_imports, "mdi_exit.core.worker", "import random\nfrom mdi_exit.core import types"),
    (tidy_imports.misplaced_imports, "mdi_exit.runtime.links", "import ray\nimport zmq\nimport time"),
    (tidy.impurities, "m", "import random\nrng = random.Random(1)\nnames = {1}\nfor n in sorted(names): pass"),
    (tidy.impurities, "m", "names = {1}\nx = 1 in names and len(names) > 1"),
    (tidy.too_long, "m", "def f():\n" + "    x = 1\n" * 59),
    (tidy.swallowed_errors, "m", "try:\n    f()\nexcept Exception:  # has no other base\n    g()"),
    (tidy.pickles, "m", "import torch\ntorch.load('f', weights_only=True)"),
    (tidy.pickles, "m", "import pickle\ntry:\n    f()\nexcept pickle.UnpicklingError:\n    g()"),
    (tidy.undocumented, "m", '"""Doc."""\nclass _A: ...'),
]


@pytest.mark.parametrize(("rule", "module", "text"), GOOD)
def test_no_rule_forbids_what_is_allowed(rule: Rule, module: str, text: str) -> None:
    assert rule(Source(module, text)) == []


def test_the_import_graph_tells_what_importing_brings_in() -> None:
    sources = [
        Source("mdi_exit", "", is_package=True),
        Source("mdi_exit.a", "", is_package=True),
        Source("mdi_exit.a.one", "from mdi_exit.b import value"),
        Source("mdi_exit.b", "def f():\n    import torch\nfrom . import c\nvalue = 1"),
        Source("mdi_exit.c", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ray"),
    ]
    at_once, at_all = import_graph(sources, top_level_only=True), import_graph(sources, top_level_only=False)
    assert at_once["mdi_exit.a.one"] == {"mdi_exit", "mdi_exit.a", "mdi_exit.b"}
    assert path_to(at_once, "mdi_exit.a.one", "mdi_exit.c") == ["mdi_exit.a.one", "mdi_exit.b", "mdi_exit.c"]
    assert path_to(at_once, "mdi_exit.a.one", "torch") is None
    assert path_to(at_all, "mdi_exit.a.one", "torch") == ["mdi_exit.a.one", "mdi_exit.b", "torch"]
    assert path_to(at_once, "mdi_exit.c", "ray") is None


def test_code_lines_are_neither_blank_nor_comment_nor_docstring() -> None:
    text = '"""Doc\nstring."""\n\n# comment\nx = """two\nlines"""\n\ndef f():\n    "doc"\n    return 1  # why\n'
    assert tidy.code_lines(Source("m", text)) == 4


def test_a_document_that_is_not_there_is_missed() -> None:
    source = Source("m", "# see papers.md 1.2 and ARCHITECTURE.md; sum.md5")
    assert len(tidy.missing_documents(source, lambda name: name == "ARCHITECTURE.md")) == 1


def test_leftovers_are_found_in_any_text() -> None:
    bad = "fine\n# TO" + "DO later\ncd /" + "root/x\nhttps://example.org/root/x and ~/work/x\n"
    assert [line.split(":")[1] for line in tidy.leftovers("f", bad)] == ["2", "3"]


def test_a_changelog_is_newest_first_and_agrees_with_the_package() -> None:
    good = "# Changelog\n\n## 0.2.0 - 2026-02-01\n\n### Added\n\n- a\n\n## 0.1.0 - 2026-01-01\n"
    assert tidy.changelog_faults(good, "0.2.0") == []
    assert tidy.changelog_faults(good.replace("## 0.2.0 - 2026-02-01", "## Unreleased"), "0.1.0") == []
    for bad in (
        good.replace("# Changelog\n", ""),
        good.replace("0.2.0", "0.0.9"),
        good.replace(" - 2026-02-01", ""),
        good.replace("### Added", "### News"),
        good.replace("0.2.0", "0.3.0"),
        "# Changelog\n",
    ):
        assert len(tidy.changelog_faults(bad, "0.2.0")) >= 1, bad


# ---- the code


def hold(rule: Rule, sources: list[Source]) -> None:
    """Fail with one line per finding; an empty list of sources would hold anything."""
    assert len(sources) > 5
    if found := [line for source in sources for line in rule(source)]:
        pytest.fail("\n".join(found), pytrace=False)


def test_everything_is_imported_where_it_belongs() -> None:
    hold(tidy_imports.misplaced_imports, CODE)


def test_core_policies_and_simulation_are_deterministic() -> None:
    hold(tidy.impurities, VIRTUAL)


@pytest.mark.parametrize("library", ["ray", "torch"])
def test_core_policies_and_simulation_bring_in_neither_ray_nor_torch(library: str) -> None:
    graph = import_graph(CODE, top_level_only=False)
    hold(lambda source: path_to(graph, source.module, library) or [], VIRTUAL)


def test_only_models_training_and_the_torch_side_of_compute_bring_in_torch_at_once() -> None:
    graph = import_graph(CODE, top_level_only=True)
    others = [source for source in CODE if not source.inside(*tidy_imports.HOMES["torch"])]
    hold(lambda source: [" -> ".join(chain)] if (chain := path_to(graph, source.module, "torch")) else [], others)


def test_every_module_is_used_by_another() -> None:
    tests = [read(path, ROOT) for path in sorted((ROOT / "tests").glob("*.py"))]
    graph = import_graph([*SOURCES, *tests], top_level_only=False)
    used = {name for module, targets in graph.items() for name in targets if name != module}
    assert sorted({source.module for source in CODE} - used) == []


def test_files_and_functions_are_short() -> None:
    hold(tidy.too_long, SOURCES)


def test_the_core_can_be_read_in_one_sitting() -> None:
    core = sum(tidy.code_lines(source) for source in CODE if source.inside("mdi_exit.core"))
    simulation = sum(tidy.code_lines(source) for source in CODE if source.inside("mdi_exit.simulation"))
    assert 0 < core <= CORE_LINES_MAX
    assert core + simulation <= SITTING_LINES_MAX


def test_no_error_is_swallowed() -> None:
    hold(tidy.swallowed_errors, SOURCES)


def test_nothing_is_unpickled() -> None:
    hold(tidy.pickles, SOURCES)


def test_core_and_policies_say_what_they_decide() -> None:
    hold(tidy.undocumented, PURE)


def test_documents_that_the_code_refers_to_are_there() -> None:
    there = {path.relative_to(ROOT).as_posix() for folder in (".", "docs") for path in (ROOT / folder).glob("*.md")}
    hold(lambda source: tidy.missing_documents(source, lambda name: name in there or f"docs/{name}" in there), CODE)


def test_no_unfinished_work_and_no_path_of_one_machine_is_left() -> None:
    assert len(TEXTS) > 20
    assert not [line for path in TEXTS for line in tidy.leftovers(path.name, path.read_text(encoding="utf-8"))]


def test_the_changelog_is_in_order() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert tidy.changelog_faults(text, mdi_exit.__version__) == []
    assert re.search(r"^- \w", text, re.MULTILINE)
