"""constraints.txt pins all that an installation brings, at any depth, and torch in the one version that is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LINES = (Path(__file__).resolve().parents[1] / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = [Requirement(line) for line in LINES if line and not line.startswith("#")]
# torch pins these itself, by exact versions, where its build carries CUDA.
PINNED_BY_TORCH = ("cuda-", "nvidia-", "triton")


def needed(name: str, extras: frozenset[str], seen: dict[str, frozenset[str]]) -> Iterator[str]:
    """Yield what the installed distribution `name` needs here, at any depth."""
    if extras <= seen.get(name, frozenset()) and name in seen:
        return
    seen[name] = extras | seen.get(name, frozenset())
    for line in metadata.requires(name) or []:
        wanted = Requirement(line)
        chosen = [{"extra": extra} for extra in ("", *sorted(extras))]
        if wanted.marker is None or any(wanted.marker.evaluate(environment) for environment in chosen):
            child = canonicalize_name(wanted.name)
            yield child
            yield from needed(child, frozenset(wanted.extras), seen)


def test_everything_an_installation_brings_is_pinned() -> None:
    pinned = {canonicalize_name(pin.name) for pin in PINS if pin.marker is None or pin.marker.evaluate()}
    brought = sorted(set(needed("mdi-exit", frozenset({"test"}), {})))
    assert len(brought) > 40
    assert [name for name in brought if name not in pinned and not name.startswith(PINNED_BY_TORCH)] == []


def test_each_pin_is_one_exact_version_without_a_local_part() -> None:
    for pin in PINS:
        (specifier,) = pin.specifier
        assert specifier.operator == "==" and "+" not in specifier.version and "*" not in specifier.version, pin
    assert [str(pin) for pin in PINS if pin.name == "torch"] == ["torch==2.13.0"]


def test_no_package_is_pinned_twice_for_one_python() -> None:
    for version in ("3.10", "3.11", "3.13"):
        names = [p.name for p in PINS if p.marker is None or p.marker.evaluate({"python_version": version})]
        assert len(names) == len(set(names))


def test_what_the_benchmarks_compare_with_is_pinned_where_it_is_installed() -> None:
    try:
        metadata.distribution("fastapi")
    except metadata.PackageNotFoundError:
        pytest.skip("what .[benchmarks] brings is not installed")
    pinned = {canonicalize_name(pin.name) for pin in PINS if pin.marker is None or pin.marker.evaluate()}
    brought = sorted(set(needed("ray", frozenset({"serve"}), {})))
    assert "fastapi" in brought
    assert [name for name in brought if name not in pinned] == []
