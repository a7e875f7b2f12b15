"""Exported networks on disk: found again, written again when damaged, and by two processes at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from mdi_exit.cachefolder import CACHE_VARIABLE, cache_folder
from mdi_exit.compute import ComputeError, cache, open_runner, prepare

from .networks import noise, save_untrained


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("untrained") / "net")


def written(folder: Path) -> dict[str, int]:
    """When each file was written, in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class TestCache:
    def test_what_was_exported_is_not_exported_again(self, tmp_path: Path, untrained: Path) -> None:
        prepared = prepare(untrained, cache_dir=tmp_path)
        before = written(prepared.models[0].parent)
        assert len(before) == 6
        assert prepare(untrained, cache_dir=tmp_path) == prepared
        assert written(prepared.models[0].parent) == before

    def test_new_temperatures_need_no_new_export(self, tmp_path: Path, untrained: Path) -> None:
        first = prepare(untrained, cache_dir=tmp_path / "cache")
        weights = Path(shutil.copy(untrained, tmp_path / "warm.safetensors"))
        card = json.loads(untrained.with_suffix(".json").read_text())
        card["temperatures"] = [9.0] * 5
        weights.with_suffix(".json").write_text(json.dumps(card))
        second = prepare(weights, cache_dir=tmp_path / "cache")
        assert second.models == first.models and second.card.temperatures == (9.0,) * 5
        (cold,), _ = open_runner(first, (1,)).run(1, noise(1))
        (warm,), _ = open_runner(second, (1,)).run(1, noise(1))
        assert warm.confidence < cold.confidence and warm.prediction == cold.prediction

    @pytest.mark.parametrize(
        ("name", "damage"),
        [
            ("segment-2.onnx", truncate),
            ("segment-5.onnx", flip_a_byte),
            ("segment-1.onnx", Path.unlink),
            ("manifest.json", Path.unlink),
            ("manifest.json", lambda path: path.write_text('{"sha256": [], "about": 1}')),
            ("manifest.json", lambda path: path.write_bytes(b"\xff")),
        ],
    )
    def test_a_damaged_network_is_written_again(self, tmp_path: Path, name: str, damage: Callable[[Path], Any]) -> None:
        files = {f"segment-{k}.onnx": bytes([k]) * 2000 for k in range(1, 6)}
        folder = tmp_path / "networks" / "net"
        cache.keep(folder, files, {"shapes": [1]})
        damage(folder / name)
        assert cache.find(folder) is None
        cache.keep(folder, files, {"shapes": [2]})
        assert cache.find(folder) == {"shapes": [2]}
        assert {name: (folder / name).read_bytes() for name in files} == files
        assert [path.name for path in folder.parent.iterdir()] == ["net"]

    def test_a_damaged_model_is_exported_again(self, tmp_path: Path, untrained: Path) -> None:
        prepared = prepare(untrained, cache_dir=tmp_path)
        truncate(prepared.models[2])
        assert prepare(untrained, cache_dir=tmp_path) == prepared
        onnx.checker.check_model(onnx.load(prepared.models[2]))

    def test_an_intact_network_of_another_process_is_left_alone(self, tmp_path: Path) -> None:
        cache.keep(tmp_path / "net", {"a": b"1"}, {"by": "one"})
        cache.keep(tmp_path / "net", {"a": b"2"}, {"by": "two"})
        assert cache.find(tmp_path / "net") == {"by": "one"}

    def test_two_processes_may_export_at_once(self, tmp_path: Path, untrained: Path) -> None:
        code = "import sys; from mdi_exit.compute import prepare; print(prepare(sys.argv[1]).models[4])"
        command = [sys.executable, "-W", "error", "-c", code, str(untrained)]
        environment = {**os.environ, CACHE_VARIABLE: str(tmp_path)}
        both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate()[0].strip() for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert said[0] == said[1] and Path(said[0]).is_file()
        assert len(list((tmp_path / "networks").iterdir())) == 1

    def test_the_networks_used_last_stay(self, tmp_path: Path) -> None:
        for age, name in enumerate(("newest", "middle", "oldest")):
            cache.keep(tmp_path / name, {"a": b"1"}, {})
            os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
        assert cache.find(tmp_path / "oldest") == {}  # used again
        (tmp_path / ".aside-being-written").mkdir()
        (tmp_path / ".aside-abandoned").mkdir()
        os.utime(tmp_path / ".aside-abandoned", (1e9, 1e9))
        cache.prune(tmp_path, networks_max=2)
        assert {path.name for path in tmp_path.iterdir()} == {"newest", "oldest", ".aside-being-written"}

    def test_a_cache_that_cannot_be_written_names_the_way_out(self, tmp_path: Path, untrained: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(ComputeError, match=f"cannot be kept there .*{CACHE_VARIABLE}"):
            prepare(untrained, cache_dir=tmp_path / "file")

    def test_its_place(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv(CACHE_VARIABLE, raising=False)
        for shared, wanted in ((None, ".cache"), ("relative", ".cache"), (str(tmp_path / "xdg"), "xdg")):
            if shared is None:
                monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
            else:
                monkeypatch.setenv("XDG_CACHE_HOME", shared)
            assert cache_folder() == tmp_path / wanted / "mdi-exit"
        monkeypatch.setenv(CACHE_VARIABLE, "~/own")
        assert cache_folder() == tmp_path / "own"
