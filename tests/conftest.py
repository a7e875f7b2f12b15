"""What all tests share: repeatable hypothesis runs, and Ray only where a test says so."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from mdi_exit.compiled import is_compiled
from mdi_exit.runtime.cluster import LOCAL_ENVIRONMENT

# Ray reads its environment when it is imported, and test files import what imports it in any order.
os.environ.update(LOCAL_ENVIRONMENT)

# The same examples on every machine and every run, and no time limits: machines are noisy.
# HYPOTHESIS_PROFILE=search looks for new ones instead, for an evening's hunt.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "search", deadline=None, print_blob=True, max_examples=1000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True, scope="module")
def leaks_are_found_where_they_happen() -> Iterator[None]:
    """Collect garbage after each file, so that what it left unclosed is a failure there and not in some later file."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def ray_only_where_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that starts Ray in this process and is not marked `ray`."""
    before = _ray_is_running()
    yield
    if _ray_is_running() and not before and request.node.get_closest_marker("ray") is None:
        sys.modules["ray"].shutdown()
        pytest.fail("this test started Ray; mark it with @pytest.mark.ray", pytrace=False)


def _ray_is_running() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes, files stay whole, and all that start devices, real or emulated, are one process's: they
    want the machine, and would count each other's left-behinds."""
    devices = {item.path for item in items if item.get_closest_marker("ray") or item.path.name.startswith("test_lab")}
    for item in items:
        if is_compiled() and (marked := item.get_closest_marker("interpreted")):
            item.add_marker(pytest.mark.skip(reason=f"compiled: {marked.args[0]}"))
        item.add_marker(pytest.mark.xdist_group("devices" if item.path in devices else item.path.name))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let golden texts be written anew on purpose."""
    parser.addoption("--rewrite", action="store_true", help="write golden texts anew instead of comparing")
