"""The house rules as functions over source text: each returns what it found wrong, one line per finding.

Kept apart from test_tidy.py so that each rule can be shown to fail on a small bad example there.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable

from .tidy_imports import Source, imports

IMPURE_CALLS = ("hash", "id", "input", "open", "print")
ORDERED_FROM = ("deque", "dict", "enumerate", "filter", "iter", "list", "map", "next", "reversed", "tuple", "zip")
A_SET = re.compile(r"(frozenset|set|Set|AbstractSet|MutableSet)\b")
UNPICKLERS = re.compile(r"\b(cloudpickle|dill|marshal|shelve|joblib)\b|^pickle\.(?!\w*Error$)")
MARKS = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.~$}])/(work|root)/\w+")


# ---- purity of core and policies


def impurities(source: Source) -> list[str]:
    """Find calls of hash, print and the like, module-level random functions, and iteration over a set."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(f"{source.module}:{node.lineno}: calls {node.func.id}()")
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random" and node.attr != "Random":
            found.append(f"{source.module}:{node.lineno}: random.{node.attr}; draw from the injected generator")
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            found.append(f"{source.module}:{node.lineno}: from random import; draw from the injected generator")
    return found + set_iterations(source)


def set_iterations(source: Source) -> list[str]:
    """Find places where the order of a set would decide something. `sorted(a_set)` is the way out."""
    tree = source.tree
    known = {name for node in ast.walk(tree) for name in _bound_to_a_set(node)}
    found = []
    for node in ast.walk(tree):
        iterated: list[ast.expr] = []
        if isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
            iterated = [node.iter]
        elif isinstance(node, ast.Starred):
            iterated = [node.value]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ORDERED_FROM or name.endswith((".join", ".extend", ".fromkeys", ".choice")):
                iterated = list(node.args)
            elif name.endswith(".pop") and not node.args and isinstance(node.func, ast.Attribute):
                iterated = [node.func.value]
        for it in iterated:
            if _is_set(it, known):
                found.append(f"{source.module}:{it.lineno}: the order of a set decides: {ast.unparse(it)}")
    return found


def _bound_to_a_set(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Assign) and _is_set(node.value, set()):
        return [ast.unparse(target) for target in node.targets]
    if isinstance(node, ast.AnnAssign) and A_SET.match(ast.unparse(node.annotation)):
        return [ast.unparse(node.target)]
    if isinstance(node, ast.arg) and node.annotation and A_SET.match(ast.unparse(node.annotation)):
        return [node.arg]
    return []


def _is_set(node: ast.expr, known: set[str]) -> bool:
    if isinstance(node, (ast.Set, ast.SetComp)):
        return True
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if isinstance(node.func, ast.Attribute) and _is_set(node.func.value, known):
            return node.func.attr in ("union", "intersection", "difference", "symmetric_difference", "copy")
        return name in ("set", "frozenset")
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)):
        return _is_set(node.left, known) or _is_set(node.right, known)
    return isinstance(node, (ast.Name, ast.Attribute)) and ast.unparse(node) in known


# ---- size


def code_lines(source: Source) -> int:
    """Count lines that hold code: not blank, not a comment, not a docstring."""
    lines: set[int] = set()
    quiet = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type not in quiet:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def too_long(source: Source, file_max: int = 300, function_max: int = 60) -> list[str]:
    """Find files and functions that want to be two."""
    lines = source.text.count("\n")
    found = [f"{source.module}: {lines} lines, {file_max} allowed"] if lines > file_max else []
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > function_max:
                found.append(f"{source.module}:{node.lineno}: {node.name} has {length} lines, {function_max} allowed")
    return found


# ---- errors, pickles, leftovers


def swallowed_errors(source: Source) -> list[str]:
    """Find bare excepts, and handlers of Exception with no comment that says why and what they do about it."""
    lines = source.text.splitlines()
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            explained = "#" in "".join(lines[node.lineno - 1 : node.lineno + 1])
            if not caught:
                found.append(f"{source.module}:{node.lineno}: bare except")
            elif re.search(r"\b(Base)?Exception\b", caught) and not explained:
                found.append(f"{source.module}:{node.lineno}: except {caught} without a comment saying why")
    return found


def pickles(source: Source) -> list[str]:
    """Find ways to run code that came as data. The name of an exception, pickle.UnpicklingError, is harmless."""
    found = [f"{source.module}:{line}: imports {name}" for line, name in imports(source) if UNPICKLERS.search(name)]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle" and not node.attr.endswith("Error"):
            found.append(f"{source.module}:{node.lineno}: pickle.{node.attr}")
        if isinstance(node, ast.Call):
            called, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called == "torch.load" and options.get("weights_only") != "True":
                found.append(f"{source.module}:{node.lineno}: torch.load without weights_only=True")
            if options.get("allow_pickle") == "True":
                found.append(f"{source.module}:{node.lineno}: {called} with allow_pickle=True")
    return found


def leftovers(name: str, text: str) -> list[str]:
    """Find marks of unfinished work and paths of somebody's machine, in any text file."""
    return [f"{name}:{number}: {found.group()}" for number, line in enumerate(text.splitlines(), 1)
            for found in (*MARKS.finditer(line), *MACHINE_PATHS.finditer(line))]  # fmt: skip


def missing_documents(source: Source, exists: Callable[[str], bool]) -> list[str]:
    """Find documents that a comment or docstring refers to and that are not in the repository."""
    named = set(re.findall(r"[\w./-]*\w\.md\b(?!5)", source.text))
    return [f"{source.module}: refers to {name}, which is not there" for name in sorted(named) if not exists(name)]


# ---- prose


def undocumented(source: Source) -> list[str]:
    """Find public modules, classes and functions without a docstring."""
    tree = source.tree
    found = [f"{source.module}: the module says nothing"] if tree.body and not ast.get_docstring(tree) else []
    definitions = [node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    for node in definitions:
        if not node.name.startswith("_") and not ast.get_docstring(node):
            found.append(f"{source.module}:{node.lineno}: {node.name} has no docstring")
    return found


def changelog_faults(text: str, version: str) -> list[str]:
    """Check CHANGELOG.md: Unreleased or dated versions, newest first, each with known sections of list items."""
    found, versions = [], []
    if not text.startswith("# Changelog\n"):
        found.append("the first line is not '# Changelog'")
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("## "):
            match = re.fullmatch(r"## (Unreleased|(\d+)\.(\d+)\.(\d+) - \d{4}-\d\d-\d\d)", line)
            if match is None:
                found.append(f"line {number}: want '## Unreleased' or '## 1.2.3 - 2026-01-31', not {line!r}")
            else:
                versions.append(tuple(map(int, match.groups()[1:])) if match.group(2) else (sys.maxsize,))
        elif line.startswith("### ") and line[4:] not in ("Added", "Changed", "Fixed", "Removed"):
            found.append(f"line {number}: want Added, Changed, Fixed or Removed, not {line[4:]!r}")
    if versions != sorted(versions, reverse=True) or len(versions) != len(dict.fromkeys(versions)):
        found.append("versions are not newest first")
    if versions and versions[0] != (sys.maxsize,) and ".".join(map(str, versions[0])) != version:
        found.append(f"the newest version is not the package's, {version}")
    return found if versions else [*found, "no version"]
