"""What a user needs of a lab that is up: the cluster file for `ray up`, the topology, an experiment, a key, a token."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from mdi_exit import outputs, resources
from mdi_exit.lab import device, state
from mdi_exit.lab.spec import LabSpec
from mdi_exit.shaping import Shape

CLUSTER, TOPOLOGY, EXPERIMENT, TOKEN, KEY = "ray_cluster.yaml", "topology.yaml", "experiment.yaml", "token", "key"
NAMES = (CLUSTER, TOPOLOGY, EXPERIMENT, TOKEN, KEY)
_DURATION_S = 20
_KERNEL, _NETEM = ("bandwidth_bps",), ("latency_s", "loss")  # of a link's shape, what the kernel does


def write(lab: state.State, spec: LabSpec) -> None:
    """Write them into the lab's folder `out`; raises UserError."""
    out = Path(lab.out)
    texts = {
        CLUSTER: _dump(
            cluster(lab), f"For: mdi-exit lab ssh desk ray up {CLUSTER}   (made of the one that is shipped)"
        ),
        TOPOLOGY: _dump(topology(lab, spec), _about_links(lab)),
        EXPERIMENT: _dump(experiment(lab), "For mdi-exit run, on the lab's first device"),
    }
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    lab.files = {TOKEN: None, KEY: None, **digests}
    state.save(lab)  # from here on the lab knows what to remove
    with outputs.writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in (TOKEN, KEY):  # nobody but root may read them from the first moment on
            (out / name).unlink(missing_ok=True)
            (out / name).touch(mode=0o600)
        (out / TOKEN).write_text(secrets.token_hex(32), encoding="utf-8")
        shutil.copyfile(state.folder(lab.name) / device.KEY, out / KEY)
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8", newline="")


def cluster(lab: state.State) -> dict[str, Any]:
    """The shipped ray_cluster.yaml with this lab's addresses, key and token; its start commands are the very same."""
    content: dict[str, Any] = yaml.safe_load(resources.ray_cluster_file().read_text(encoding="utf-8"))
    addresses = [each.address for each in lab.devices.values()]
    out = Path(lab.out)
    return {
        **content,
        "cluster_name": f"lab-{lab.name}",
        "provider": {"type": "local", "head_ip": addresses[0], "worker_ips": addresses[1:]},
        "auth": {"ssh_user": "root", "ssh_private_key": str(out / KEY)},
        "file_mounts": {"~/.ray/auth_token": str(out / TOKEN)},
    }


def topology(lab: state.State, spec: LabSpec) -> dict[str, Any]:
    """The lab's graph as a topology file. What the kernel does to a link is left out: it must not be done twice."""
    links = []
    for link in spec.topology.links:
        ends = {"from": link.a, "to": link.b} if link.one_way else {"between": [link.a, link.b]}
        done = (*_KERNEL, *(_NETEM if lab.netem else ()))
        known = {key: value for key, value in asdict(link.shape).items() if key not in done}
        links.append({**ends, **{key: value for key, value in known.items() if value != getattr(Shape(), key)}})
    return {"source": spec.topology.source, "workers": list(spec.topology.workers), "links": links}


def experiment(lab: state.State) -> dict[str, Any]:
    """A run of every device as one worker."""
    workers = {name: each.address for name, each in lab.devices.items()}
    return {
        "topology": TOPOLOGY,
        "offloading": "backpressure",  # with fill_queue it finds what the devices can give
        "admission": "fill_queue",
        # To tell four neighbours of itself twenty times a second takes a quarter of a device with a tenth of a core;
        # told twice a second, a line of devices waits for news.
        # A device whose quota is used up answers when its next period begins, up to 20 ms later; with one hand-over
        # under way at a time a link would wait for that, and carry less than it can.
        "worker": {"gossip_s": 0.1, "link_window": 16},
        "runtime": {"workers": workers},
        "duration_s": _DURATION_S,
    }


def _about_links(lab: state.State) -> str:
    does = "bandwidth, latency and loss" if lab.netem else "bandwidth; this one has no netem, so mdi-exit does the rest"
    return f"The lab's graph. The kernel does the links' {does}."


def _dump(content: dict[str, Any], about: str) -> str:
    return f"# {about}\n{yaml.safe_dump(content, sort_keys=False, width=1000)}"
