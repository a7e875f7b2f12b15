"""Find what is shipped beside the code: the folder `cluster/` with topologies, devices and examples.

In a checkout it lies next to the package, in an installed wheel inside it (hatch puts it there), so that its files
are read the same way in both.
"""

from __future__ import annotations

from pathlib import Path

from mdi_exit.yamlfile import Place

SUFFIXES = (".yaml", ".yml")
WEIGHTS_SUFFIX = ".safetensors"


def cluster_dir(package: Path | None = None) -> Path:
    """The folder of shipped YAML files; `package` is where mdi_exit itself lies, found when not given."""
    package = package or Path(__file__).parent
    installed = package / "cluster"
    return installed if installed.is_dir() else package.parent / "cluster"


def built_in(kind: str) -> tuple[str, ...]:
    """Names of the shipped files of a kind ("topologies", "devices" or "examples"), sorted."""
    return tuple(sorted(path.stem for path in (cluster_dir() / kind).glob("*.yaml")))


def find(kind: str, reference: str, base: Path, place: Place) -> Path:
    """The file that `reference` means: a path (relative to the folder `base`) or a shipped file's bare name.

    What looks like a path (it ends in .yaml or holds a separator) is never taken for a name. Raises ConfigError about
    `place`, which holds the reference, listing what is shipped.
    """
    path = base / Path(reference).expanduser() if is_path(reference) else cluster_dir() / kind / f"{reference}.yaml"
    if path.is_file():
        return path
    what = f"no such file {path}" if is_path(reference) else f"no such name {reference!r}"
    raise place.refuse(what, f"a path to a YAML file, or {', '.join(built_in(kind))}")


def find_checkpoint(reference: str, base: Path, place: Place) -> Path:
    """The weights' file of a checkpoint: a path (suffix optional, relative to `base`) or a bundled bare name.

    Torch-free, unlike `models.checkpoint`. Raises ConfigError about `place`, listing what is bundled.
    """
    path = base / Path(reference).expanduser()
    stem = path.with_suffix("") if path.suffix in (WEIGHTS_SUFFIX, ".json") else path
    weights = stem.with_name(stem.name + WEIGHTS_SUFFIX)
    if weights.is_file():
        return weights
    assets = Path(__file__).parent / "assets"
    bundled = {path.stem: path for path in sorted(assets.glob(f"*{WEIGHTS_SUFFIX}"))}
    if reference in bundled:
        return bundled[reference]
    allowed = f"a path to NAME{WEIGHTS_SUFFIX}, or {', '.join(bundled) or 'none bundled'}"
    raise place.refuse(f"no such checkpoint {reference!r} ({weights} is missing)", allowed)


def is_path(reference: str) -> bool:
    """Whether a reference is a path, and not the name of something shipped."""
    return reference.endswith(SUFFIXES) or "/" in reference or "\\" in reference
