"""Emulated devices on one Linux machine: a lab. Read `spec`, `laboratory`, `warden`, `device`, `network`, `cgroups`.

Each device has its own network, process, mount, host name and IPC namespaces, a CPU and a memory limit (cgroups) and an
ssh server; veth pairs join them over a bridge in a namespace of the lab's own, so no address of the machine changes.
All of it hangs on one process, the first in the lab's process namespace: when that ends, the kernel ends the rest.
Design: ours. Why not `ip netns`: its names in /run outlive a crash, a process's own namespaces do not.
"""

DEFAULT = "lab"  # the name of a lab that was given none
