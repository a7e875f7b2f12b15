"""The guard in conftest.py: a test that starts Ray without saying so fails. A stand-in for Ray keeps this quick."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

STAND_IN = """
running = False
def init(): globals().update(running=True)
def shutdown(): globals().update(running=False)
def is_initialized(): return running
"""
TESTS = """
import pytest, ray
@pytest.fixture(scope="module")
def cluster():
    ray.init()
    yield
    ray.shutdown()
def test_quiet(): pass
def test_unmarked(): ray.init()
@pytest.mark.ray
def test_marked(cluster): assert ray.is_initialized()
def test_beside_a_cluster_of_others(): assert ray.is_initialized()
"""


def test_ray_may_be_started_only_by_a_test_marked_so(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers = ray: starts Ray\n")
    pytester.makepyfile(ray=STAND_IN, test_it=TESTS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_unmarked*", "*mark it with @pytest.mark.ray*"])
