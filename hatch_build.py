"""The compiled build, for those who ask for it: HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 pip install .

mypyc makes C of the modules that `mdi_exit/compiled.py` lists, as they are, and a C compiler makes machine code of it.
All in a folder of its own, from where it goes into the wheel: beside the sources nothing is left that Python would
import in their stead.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# The annotations are checked by `make lint`, where what they are of is installed.
_OPTIONS = ("--config-file=", "--ignore-missing-imports", "--follow-imports=silent", "--no-error-summary")


class CompiledBuildHook(BuildHookInterface):
    """Adds the compiled modules to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, before the wheel is put together; ends with one line where that cannot be."""
        if trouble := _trouble(version):
            self.app.abort(f"mdi-exit cannot be compiled: {trouble}")
        self._built = Path(tempfile.mkdtemp(prefix="mdi-exit-"))
        build_data["pure_python"], build_data["infer_tag"] = False, True
        try:
            build_data["force_include"].update(_compile(Path(self.root), self._built))
        except (Exception, SystemExit) as error:  # mypyc ends the program, having said what it does not like
            shutil.rmtree(self._built)
            self.app.abort(f"mdi-exit cannot be compiled: {error}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Nothing stays but the wheel."""
        shutil.rmtree(self._built)


def _trouble(version: str) -> str | None:
    if version == "editable":
        return "an editable installation runs from the sources; leave out -e, or HATCH_BUILD_HOOK_ENABLE_CUSTOM"
    words = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "").split()
    if words and shutil.which(words[0]) is None:
        return f"there is no C compiler ({words[0]}); on Debian and Ubuntu: sudo apt install gcc"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's headers are missing; on Debian and Ubuntu: sudo apt install python3-dev"
    return None


def _compile(root: Path, built: Path) -> dict[str, str]:
    """Compile a copy of the sources; return what lies where, and where it belongs in the wheel."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    modules = runpy.run_path(str(root / "mdi_exit" / "compiled.py"))["MODULES"]
    shutil.copytree(root / "mdi_exit", built / "mdi_exit", ignore=shutil.ignore_patterns("assets", "__pycache__"))
    before = Path.cwd()
    os.chdir(built)
    try:
        files = [f"{module.replace('.', '/')}.py" for module in modules]
        extensions = mypycify([*_OPTIONS, *files], opt_level="3", debug_level="0", verbose=False)
        command = Distribution({"name": "mdi-exit", "ext_modules": extensions}).get_command_obj("build_ext")
        command.build_lib, command.build_temp = "lib", "temp"
        command.ensure_finalized()
        command.run()
    finally:
        os.chdir(before)
    made = [path for path in (built / "lib").rglob("*") if path.is_file()]
    return {str(path): path.relative_to(built / "lib").as_posix() for path in made}


if __name__ == "__main__":  # as `make` asks, before pip would say the same among much else
    sys.exit(_trouble("standard") and f"mdi-exit cannot be compiled: {_trouble('standard')}")
