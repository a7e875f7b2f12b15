"""What the documents tell a reader to type exists and works.

In README.md and CONTRIBUTING.md a `console` block is run line by line, a `bash` block (minutes, or downloads) is parsed
down to its last option, `yaml` blocks are loaded and `python` blocks executed. Links and anchors must resolve.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import mdi_exit.cli
from mdi_exit import resources, topology_file
from mdi_exit.config.load import load_experiment

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
VERBS = dict(re.findall(r"^([a-z]+):.*?## (.+)$", MAKEFILE, re.MULTILINE))
OTHER_PROGRAMS = ("cd", "export", "git", "openssl", "ray", "source", "sudo")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """Return the words of each command of a shell block, without prompt, comment and variables set before it."""
    lines = [part.removeprefix("$ ") for line in block.splitlines() for part in line.split("&&")]
    words = [shlex.split(line, comments=True) for line in lines]
    return [found for found in ([w for w in line if not re.match(r"[A-Z_]+=", w)] for line in words) if found]


def verbs() -> Mapping[str, Any]:
    """Return the commands of the families that mdi_exit.cli holds, by name."""
    app = typer.Typer()
    app.callback()(lambda: None)
    for info in pkgutil.iter_modules(mdi_exit.cli.__path__):
        module = importlib.import_module(f"mdi_exit.cli.{info.name}")
        if hasattr(module, "register"):
            module.register(app)
    group: Any = typer.main.get_command(app)  # typer brings a copy of click of its own, or not, by version
    return dict(group.commands)


def fault(words: list[str], known: Mapping[str, Any]) -> str | None:
    """Say what is wrong with a command that is too long to be run here, or None."""
    program, arguments = words[0], words[1:]
    if program == "make":
        missing = [verb for verb in arguments if verb not in VERBS]
        return f"make has no {missing}" if missing else None
    if program == "mdi-exit":
        verb = known.get(arguments[0]) if arguments else None
        if verb is None:
            return f"mdi-exit has no {arguments[:1]}; it has {', '.join(known)}"
        try:
            verb.make_context(arguments[0], arguments[1:])
        except Exception as error:  # click's UsageError, whichever click it is; anything else is raised again
            if not hasattr(error, "format_message"):
                raise
            return f"{shlex.join(words)}: {error.format_message()}"
        return None
    if "/" in program:
        return None if (ROOT / program).is_file() else f"no file {program}"
    return None if program in OTHER_PROGRAMS else f"nobody checks {program}"


def slug(heading: str) -> str:
    """Return the anchor that a forge makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the README's yaml blocks name in their first line."""
    for block in blocks(README, "yaml"):
        name = re.match(r"# ([\w-]+\.yaml)\n", block)
        assert name is not None, f"a yaml block wants its file's name as a comment first:\n{block}"
        (tmp_path / name[1]).write_text(block, encoding="utf-8")
    return tmp_path


LONG = blocks(README, "bash") + blocks(CONTRIBUTING, "bash")


@pytest.mark.parametrize("block", LONG, ids=[block.splitlines()[0] for block in LONG])
def test_commands_that_take_minutes_are_spelt_right(block: str) -> None:
    known = verbs()
    assert [found for words in commands(block) if (found := fault(words, known))] == []


@pytest.mark.parametrize(
    "line",
    [
        "make dmeo",
        "mdi-exit runn x",
        "mdi-exit train --data x --out y --epoch 3",
        "mdi-exit topologies --out",
        "./run",
        "ls",
    ],
)
def test_a_misspelt_command_is_found(line: str) -> None:
    assert fault(shlex.split(line), verbs())


@pytest.mark.parametrize(
    "words", [words for block in blocks(README, "console") for words in commands(block)], ids=shlex.join
)
def test_quick_commands_work(words: list[str], folder: Path) -> None:
    assert words[0] == "mdi-exit"
    program = Path(sys.executable).parent / "mdi-exit"
    done = subprocess.run([program, *words[1:]], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and not done.stderr


def test_yaml_blocks_are_experiments_and_graphs(folder: Path) -> None:
    kinds = []
    for path in sorted(folder.glob("*.yaml")):
        if "source" in yaml.safe_load(path.read_text(encoding="utf-8")):
            kinds.append(topology_file.load(path).name)
        else:
            kinds.append(load_experiment(path).name)
    assert kinds == sorted(path.stem for path in folder.iterdir()) and len(kinds) >= 3


def test_python_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(README, "python"):
        exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out == "3\n"


def test_the_readme_names_every_command_and_no_other() -> None:
    named = set(re.findall(r"^\| `mdi-exit (\w+)", README, re.MULTILINE))
    assert named == set(verbs())


def test_shipped_names_in_the_readme_are_shipped() -> None:
    runs = re.findall(r"^mdi-exit run ([\w-]+)$", README, re.MULTILINE)
    assert runs and not set(runs) - set(resources.built_in("examples"))


def test_the_makefile_has_at_most_eight_verbs_and_explains_each() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert sorted(phony[1].split()) == sorted(VERBS) and len(VERBS) <= 8


def test_ci_runs_targets_that_the_readme_names() -> None:
    loop = re.search(r"for verb in (.+); do", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert loop is not None
    for verb in loop[1].split():
        assert verb in VERBS and f"make {verb}" in README


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_resolve(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        goal = (path.parent / file) if file else path
        if not goal.exists():
            broken.append(target)
        elif anchor:
            headings = re.findall(r"^#+ (.+)$", goal.read_text(encoding="utf-8"), re.MULTILINE)
            broken += [] if anchor in map(slug, headings) else [target]
    assert broken == []
