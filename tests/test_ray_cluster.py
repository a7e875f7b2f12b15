"""ray_cluster.yaml, and the one that a lab makes of it: what Ray itself says of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mdi_exit import resources
from mdi_exit.lab import files, state

SHIPPED = Path(__file__).resolve().parents[1] / "ray_cluster.yaml"


def lab_state() -> state.State:
    """A lab of three devices, as `lab up` knows it before anything is started."""
    devices = {f"n{i}": state.DeviceState(f"10.77.0.{i}", 1.0, 2_000_000_000) for i in (1, 2, 3)}
    return state.State("t", "/tmp/out", 1, False, 1, ["/c", "/m"], [], {}, devices)


def validated(content: dict[str, Any]) -> dict[str, Any]:
    """The file as `ray up` completes it. Raises what Ray raises about a file that is wrong."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    complete: dict[str, Any] = prepare_config(content)
    validate_config(complete)
    return complete


def contents() -> list[dict[str, Any]]:
    return [yaml.safe_load(SHIPPED.read_text(encoding="utf-8")), files.cluster(lab_state())]


@pytest.mark.parametrize("content", contents(), ids=["shipped", "lab"])
def test_ray_takes_the_cluster_file(content: dict[str, Any]) -> None:
    from ray.autoscaler._private.local.config import LOCAL_CLUSTER_NODE_TYPE

    complete = validated(content)
    node_type = complete["available_node_types"][LOCAL_CLUSTER_NODE_TYPE]
    assert node_type["min_workers"] == node_type["max_workers"] == len(content["provider"]["worker_ips"]) > 0


def test_ray_refuses_a_cluster_file_with_an_unknown_key() -> None:
    from jsonschema import ValidationError

    with pytest.raises(ValidationError):
        validated({**contents()[0], "worker_start_commands": ["ray stop"]})


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_start_commands_ask_for_the_token_and_name_the_address(kind: str) -> None:
    stop, start = contents()[0][f"{kind}_start_ray_commands"]
    assert stop == "ray stop"
    assert "MALLOC_ARENA_MAX=1" in start
    assert "RAY_AUTH_MODE=token" in start and "--node-ip-address=$(echo $SSH_CONNECTION | cut -d' ' -f3)" in start
    assert int(re.findall(r"--object-store-memory=(\d+)", start)[0]) >= 75 * 2**20  # less than that Ray refuses
    assert ("RAY_enable_autoscaler_v2=0" in start) == (kind == "head")


def test_options_of_the_start_commands_are_options_of_ray_start() -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    for kind in ("head", "worker"):
        command = contents()[0][f"{kind}_start_ray_commands"][1].partition("ray start")[2].partition("&&")[0]
        used = set(re.findall(r"--[a-z-]+", command))
        assert len(used) > 5 and used <= known


def test_a_lab_changes_addresses_keys_and_token_and_nothing_else() -> None:
    shipped, made = contents()
    changed = {key for key in made if made[key] != shipped[key]}
    assert changed == {"cluster_name", "provider", "auth", "file_mounts"} and list(made) == list(shipped)


def test_the_cluster_file_is_found_in_a_checkout_and_in_a_wheel(tmp_path: Path) -> None:
    assert resources.ray_cluster_file() == SHIPPED
    package = tmp_path / "mdi_exit"
    (package / "cluster").mkdir(parents=True)
    (package / "cluster" / "ray_cluster.yaml").touch()
    assert resources.ray_cluster_file(package) == package / "cluster" / "ray_cluster.yaml"
