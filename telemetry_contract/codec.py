"""Bytes of the wire <-> structs of `payload`.

Encoding turns NaN and infinities into null. Decoding accepts unknown fields (but of a desired configuration), checks
everything the schema says, and raises a PayloadError that says what is wrong; it never raises anything else, whatever
the bytes.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from telemetry_contract import compression, desired
from telemetry_contract.alerts import RuleAlerts
from telemetry_contract.desired import DesiredConfig, DesiredVersion
from telemetry_contract.errors import MalformedPayload, PayloadError, PayloadTooLarge, UnknownVersion
from telemetry_contract.payload import VERSION, Backlog, CommitAck, Gone, Status, Tick

CONTENT_TYPE: Final = "application/json"
DEFAULT_MAX_BYTES: Final = 16 * 1024 * 1024


class Encoded(NamedTuple):
    """A payload ready to publish and the MQTT 5 content type that names its compression."""

    payload: bytes
    content_type: str


_Message = TypeVar("_Message", Status, CommitAck)


class _Envelope(msgspec.Struct):
    """As much of a message as tells which kind it wants to be."""

    v: Any = None
    seq: Any = None


_encoder = msgspec.json.Encoder()
_tick = msgspec.json.Decoder(Tick)
_backlog = msgspec.json.Decoder(Backlog)
_status = msgspec.json.Decoder(Status)
_ack = msgspec.json.Decoder(CommitAck)
_desired = msgspec.json.Decoder(DesiredConfig)
_desired_version = msgspec.json.Decoder(DesiredVersion)
_envelope = msgspec.json.Decoder(_Envelope)


def encode(
    message: Tick | Backlog | Status | CommitAck | DesiredConfig | RuleAlerts,
    *,
    compress_above: int | None = None,
    with_: compression.Compression | None = None,
) -> Encoded:
    """The message as JSON, compressed where it is larger than `compress_above` bytes (None: never).

    `with_` names the compression; by default the best that is installed. A result that compression would enlarge
    stays plain.
    """
    data = _encoder.encode(message)
    if compress_above is None or len(data) <= compress_above:
        return Encoded(data, CONTENT_TYPE)
    chosen = compression.best_available() if with_ is None else with_
    smaller = compression.compress(data, chosen)
    if len(smaller) >= len(data):
        return Encoded(data, CONTENT_TYPE)
    return Encoded(smaller, f"{CONTENT_TYPE}+{chosen}")


def decode_samples(payload: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Tick | Backlog:
    """A live or backlog message; both topics carry either.

    Raises MalformedPayload, PayloadTooLarge or UnknownVersion.
    """
    data = _checked(payload, max_bytes)
    try:
        message: Tick | Backlog = _tick.decode(data)
    except (msgspec.ValidationError, RecursionError):
        message = _decode_backlog(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MalformedPayload(f"payload is not JSON: {exc}") from exc
    if message.v != VERSION:
        raise UnknownVersion(f"contract version {message.v} is not {VERSION}")
    if isinstance(message, Backlog):
        _check_columns(message)
    elif message.low > message.seq:
        raise MalformedPayload(f"low: {message.low} is above the message's own seq {message.seq}")
    if message.gone:
        _check_gone(message.gone, [message.seq] if isinstance(message, Tick) else message.seq)
    return message


def decode_status(payload: bytes, *, max_bytes: int = 1024 * 1024) -> Status:
    """A birth, refresh, goodbye or last will.

    Raises MalformedPayload, PayloadTooLarge or UnknownVersion.
    """
    return _decode(_status, payload, max_bytes)


def decode_ack(payload: bytes, *, max_bytes: int = 1024 * 1024) -> CommitAck:
    """A commit ack, its ranges ascending and disjoint.

    Raises MalformedPayload, PayloadTooLarge or UnknownVersion.
    """
    ack = _decode(_ack, payload, max_bytes)
    _check_ranges("committed", ack.committed)
    return ack


def decode_desired(payload: bytes, *, max_bytes: int = 64 * 1024) -> DesiredConfig:
    """A desired configuration, every value within its bounds.

    Raises MalformedPayload, which names the key, PayloadTooLarge or UnknownVersion.
    """
    data = _checked(payload, max_bytes)
    try:
        message = _desired.decode(data)
    except msgspec.ValidationError as exc:
        found = _diagnosis(data, exc)
        raise (found if isinstance(found, UnknownVersion) else MalformedPayload(desired.described(exc))) from exc
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise _diagnosis(data, exc) from exc
    if message.v != VERSION:
        raise UnknownVersion(f"contract version {message.v} is not {VERSION}")
    desired.check(message)
    return message


def desired_version(payload: bytes, *, max_bytes: int = 64 * 1024) -> int | None:
    """Which desired configuration a payload wants to be, whatever else is wrong with it; None where it says none."""
    try:
        return _desired_version.decode(_checked(payload, max_bytes)).version
    except (PayloadError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _decode(decoder: msgspec.json.Decoder[_Message], payload: bytes, max_bytes: int) -> _Message:
    data = _checked(payload, max_bytes)
    try:
        message = decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise _diagnosis(data, exc) from exc
    if message.v != VERSION:
        raise UnknownVersion(f"contract version {message.v} is not {VERSION}")
    return message


def _decode_backlog(data: bytes) -> Backlog:
    try:
        return _backlog.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise _diagnosis(data, exc) from exc


def _diagnosis(data: bytes, cause: Exception) -> MalformedPayload | UnknownVersion:
    """Why `data`, which failed to decode with `cause`, can't be used: of another version, or not of the schema."""
    try:
        envelope = _envelope.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return MalformedPayload(f"payload is not a JSON object: {cause}")
    if envelope.v != VERSION and envelope.v is not None:
        return UnknownVersion(f"contract version {envelope.v!r:.40} is not {VERSION}")
    if envelope.seq is not None and not isinstance(envelope.seq, list):
        try:
            _tick.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            return MalformedPayload(str(exc))
    return MalformedPayload(str(cause))


def _check_columns(message: Backlog) -> None:
    length = len(message.seq)
    if length == 0:
        raise MalformedPayload("seq: a backlog message holds at least one tick")
    if len(message.t) != length:
        raise MalformedPayload(f"t has {len(message.t)} entries, seq has {length}")
    if message.low > message.seq[0]:
        raise MalformedPayload(f"low: {message.low} is above the message's own first seq {message.seq[0]}")
    previous = 0
    for seq in message.seq:
        if seq <= previous:
            raise MalformedPayload(f"seq: {seq} does not follow {previous}; it must strictly increase")
        previous = seq
    for key, column in message.values.items():
        if len(column) != length:
            raise MalformedPayload(f"values[{key!r:.80}] has {len(column)} entries, seq has {length}")


def _check_gone(gone: Gone, seqs: Sequence[int]) -> None:
    for why, ranges in gone.items():
        field = f"gone[{why!r:.80}]"
        _check_ranges(field, ranges)
        for first, last in ranges:
            above = bisect_left(seqs, first)
            if above == len(seqs):
                raise MalformedPayload(f"{field}: [{first}, {last}] is not below the message's own seq {seqs[-1]}")
            if seqs[above] <= last:
                raise MalformedPayload(f"{field}: [{first}, {last}] holds the message's own seq {seqs[above]}")


def _check_ranges(field: str, ranges: Sequence[tuple[int, int]]) -> None:
    previous = 0
    for first, last in ranges:
        if first <= previous or last < first:
            raise MalformedPayload(f"{field}: range [{first}, {last}] is not ascending and disjoint")
        previous = last


def _checked(payload: bytes, max_bytes: int) -> bytes:
    if len(payload) > max_bytes:
        raise PayloadTooLarge(f"payload has {len(payload)} bytes, more than {max_bytes}")
    return compression.decompress(payload, max_bytes=max_bytes)
