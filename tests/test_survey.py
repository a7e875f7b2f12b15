"""What a machine says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdi_exit import survey


def test_trying_an_import_runs_no_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("open('ran', 'w').close()\nraise SystemExit(1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(survey, "PROBED", ("numpy",))
    assert survey.survey()["imports"] == {"numpy": None}
    assert not (tmp_path / "ran").exists()
