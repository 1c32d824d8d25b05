"""A publisher that costs almost nothing: MQTT 3.1.1 PUBLISH packets made beforehand, written to a socket in bulk.

Packet formats: MQTT 3.1.1, sections 3.1 (CONNECT), 3.3 (PUBLISH) and 3.4 (PUBACK).
"""

import socket
from collections.abc import Iterable
from itertools import islice
from typing import Final

_CONNECT: Final = b"\x10\x11\x00\x04MQTT\x04\x02\xff\xff\x00\x05blast"
_PUBACK_BYTES: Final = 4
_UNACKNOWLEDGED: Final = 500


def publish_packet(topic: str, payload: bytes, packet_id: int) -> bytes:
    """A PUBLISH with QoS 1."""
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + packet_id.to_bytes(2, "big") + payload
    return b"\x32" + _remaining_length(len(body)) + body


def blast(host: str, port: int, messages: Iterable[tuple[str, bytes]]) -> int:
    """Publishes all of them and returns how many, once the broker has acknowledged each."""
    count = 0
    source = iter(messages)
    with socket.create_connection((host, port), timeout=60) as connection, connection.makefile("rb") as answers:
        connection.sendall(_CONNECT)
        if answers.read(4)[3:] != b"\x00":
            raise ConnectionRefusedError("the broker refused the benchmark's publisher")
        while part := list(islice(source, _UNACKNOWLEDGED)):
            connection.sendall(b"".join(publish_packet(*each, index) for index, each in enumerate(part, start=1)))
            wanted = _PUBACK_BYTES * len(part)
            if len(answers.read(wanted)) != wanted:
                raise ConnectionResetError("the broker ended the benchmark's publisher")
            count += len(part)
        connection.sendall(b"\xe0\x00")
    return count


def _remaining_length(length: int) -> bytes:
    encoded = bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(encoded)
