"""Which modules an installation may have compiled to machine code, and whether this one has.

They decide, or let virtual time pass, at every event. `hatch_build.py` compiles them when asked to, as they are.
Types, events and effects are not among them, as what they are annotated with, which compiling drops, is the wire's
schema; nor are rules, which are settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib.util import find_spec
from typing import Any, Final

MODULES: Final = (
    *(
        f"mdi_exit.core.{name}"
        for name in (
            "controller",
            "custody",
            "dealt",
            "delays",
            "flood",
            "gossip",
            "neighbour",
            "prices",
            "queues",
            "relay",
            "standing",
            "views",
            "worker",
        )
    ),
    "mdi_exit.policies.weighing",
    *(f"mdi_exit.simulation.{name}" for name in ("frames", "links", "run", "times", "world")),
    *(f"mdi_exit.{name}" for name in ("assembly", "choices", "samples", "shaping", "tallies", "tally")),
)


def remade(value: Any) -> tuple[type, tuple[Any, ...]]:
    """What a dataclass says in `__reduce__`, so that it can be copied and sent when it is compiled, too."""
    return type(value), tuple([getattr(value, known.name) for known in fields(value) if known.init])


def restored(kind: type, made_of: tuple[Any, ...], attributes: Mapping[str, Any]) -> Any:
    """A copy, of what a `__reduce__` told: with pickle's own way, a state, compiled classes forget the state."""
    value = kind(*made_of)
    for name, attribute in attributes.items():
        setattr(value, name, attribute)
    return value


def is_compiled() -> bool:
    """Whether this installation is compiled; in part it never is."""
    spec = find_spec(MODULES[0])
    return spec is not None and not str(spec.origin).endswith(".py")
