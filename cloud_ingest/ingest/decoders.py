"""What understands the messages of each source, as the configuration has it."""

from collections.abc import Callable
from dataclasses import replace

from cloud_ingest.config import Config
from cloud_ingest.decode import Limits, decode
from cloud_ingest.foreign.blocks import Bounds, decode_foreign
from cloud_ingest.foreign.flat_json import JsonInterpreter
from cloud_ingest.foreign.influx import InfluxInterpreter
from cloud_ingest.foreign.interpretation import Interpretation, Interpreter
from cloud_ingest.foreign.settings import ForeignSource, InfluxSource, JsonSource, SparkplugSource
from cloud_ingest.foreign.sparkplug import RequestRebirth, SparkplugInterpreter
from cloud_ingest.ingest.pipeline import Decoder
from cloud_ingest.message import Message


def agents(config: Config) -> Decoder:
    """For the messages of our own agents."""
    limits = Limits(
        max_message_bytes=config.ingest.max_message_bytes,
        max_decompressed_bytes=config.ingest.max_decompressed_bytes,
        max_future_ms=config.ingest.max_future_seconds * 1000,
        max_age_ms=config.retention.tiers_ms[-1],
    )
    return lambda message, now_ms: decode(message, limits, now_ms)


def source(name: str, config: Config, request_rebirth: RequestRebirth, count_texts: Callable[[int], object]) -> Decoder:
    """For the messages of a source of the configuration as they come.

    What it gives says that they are from there, and came then. `count_texts` is told of values that are text.
    """
    interpreter = _Counting(interpreter_of(name, config.sources[name], request_rebirth), count_texts)
    bounds = _bounds(config)
    return lambda message, now_ms: decode_foreign(
        replace(message, source=name, received_ms=now_ms), interpreter, bounds, now_ms
    )


def by_source(config: Config) -> dict[str | None, Decoder]:
    """All of them by the name of the source, None for our own agents, to be given what came at some earlier time."""
    return {None: agents(config), **{name: _single(name, config) for name in config.sources}}


class _Counting:
    """An interpreter that tells how many values were left out because they are text."""

    def __init__(self, interpreter: Interpreter, count_texts: Callable[[int], object]) -> None:
        self._interpreter = interpreter
        self._count_texts = count_texts

    def interpret(self, message: Message, data: bytes, now_ms: int) -> Interpretation:
        """See Interpreter."""
        found = self._interpreter.interpret(message, data, now_ms)
        if found.texts:
            self._count_texts(found.texts)
        return found


def _single(name: str, config: Config) -> Decoder:
    """For messages of a source each by itself.

    Of Sparkplug only births of nodes: that another message followed the birth that was parked before it, with none
    between that changed its meaning, is known to nobody any more.
    """
    bounds = _bounds(config)
    settings = config.sources[name]
    return lambda message, now_ms: decode_foreign(message, interpreter_of(name, settings, _ask_nobody), bounds, now_ms)


def _bounds(config: Config) -> Bounds:
    return Bounds(
        max_message_bytes=config.ingest.max_message_bytes,
        max_future_ms=config.ingest.max_future_seconds * 1000,
        max_age_ms=config.retention.tiers_ms[-1],
    )


def interpreter_of(name: str, settings: ForeignSource, request_rebirth: RequestRebirth) -> Interpreter:
    """What understands the messages of a source. `request_rebirth` asks a Sparkplug node of a group for its births."""
    match settings:
        case InfluxSource():
            return InfluxInterpreter.of_source(name, settings)
        case JsonSource():
            return JsonInterpreter(name, settings)
        case SparkplugSource():
            rebirth_ms = round(settings.rebirth_seconds * 1000)
            return SparkplugInterpreter(name, settings.site, rebirth_ms, request_rebirth)


def _ask_nobody(_group: str, _node: str) -> None:
    """Who replays what came long ago has no node to ask."""
