"""The publisher: one thread that owns the outbox and the window, and tells the link what to send.

Readings, what the link tells, and the order to stop arrive in one queue. So SQLite has one connection in one thread
without a lock, a slow disk never delays a collector, ticks that arrive together share a commit, and a tick is
committed before it can be sent (unless the outbox writes behind). What decides is pure and elsewhere: `window`.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Final

from edge_agent import messages
from edge_agent.config import Config
from edge_agent.delivery_report import DeliveryCounts, DeliveryReport
from edge_agent.errors import OutboxCorrupt, OutboxError
from edge_agent.intake import Intake
from edge_agent.mqtt import Acknowledged, Connected, Disconnected, Event, Link, Received, Will
from edge_agent.outbox import Outbox, StoredTick
from edge_agent.reading import Reading
from edge_agent.shelter import MAX_BYTES as SHELTER_BYTES
from edge_agent.shelter import Shelter
from edge_agent.timestamps import Timestamps, Trusting
from edge_agent.token_bucket import TokenBucket
from edge_agent.window import Lane, Limits, Range, Window
from telemetry_contract.codec import Encoded, decode_ack, encode
from telemetry_contract.errors import PayloadError
from telemetry_contract.payload import VERSION, CommitAck, DesiredState, Status
from telemetry_contract.topics import Kind, Topic
from telemetry_contract.version import __version__

MAX_MESSAGE_BYTES: Final = 262_144
STATUS_INTERVAL_SECONDS: Final = 60.0
MAX_QUEUED_ACKS: Final = 1_000
_STEP_SECONDS: Final = 1.0
_REST_SECONDS: Final = 10.0
_GOODBYE_SECONDS: Final = 1.0
_TOPIC_BYTES: Final = 1_024
_RECENT_TICKS: Final = 1_000
_MAX_ARRIVED: Final = 1_000
_RELEASED_AT_A_TIME: Final = 200
_NOTE_NEWEST_SECONDS: Final = 600.0
# So long nothing else happens while the disk refuses, and then it is tried again.
_REFUSAL_SECONDS: Final = 5.0
# MQTT 5, section 3.4.2.1: a PUBACK that refuses this message, not every one.
_FOR_ITS_CONTENT: Final = frozenset({"Packet too large", "Payload format invalid", "Topic name invalid"})

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is speaking, as the status message says it."""

    boot_id: str
    config_hash: str
    desired: DesiredState | None = None


@dataclass(frozen=True, slots=True)
class _Proof:
    """Wanted: that a tick from `first` on is confirmed. `first` is known once what came before is counted."""

    proved: Callable[[], None]
    first: int = 0


@dataclass(frozen=True, slots=True)
class _Stop:
    grace_seconds: float


class Publisher:
    """Delivers what is appended, the present first, until it is confirmed.

    `append`, `depth`, `report`, `identify`, `prove`, `stalled` and `stop` may be called from any thread. Should its
    thread end by an error of this program, it calls `on_failure`.
    """

    def __init__(
        self,
        config: Config,
        outbox: Outbox,
        identity: Identity,
        on_failure: Callable[[], None] = lambda: None,
        on_config: Callable[[bytes], None] = lambda _: None,
        *,
        timestamps: Timestamps | None = None,
        open_disk: Callable[[], Outbox] | None = None,
    ) -> None:
        """`on_config` is called in its thread with each payload of the topic of the desired configuration.

        Without `timestamps` readings have the right times already. `open_disk` opens the outbox on disk where `outbox`
        is one in memory, in its place.
        """
        self._config = config
        self._outbox = outbox
        self._identity = identity
        self._on_failure = on_failure
        self._on_config = on_config
        self._by_broker = config.delivery.confirm == "broker"
        self._window = Window(
            Limits(
                messages=config.delivery.window_messages,
                bytes=config.delivery.window_bytes,
                ticks_per_message=config.delivery.backlog_ticks_per_message,
                message_bytes=MAX_MESSAGE_BYTES,
                confirm_timeout_seconds=config.delivery.confirm_timeout_seconds,
            )
        )
        self._intake = Intake()
        self._untimed = Intake()  # readings whose true times are not known yet
        self._queue: SimpleQueue[Reading | Event | Identity | _Proof | _Stop] = SimpleQueue()
        self._link = Link(
            config.broker,
            client_id=f"edge-{config.device}",
            will=self._will(),
            subscriptions=[self._topic(Kind.ACK)],
            at_least_once=[self._topic(Kind.CONFIG)],
            listener=self._hear,
        )
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        # Shared between threads: `_appended` is guarded by the lock; of the others the thread replaces each as a whole.
        self._lock = threading.Lock()
        self._appended = 0
        self._accounted = (
            0,
            outbox.depth + outbox.waiting,
        )  # of so many appended ones and what was there before, so many are held
        self._busy_since: float | None = time.monotonic()  # None while it waits for something to do
        # The thread's own.
        self._timestamps: Timestamps = Trusting() if timestamps is None else timestamps
        self._newest_due = 0.0
        self._shelter = None if open_disk is None else Shelter(outbox, None, open_disk)
        self._refused_since: float | None = None
        self._disk_due = 0.0
        rate = config.delivery.backlog_bytes_per_second
        self._backlog_budget = None if rate is None else TokenBucket.full(rate, time.monotonic())
        self._connection: Connected | None = None
        self._packets: dict[int, int] = {}  # packet id -> the window's id, of this connection
        self._taken = 0
        self._highest_sent = 0
        self._ack: CommitAck | None = None
        self._proof: _Proof | None = None
        self._confirmed: list[int] = []
        self._unsettled: list[Range] = []  # settled, and not deleted yet
        self._status_due = 0.0
        self._maintenance_due = 0.0
        self._unflushed_since: float | None = None
        self._dropped = outbox.dropped
        self._disk_fails = False
        self._counts = DeliveryCounts()
        self._report_due = 0.0
        self._stop_at: float | None = None
        self._timeout = min(_STEP_SECONDS, config.delivery.confirm_timeout_seconds / 4)
        self._report = self._reported()

    @property
    def depth(self) -> int:
        """How many ticks wait for their confirmation, those that are not stored yet included."""
        with self._lock:
            taken, held = self._accounted
            return held + self._appended - taken

    @property
    def report(self) -> DeliveryReport:
        """How it stands, a second ago at most; after `stop` how it stood at the end."""
        return self._report

    def start(self) -> None:
        """Begins to store and to send."""
        self._thread.start()
        self._link.start()

    def append(self, reading: Reading) -> None:
        """Takes a reading; returns at once."""
        with self._lock:
            self._appended += 1
        self._queue.put(reading)

    def identify(self, identity: Identity) -> None:
        """What the status message says from now on; it is published at once."""
        self._queue.put(identity)

    def prove(self, proved: Callable[[], None]) -> None:
        """Have `proved` called, in its thread, once a reading is confirmed that is appended after this; only once.

        A later call takes the place of an earlier one.
        """
        self._queue.put(_Proof(proved))

    def stop(self, grace_seconds: float = 2.0) -> None:
        """Delivers what it can in the grace time, says goodbye, and closes link and outbox.

        After a failure there is no goodbye: the broker publishes the last will.
        """
        self._queue.put(_Stop(grace_seconds))
        if self._thread.ident is None:
            self._close_outbox()
        else:
            self._thread.join()

    def stalled(self, grace_seconds: float = 10.0) -> str | None:
        """What keeps it from its work, for a watchdog and for people; None while all is well."""
        if not self._thread.is_alive():
            return "the publisher has ended"
        since = self._busy_since
        busy_seconds = 0.0 if since is None else time.monotonic() - since
        return f"the publisher has been busy for {busy_seconds:.0f} s" if busy_seconds > grace_seconds else None

    def _run(self) -> None:
        try:
            self._guarded(self._remember_recent)
            while not self._is_done(time.monotonic()):
                self._turn(self._next(self._wait_seconds(time.monotonic())))
            self._finish()
        except Exception:
            log.critical("the publisher failed", exc_info=True)
            self._on_failure()
        finally:
            self._close_outbox()

    def _next(self, timeout_seconds: float) -> list[Reading | Event | Identity | _Proof | _Stop]:
        """What has arrived, after waiting for it at most so long."""
        arrived: list[Reading | Event | Identity | _Proof | _Stop] = []
        self._busy_since = None
        with contextlib.suppress(Empty):
            arrived.append(self._queue.get(timeout=timeout_seconds))
        self._busy_since = time.monotonic()
        with contextlib.suppress(Empty):
            while arrived and len(arrived) < _MAX_ARRIVED:
                arrived.append(self._queue.get_nowait())
        return arrived

    def _turn(self, arrived: Sequence[Reading | Event | Identity | _Proof | _Stop]) -> None:
        """One round: listen, store, maintain, send."""
        self._listen(arrived)
        self._guarded(self._work)
        held = self._outbox.depth + self._outbox.waiting + self._intake.waiting + self._untimed.waiting
        if self._shelter is not None and self._shelter.disk is not None:
            held += self._shelter.disk.depth + self._shelter.disk.waiting
        self._accounted = (self._taken, held)
        now = time.monotonic()
        if now >= self._report_due or self._at_rest():
            self._report_due = now + _STEP_SECONDS
            with contextlib.suppress(OutboxError):  # the next turn meets it too
                self._report = self._reported()

    def _wait_seconds(self, now: float) -> float:
        """How long nothing is due, unless something arrives."""
        if not self._at_rest():
            return self._timeout
        due = now + _REST_SECONDS
        if self._connection is not None:
            due = min(due, self._status_due)
        if self._unflushed_since is not None:
            due = min(due, self._unflushed_since + self._config.outbox.flush_after_seconds)
        return max(0.0, max(due, self._maintenance_due) - now)

    def _at_rest(self) -> bool:
        """Whether nothing waits for a confirmation, the disk, the time or the end."""
        if self._stop_at is not None or self._shelter is not None or self._disk_fails or self._unsettled:
            return False
        if self._intake.waiting or self._untimed.waiting or self._outbox.waiting or not self._timestamps.settled:
            return False
        return self._connection is None or (self._outbox.depth == 0 and self._window.at_rest)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Does what needs the outbox, and survives a disk that does not play along."""
        try:
            work()
        except OutboxCorrupt as exc:
            if self._shelter is not None:
                with contextlib.suppress(OutboxError):  # it is opened anew as it works again
                    self._shelter.replace_disk(exc)
                return
            self._outbox = self._outbox.replaced(exc)
            self._begin_stream()
        except OutboxError as exc:
            if not self._disk_fails:
                log.warning("%s; trying again", exc)
                self._disk_fails = True
        else:
            if self._disk_fails:
                log.info("the outbox works again")
                self._disk_fails = False

    def _work(self) -> None:
        self._store()
        self._settle_all()
        now = time.monotonic()
        self._release(now)
        if now >= self._maintenance_due:
            self._maintenance_due = now + self._timeout
            self._maintain(now)
        if now >= self._status_due:
            self._publish_status(online=True)
        self._send_all(now)

    def _listen(self, arrived: Sequence[Reading | Event | Identity | _Proof | _Stop]) -> None:
        """Notes what has arrived, in order, and touches no disk, so that nothing of it is lost to an error there."""
        for event in arrived:
            match event:
                case Reading():
                    timed = self._timestamps.stamped(event)
                    (self._untimed if timed is None else self._intake).add([timed or event])
                    self._taken += 1
                case Connected():
                    self._connection = event
                    self._packets.clear()
                    self._window.connect(event.receive_maximum)
                    self._timestamps.connected(time.monotonic())
                    self._status_due = 0.0
                case Disconnected():
                    self._disconnected()
                case Acknowledged():
                    self._confirmed += self._acknowledged(event)
                case Received():
                    self._received(event)
                case Identity():
                    self._identity = event
                    self._status_due = 0.0
                case _Proof():
                    self._proof = replace(event, first=self._next_unseen())
                case _Stop():
                    self._stop_at = time.monotonic() + event.grace_seconds

    def _store(self) -> None:
        target = self._outbox if self._shelter is None else self._shelter.target
        seqs = self._intake.store(target, self._window.unconfirmed)
        if target is self._outbox:
            self._appended_to_outbox(seqs)
        self._untimed.hold(target, self._identity.boot_id, self._window.unconfirmed)
        self._mind_refusal(time.monotonic())
        if self._outbox.unflushed and self._unflushed_since is None:
            self._unflushed_since = time.monotonic()

    def _mind_refusal(self, now: float) -> None:
        """Where the disk has refused for a while, readings go into an outbox in memory, and are sent from there."""
        if not self._intake.waiting and not self._untimed.waiting:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since >= _REFUSAL_SECONDS:
            self._refused_since = None
            if self._shelter is not None:
                self._shelter.return_here()
                return
            disk = self._outbox
            self._outbox = Outbox.in_memory(
                max_bytes=min(SHELTER_BYTES, self._config.outbox.max_bytes),
                min_resolution_seconds=self._config.outbox.min_resolution_seconds,
            )
            self._shelter = Shelter(self._outbox, disk, lambda: disk)
            self._disk_due = now + _REFUSAL_SECONDS
            log.warning("the disk goes on to refuse: readings are kept and sent from memory, in a stream of their own")
            self._begin_stream()

    def _leave_shelter(self, now: float) -> None:
        """Back to the disk, once it works."""
        if self._shelter is None or now < self._disk_due:
            return
        self._disk_due = now + _REFUSAL_SECONDS
        try:
            disk = self._shelter.left(self._highest_sent)
        except OutboxError:  # was told before
            return
        if disk is not None:
            self._outbox.close()
            self._outbox, self._shelter = disk, None
            self._dropped = disk.dropped
            log.warning("the outbox is on disk again")
            self._begin_stream()

    def _next_unseen(self) -> int:
        """A number that no reading gets that is here already."""
        return self._outbox.next_seq + self._intake.waiting + self._untimed.waiting + self._outbox.waiting

    def _release(self, now: float) -> None:
        """Gives what waited for its time its place among what is to be sent, once that is known."""
        self._timestamps.look(now)
        if not self._outbox.waiting or not self._timestamps.settled:
            return
        times = self._timestamps.times(self._outbox.boots())
        while released := self._outbox.release(times, _RELEASED_AT_A_TIME):
            self._appended_to_outbox(released)

    def _appended_to_outbox(self, seqs: Sequence[int]) -> None:
        if seqs:
            for seq, layout in self._outbox.index(seqs[0]):
                self._window.appended(seq, layout)

    def _note_newest(self) -> None:
        """What is measured later was measured later, also after a restart without the time."""
        now_ms = self._timestamps.now_ms()
        if now_ms is not None and self._timestamps.doubting:
            self._outbox.note_newest(now_ms)

    def _settle_all(self) -> None:
        """Of what was confirmed since the last time."""
        confirmed, self._confirmed = self._confirmed, []
        ack, self._ack = self._ack, None
        if confirmed and self._by_broker:
            self._settle([(seq, seq) for seq in sorted(confirmed)])
        if ack is not None:
            self._committed(ack)

    def _disconnected(self) -> None:
        self._connection = None
        self._packets.clear()
        self._window.disconnect()
        self._timestamps.disconnected()

    def _acknowledged(self, event: Acknowledged) -> list[int]:
        """The ticks of a message that the broker has."""
        now = time.monotonic()
        if self._connection is None or event.connection != self._connection.connection:
            return []
        message_id = self._packets.pop(event.packet_id, None)
        if message_id is None:
            return []
        if event.failure is None:
            return self._window.acknowledged(now, message_id)
        self._counts.refused_messages += 1
        if not self._window.stalled:
            log.warning("the broker refused a message: %s; trying again", event.failure)
        self._window.refused(now, message_id, for_its_content=str(event.failure) in _FOR_ITS_CONTENT)
        return []

    def _received(self, event: Received) -> None:
        if event.topic == self._topic(Kind.CONFIG):
            self._on_config(event.payload)
        else:
            self._ack = self._decoded(event) or self._ack

    def _decoded(self, event: Received) -> CommitAck | None:
        """The commit ack in a message, if it is one for this stream."""
        try:
            ack = decode_ack(event.payload)
        except PayloadError as exc:
            self._counts.ignored_acks += 1
            if self._counts.ignored_acks == 1:
                log.warning("ignored a message on %s, and will ignore others like it: %s", event.topic, exc)
            return None
        if not event.retained:  # else it is older
            self._timestamps.server_said(ack.server_time)
        mine = ack.stream == self._outbox.stream and not self._by_broker
        self._counts.commit_acks += mine
        return ack if mine and ack.committed else None

    def _committed(self, ack: CommitAck) -> None:
        last = ack.committed[-1][1]
        if last <= max(self._outbox.last_at_open, self._highest_sent):
            self._settle(ack.committed)
            return
        # Another copy of this outbox was used, or the disk lost what it had said to have: numbers may mean two ticks.
        log.error(
            "the cloud has tick %d of this stream, but this outbox has sent none above %d: it is an old copy."
            " Its ticks go on in a new stream",
            last,
            max(self._outbox.last_at_open, self._highest_sent),
        )
        before = self._outbox.last_at_open
        self._settle([(first, min(end, before)) for first, end in ack.committed if first <= before])
        self._outbox.restart_stream()
        self._begin_stream()

    def _settle(self, ranges: Sequence[Range]) -> None:
        """Deletes what is stored elsewhere for good; what the disk refuses to delete now is deleted later."""
        deleted = 0
        try:
            deleted = self._outbox.confirm([*self._unsettled, *ranges])
            self._unsettled = []
        except OutboxCorrupt:
            raise
        except OutboxError:
            self._unsettled += ranges if self._by_broker else []
            if not self._by_broker:
                self._unsettled = list(ranges)  # acks are cumulative
        self._counts.ticks_confirmed += deleted
        self._window.confirmed(time.monotonic(), ranges, deleted=deleted)
        if self._proof is not None and ranges and ranges[-1][1] >= self._proof.first:
            self._proof.proved()
            self._proof = None

    def _maintain(self, now: float) -> None:
        self._leave_shelter(now)
        if self._unsettled:
            self._settle([])
        if self._unflushed_since is not None and (
            now - self._unflushed_since >= self._config.outbox.flush_after_seconds or not self._outbox.unflushed
        ):
            self._outbox.flush(self._window.unconfirmed)
            self._unflushed_since = None
        if now >= self._newest_due:
            self._newest_due = now + _NOTE_NEWEST_SECONDS
            self._note_newest()
        self._window.expire(now)
        if self._window.is_unanswered(now):
            log.warning("the broker has stopped to answer: connecting anew")
            self._link.drop()
            self._disconnected()
        if self._outbox.dropped != self._dropped:
            self._dropped = self._outbox.dropped
            self._window.forget_below(self._outbox.low() or self._outbox.next_seq)

    def _send_all(self, now: float) -> None:
        """Sends what the window allows, until something arrives that comes first."""
        while (connection := self._connection) is not None:
            seq = self._window.live(now)
            lane, seqs = Lane.LIVE, [] if seq is None else [seq]
            if not seqs:
                if self._backlog_budget is not None and not self._backlog_budget.allows(now):
                    return
                lane, seqs = Lane.BACKLOG, self._window.backlog(now, self._outbox.index, self._fitting)
            if not seqs or not self._send(connection, now, lane, seqs) or not self._queue.empty():
                return

    def _send(self, connection: Connected, now: float, lane: Lane, seqs: Sequence[int]) -> bool:
        """Whether the next may follow."""
        ticks = self._outbox.ticks(seqs)
        if len(ticks) < len(seqs):
            self._window.forget(set(seqs) - {tick.seq for tick in ticks})
            if not ticks:
                return True
        encoded = self._encoded(lane, ticks)
        limit = connection.maximum_packet_bytes
        if limit is not None and len(encoded.payload) + _TOPIC_BYTES > limit:
            if len(ticks) > 1:
                return self._send(connection, now, lane, [tick.seq for tick in ticks[: len(ticks) // 2]])
            log.warning("tick %d has %d bytes, more than the broker takes", ticks[0].seq, len(encoded.payload))
            message_id = self._window.sent(now, lane, [ticks[0].seq], 0)
            self._window.refused(now, message_id, for_its_content=True)
            return True
        kind = Kind.SAMPLES if lane is Lane.LIVE else Kind.BACKLOG
        packet_id = self._publish(kind, encoded)
        if packet_id is None:
            return False
        sent = [tick.seq for tick in ticks]
        self._packets[packet_id] = self._window.sent(now, lane, sent, len(encoded.payload))
        self._highest_sent = max(self._highest_sent, sent[-1])
        if lane is Lane.BACKLOG and self._backlog_budget is not None:
            self._backlog_budget = self._backlog_budget.taken(now, len(encoded.payload))
        self._counts.messages_sent += 1
        self._counts.ticks_sent += len(sent)
        return True

    def _encoded(self, lane: Lane, ticks: Sequence[StoredTick]) -> Encoded:
        keys, clock = self._outbox.keys(ticks[0].layout), self._outbox.clock(ticks[0].layout)
        if self._by_broker:
            # What the broker has may be on its way for long: that it does not come any more is not to be said.
            low, gone = 1, None
        else:
            low = self._outbox.low() or ticks[0].seq
            gone = self._outbox.gone([tick.seq for tick in ticks])
        if lane is Lane.LIVE:
            return messages.live(self._outbox.stream, low, ticks[0], keys, gone, clock=clock)
        return messages.backlog(self._outbox.stream, low, ticks, keys, gone, clock=clock)

    def _fitting(self, layout: int) -> int:
        limit = self._connection.maximum_packet_bytes if self._connection is not None else None
        return messages.fitting(
            self._outbox.keys(layout),
            MAX_MESSAGE_BYTES if limit is None else min(MAX_MESSAGE_BYTES, limit - _TOPIC_BYTES),
        )

    def _publish(self, kind: Kind, encoded: Encoded, *, retain: bool = False) -> int | None:
        if self._connection is None:
            return None
        return self._link.publish(
            self._connection.connection,
            self._topic(kind),
            encoded.payload,
            retain=retain,
            content_type=encoded.content_type,
        )

    def _publish_status(self, *, online: bool) -> int | None:
        """The packet id of a status message; where there is no room for one now, the next maintenance tries again."""
        if not self._window.room_for_status():
            return None
        packet_id = self._publish(Kind.STATUS, encode(self._status(online=online)), retain=True)
        if packet_id is not None:
            now = time.monotonic()
            self._packets[packet_id] = self._window.status_sent(now)
            self._status_due = now + STATUS_INTERVAL_SECONDS
        return packet_id

    def _status(self, *, online: bool) -> Status:
        return Status(
            v=VERSION,
            online=online,
            stream=self._outbox.stream,
            boot_id=self._identity.boot_id,
            agent_version=__version__,
            # Also a wrong one: a status without a time is the last will.
            time=self._timestamps.now_ms() or time.time_ns() // 1_000_000,
            reason=None if online else "stopped",
            outbox=self._outbox.state(),
            config_hash=self._identity.config_hash,
            desired=self._identity.desired,
        )

    def _reported(self) -> DeliveryReport:
        return DeliveryReport(
            stream=self._outbox.stream,
            connected=self._connection is not None,
            in_flight=self._window.in_flight,
            stalled=self._window.stalled,
            in_memory=(in_memory := self._in_memory()),
            disk_fails=self._disk_fails or self._shelter is not None or in_memory > 0,
            untimed_readings=self._outbox.waiting + self._untimed.waiting,
            clock=self._timestamps.report(),
            outbox=self._outbox.state(),
            counts=replace(self._counts),
        )

    def _in_memory(self) -> int:
        """How many readings a crash loses because of the disk."""
        sheltered = 0 if self._shelter is None else self._shelter.memory.depth + self._shelter.memory.waiting
        return self._intake.waiting + self._untimed.waiting + sheltered

    def _will(self) -> Will:
        lost = Status(
            v=VERSION,
            online=False,
            stream=self._outbox.stream,
            boot_id=self._identity.boot_id,
            agent_version=__version__,
            reason="lost",
        )
        return Will(self._topic(Kind.STATUS), encode(lost).payload)

    def _topic(self, kind: Kind) -> str:
        return str(Topic(self._config.site, self._config.device, kind))

    def _hear(self, event: Event) -> None:
        """In the link's thread. Commit acks are cumulative, so a flood of them may lose some."""
        if not isinstance(event, Received) or self._queue.qsize() < MAX_QUEUED_ACKS:
            self._queue.put(event)

    def _remember_recent(self) -> None:
        for seq, layout in self._outbox.recent(_RECENT_TICKS):
            self._window.appended(seq, layout)

    def _begin_stream(self) -> None:
        self._ack = None
        if self._proof is not None:
            self._proof = replace(self._proof, first=self._next_unseen())
        self._unsettled = []
        self._highest_sent = 0
        self._window.reset()
        self._remember_recent()
        self._link.set_will(self._will())
        self._status_due = 0.0

    def _is_done(self, now: float) -> bool:
        if self._stop_at is None:
            return False
        return now >= self._stop_at or self._connection is None or (self._outbox.depth == 0 and self._queue.empty())

    def _finish(self) -> None:
        """Says goodbye, waits a moment until the broker has it, and stores what is left."""
        goodbye = None
        with contextlib.suppress(OutboxError):  # was told before
            goodbye = self._publish_status(online=False)
        deadline = time.monotonic() + _GOODBYE_SECONDS
        while goodbye in self._packets and time.monotonic() < deadline:
            self._listen(self._next(_GOODBYE_SECONDS))
        self._link.close()
        self._listen(self._next(0.0))
        try:
            self._store()
            self._settle_all()
            self._note_newest()
            self._leave_shelter(float("inf"))
        except OutboxError as exc:
            log.warning("%s", exc)
        if refused := self._in_memory():
            log.error("%d readings that the disk did not take are lost, unless they were sent", refused)
        with contextlib.suppress(OutboxError):
            self._report = self._reported()

    def _close_outbox(self) -> None:
        if self._shelter is not None and self._shelter.disk is not None:
            self._outbox.close()
            self._outbox = self._shelter.disk
        try:
            self._outbox.close()
        except OutboxError as exc:
            log.warning("%s; %d ticks that were in memory only are lost", exc, self._outbox.unflushed)
