"""The client in its namespace: on request it connects, or sends a datagram, and tells whether it came back."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

from appliance.doctor.scratch import isolation, wire

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

MESSAGE = b"lockgate doctor"
SECONDS = 1.5


def serve(channel: Connection, parent: int) -> None:
    """Until the channel ends. The first word is "gone" once we are in our namespace, then "wired"."""
    isolation.die_with(parent)
    isolation.another_network()
    wire.settle()
    channel.send("left")
    channel.recv()
    wire.client_end()
    channel.send("wired")
    while True:
        try:
            request = channel.recv()
        except EOFError:
            os._exit(0)
        channel.send(json.dumps(attempt(*request)))


def attempt(protocol: str, address: str, port: int) -> str:
    """ "" if the message came back from where it was sent to, else what was seen."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    try:
        with socket.socket(family, kind) as sock:
            sock.settimeout(SECONDS)
            sock.connect((address, port))
            sock.send(MESSAGE)
            answer = sock.recv(100)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return error.strerror or str(error)
    return "" if answer == MESSAGE else f"answered {answer!r}"
