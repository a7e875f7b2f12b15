"""Direct connections between neighbouring workers: who may speak, and frames in and out.

Every worker listens on one socket and holds one connection to each neighbour, on which everything it has to say to
that neighbour leaves in order. With encryption (CURVE) a worker is known by a key pair that it draws when it starts;
the control plane hands the public half out. Without, it is known by a random token (PLAIN), which keeps strangers out
but can be read on the way. Either way only listed neighbours are let in, and a message counts as its sender's because
of the key that its connection was opened with, not because of anything it says. Keys die with the process that drew
them, so nothing that an earlier life of a worker sent is taken for its present one's.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import math
import secrets
import select
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from mdi_exit.errors import UserError
from mdi_exit.wire import TENSOR_BYTES_MAX, Buffer

_DOMAIN = b"mdi-exit"
_QUEUED_MAX = 1_000  # messages waiting per connection and side; link windows keep far below, a flood ends here
_HEARTBEAT_MS = 1_000  # a silent machine is noticed within the timeout, a dead process at once
_HEARTBEAT_TIMEOUT_MS = 5_000
_HANDSHAKE_MS = 10_000  # how long a connection may wait to be let in, before it is tried again
_ASKING_MAX = 64  # connections waiting to be let in; strangers' take the place of strangers'
_RECONNECT_MS = 50
_RECONNECT_MAX_MS = 1_000
_SHORT_S = 0.00002  # not worth waiting for: the system wakes us no more exactly
_SELECT_MAX = 1_024  # `select` takes descriptors below this
# As plain numbers: joining two of ZeroMQ's own flags takes as long as sending.
_AT_ONCE = int(zmq.NOBLOCK)
_AND_MORE = _AT_ONCE | int(zmq.SNDMORE)
_CHANGES = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


@dataclass(frozen=True, slots=True)
class Address:
    """Where a worker listens and by what it is known; what the control plane hands out."""

    endpoint: str
    key: bytes  # the public half of its CURVE pair in Z85, or its token


@dataclass(slots=True)
class _Connection:
    """Our way to one neighbour. Until it is first up, ZeroMQ keeps what is sent; once it went down, nothing is."""

    address: Address
    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    up: bool = False
    down: bool = False


class Links:
    """The connections of one worker. For one thread, except where a method says otherwise."""

    def __init__(self, name: str, host: str, port: int | None, encrypt: bool, wake_fd: int) -> None:
        """Listen on `host`, at `port` or any free one; `wait` also ends when `wake_fd` can be read.

        Raises UserError when the port is taken or the host is not this machine's.
        """
        self._name = name
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._encrypt = encrypt
        if encrypt:
            self._key, self._secret = zmq.curve_keypair()
        else:
            self._key = secrets.token_hex(16).encode()
        self._names: dict[str, str] = {}  # who may speak: key -> neighbour
        self._connections: dict[str, _Connection] = {}
        self._asking: deque[tuple[list[bytes], str]] = deque(maxlen=_ASKING_MAX)  # who waits to be let in
        self._monitors = itertools.count()
        # A ZeroMQ socket's descriptor can be read when something happened to the socket that it has not looked at yet.
        # Whoever then reads until there is nothing more misses nothing, and saves the dozen system calls that
        # ZeroMQ's own polling takes each time.
        self._poll = select.poll()
        self._poll.register(wake_fd, select.POLLIN)
        self._wake_fd = wake_fd
        self._happened: dict[int, Callable[[], None]] = {}  # by descriptor: what to do then
        self._unread = False  # there may be a message that `receive` has not returned yet
        # Without its gate a listening socket would let everybody in, so the gate comes first.
        self._gate = self._socket(zmq.ROUTER)
        self._gate.bind("inproc://zeromq.zap.01")
        self._heed(self._gate, self._ask_in)
        self._inbound = self._listen(host, port)
        self._heed(self._inbound, self._note_message)
        self.strangers = 0  # messages dropped because their sender is not, or no longer, a neighbour
        self.on_down: Callable[[str], None] = lambda name: None

    @property
    def address(self) -> Address:
        """What neighbours must know to connect."""
        return Address(self._inbound.getsockopt_string(zmq.LAST_ENDPOINT), self._key)

    @property
    def missing(self) -> list[str]:
        """The neighbours that cannot be reached just now."""
        return [name for name, connection in self._connections.items() if not connection.up]

    def set_neighbours(self, addresses: Mapping[str, Address]) -> None:
        """Connect to these neighbours and let them in, and nobody else. Unchanged ones keep their connection."""
        for name, connection in list(self._connections.items()):
            if addresses.get(name) != connection.address:
                self._disconnect(name)
        self._names = {address.key.decode("ascii"): name for name, address in addresses.items()}
        self._ask_in()
        for name, address in addresses.items():
            if name not in self._connections:
                self._connect(name, address)

    def reaches(self, name: str) -> bool:
        """Say whether what is sent to a neighbour may get there."""
        connection = self._connections.get(name)
        return connection is not None and not connection.down

    def send(self, name: str, frames: Sequence[Buffer]) -> bool:
        """Send messages, all their frames, to a neighbour; False when they are known not to get there."""
        if not self.reaches(name):
            return False
        connection = self._connections[name]
        try:
            # What is small is copied either way; said outright, it takes a third less.
            small = all([len(frame) < zmq.COPY_THRESHOLD for frame in frames])
            for frame in frames[:-1]:
                connection.socket.send(frame, _AND_MORE, small)
            connection.socket.send(frames[-1], _AT_ONCE, small)
        except zmq.Again:  # the connection's queue is full: as good as down
            return False
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait until a message came, `wake_fd` can be read, or the time is up; note who connected and who left.

        Returns whether `wake_fd` can be read.
        """
        woken = False
        for descriptor in self._readable(0.0 if self._unread else timeout_s):
            if (action := self._happened.get(descriptor)) is not None:
                action()
            else:
                woken = True
        return woken

    def _readable(self, timeout_s: float) -> list[int]:
        """The descriptors that can be read, as soon as one can be.

        Polling counts whole milliseconds. Rounded up, every frame that a shaped link holds back would be late, and so
        would its acknowledgement; so `select` waits, which counts finer. Both after each other would wake us twice.
        """
        if timeout_s > _SHORT_S and max(descriptors := [self._wake_fd, *self._happened]) < _SELECT_MAX:
            return select.select(descriptors, (), (), timeout_s)[0]
        milliseconds = math.ceil(1000 * timeout_s) if timeout_s > _SHORT_S else 0
        return [descriptor for descriptor, _ in self._poll.poll(milliseconds)]

    def receive(self) -> tuple[str, list[Buffer]] | None:
        """Return the next frames that were sent together, with the neighbour, or None when there are none."""
        while self._unread:
            try:
                frames = [self._inbound.recv(_AT_ONCE, False)]
                while frames[-1].more:
                    frames.append(self._inbound.recv(_AT_ONCE, False))
            except zmq.Again:
                self._unread = False
                break
            sender = self._names.get(str(frames[0].get("User-Id")))
            if sender is not None:
                return sender, [frame.buffer for frame in frames[1:]]
            self.strangers += 1
        return None

    def close(self) -> None:
        """Close every socket and drop what was not sent."""
        for name in list(self._connections):
            self._disconnect(name)
        self._context.destroy(linger=0)

    # ---- letting neighbours in

    def _listen(self, host: str, port: int | None) -> zmq.Socket[bytes]:
        inbound = self._socket(zmq.ROUTER)
        inbound.zap_domain = _DOMAIN
        if self._encrypt:
            inbound.curve_server = True
            inbound.curve_secretkey = self._secret
        else:
            inbound.plain_server = True
        try:
            inbound.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            place = f"{self._name}: cannot listen on {host}:{port or '(any free port)'}"
            if error.errno == errno.EADDRINUSE:
                raise UserError(f"{place}: the port is in use; choose another runtime.port_base, or none") from error
            raise UserError(
                f"{place}: {error.strerror}; runtime.workers must give the machine's own address"
            ) from error
        return inbound

    def _ask_in(self) -> None:
        """Take ZeroMQ's questions (RFC 27, ZAP) whether a connection's credentials are good, and answer those whose
        key is a neighbour's.

        The others wait: a neighbour may ask before we are told of it, and ZeroMQ would never ask again after a no. A
        stranger waits until its own patience ends.
        """
        asked_more = True
        while asked_more:
            asked_more = False
            with contextlib.suppress(zmq.Again):
                while True:
                    question = self._gate.recv_multipart(zmq.NOBLOCK)
                    # Who asks, an empty frame, the protocol's version, a number, domain, address, identity, mechanism,
                    # credentials: the public key, or a name and the token.
                    credential = z85.encode(question[-1]) if question[7] == b"CURVE" else question[-1]
                    self._asking.append((question[:4], credential.decode("ascii", "replace")))
            for entry in [entry for entry in self._asking if entry[1] in self._names]:
                self._asking.remove(entry)
                envelope, key = entry
                self._gate.send_multipart([*envelope, b"200", b"OK", key.encode("ascii"), b""])
                asked_more = True  # while it is answered, the gate may have noticed a further question

    # ---- reaching them

    def _connect(self, name: str, address: Address) -> None:
        socket = self._socket(zmq.DEALER)
        socket.reconnect_ivl = _RECONNECT_MS
        socket.reconnect_ivl_max = _RECONNECT_MAX_MS
        if self._encrypt:
            socket.curve_publickey, socket.curve_secretkey = self._key, self._secret
            socket.curve_serverkey = address.key
        else:
            socket.plain_username, socket.plain_password = self._name.encode(), self._key
        monitor = socket.get_monitor_socket(_CHANGES, f"inproc://monitor-{next(self._monitors)}")
        self._heed(monitor, functools.partial(self._note_change, name))
        socket.connect(address.endpoint)
        self._connections[name] = _Connection(address, socket, monitor)
        self._note_change(name)  # only after a vain look does ZeroMQ tell of the next change

    def _disconnect(self, name: str) -> None:
        connection = self._connections.pop(name)
        self._poll.unregister(descriptor := connection.monitor.FD)
        del self._happened[descriptor]
        connection.socket.disable_monitor()
        connection.monitor.close(linger=0)
        connection.socket.close(linger=0)
        self.on_down(name)

    def _note_change(self, name: str) -> None:
        connection = self._connections[name]
        with contextlib.suppress(zmq.Again):
            while True:
                event = recv_monitor_message(connection.monitor, zmq.NOBLOCK)["event"]
                connection.up = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
                connection.down = not connection.up
        if connection.down:
            self.on_down(name)

    def _note_message(self) -> None:
        self._unread = True

    def _heed(self, socket: zmq.Socket[bytes], action: Callable[[], None]) -> None:
        """Have `wait` do something when something happened to a socket."""
        self._happened[socket.FD] = action
        self._poll.register(socket.FD, select.POLLIN)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = _QUEUED_MAX
        socket.maxmsgsize = TENSOR_BYTES_MAX
        socket.handshake_ivl = _HANDSHAKE_MS
        socket.heartbeat_ivl, socket.heartbeat_timeout = _HEARTBEAT_MS, _HEARTBEAT_TIMEOUT_MS
        return socket
