"""Find what is shipped beside the code: the folder `cluster/` with topologies, devices and examples.

In a checkout it lies next to the package, in an installed wheel inside it (hatch puts it there), so that its files
are read the same way in both.
"""

from __future__ import annotations

from pathlib import Path

from mdi_exit.yamlfile import Place, meant

SUFFIXES = (".yaml", ".yml")


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
    what += meant(reference, [*built_in(kind), *(file.name for file in sorted(base.glob("*.yaml")))])
    raise place.refuse(what, f"a path to a YAML file, or {', '.join(built_in(kind))}")


def is_path(reference: str) -> bool:
    """Whether a reference is a path, and not the name of something shipped."""
    return reference.endswith(SUFFIXES) or "/" in reference or "\\" in reference


def ray_cluster_file(package: Path | None = None) -> Path:
    """The shipped cluster file for `ray up`: at the top of a checkout, in `cluster/` of an installed wheel."""
    folder = cluster_dir(package)
    inside = folder / "ray_cluster.yaml"
    return inside if inside.is_file() else folder.parent / "ray_cluster.yaml"
