"""The configuration of the cloud roles: what may be set, its defaults and its bounds.

`deploy/cloud-ingest.yaml` documents every key. Everything is validated here, before anything starts; only the files
that a section names are looked at by the role that uses them.
"""

import difflib
import re
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from cloud_ingest import config_source
from cloud_ingest.alerts.notify.settings import Notifications
from cloud_ingest.config_source import KeyPath, Settings
from cloud_ingest.errors import ConfigError
from cloud_ingest.foreign.settings import ForeignSource, Identifier
from telemetry_contract.series import LABEL_PATTERN, METRIC_PATTERN

_MAX_PORT: Final = 65_535
_LOOPBACK_NAMES: Final = frozenset({"localhost"})
# What pydantic says in its own terms, by the type of the error.
_PLAIN_WORDS: Final = {
    "model_type": "must be a section: keys and values below it",
    "path_type": "must be the path of a file",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must be a name of letters, digits and _ that begins with none of the digits",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
}
# Sections by name, each of a kind that one of its keys tells: where they are, that key, and the kinds.
_ALTERNATIVES: Final = {
    ("sources",): ("format", "influx, json or sparkplug"),
    ("notifications", "receivers"): ("type", "webhook, email, alertmanager or apprise"),
}


class Address(NamedTuple):
    """Where to listen. Port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address without brackets means this machine alone."""
    if host.lower() in _LOOPBACK_NAMES:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parse_address(text: object) -> Address:
    """`HOST:PORT`, an IPv6 address in brackets. Raises ValueError."""
    if isinstance(text, Address):
        return text
    host, colon, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    plausible = colon and host and (bracketed or ":" not in host) and port.isascii() and port.isdigit()
    if not plausible or int(port) > _MAX_PORT:
        raise PydanticCustomError("address", "must be HOST:PORT, for example 127.0.0.1:8000 or [::1]:8000")
    return Address(host, int(port))


def _check_database_url(text: object) -> object:
    # libpq's own message would quote the text, and with it the password.
    try:
        usable = isinstance(text, str) and text.startswith(("postgresql://", "postgres://"))
        if usable:
            ports = str(conninfo_to_dict(str(text)).get("port") or "").split(",")  # one for each host
            usable = all(port == "" or (port.isascii() and port.isdigit()) for port in ports)
    except psycopg.ProgrammingError:
        usable = False
    if not usable:
        raise PydanticCustomError("database_url", "must be a URL like postgresql://USER:PASSWORD@HOST:5432/NAME")
    return text


def _check_group(text: str) -> str:
    # MQTT 5, section 4.8.2: one level of a topic filter, without wildcards.
    if re.fullmatch(r"[^/+#\x00-\x1f]{1,128}", text) is None:
        raise PydanticCustomError("group", "must be 1 to 128 characters without / + # and control characters")
    return text


def _number_as_number(value: object) -> object:
    """The environment says "5" where YAML says 5."""
    return 5 if value == "5" else value


Listen = Annotated[Address, BeforeValidator(parse_address), PlainSerializer(str)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tls(_Section):
    """Encryption to the broker; an empty section trusts the authorities of the system."""

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise PydanticCustomError("pair", "certificate_file and key_file belong together: set both or neither")
        return self

    def context(self) -> ssl.SSLContext:
        """A client context with these files, read now.

        Raises ConfigError where one is missing or is not what it should be.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as exc:
            raise ConfigError(f"broker.tls.ca_file {self.ca_file}: {_reason(exc)}") from exc
        if self.certificate_file is not None:
            try:
                context.load_cert_chain(self.certificate_file, self.key_file, password=_no_passphrase)
            except (OSError, ConfigError) as exc:
                files = f"broker.tls.certificate_file {self.certificate_file} with key_file {self.key_file}"
                raise ConfigError(f"{files}: {_reason(exc)}") from exc
        return context


class Broker(_Section):
    """How to reach the MQTT broker."""

    host: Annotated[str, Field(min_length=1)] = "localhost"
    port: Annotated[int, Field(ge=1, le=_MAX_PORT)] = 1883
    protocol: Annotated[Literal[5, "3.1.1"], BeforeValidator(_number_as_number)] = 5
    username: str | None = None
    password_file: Path | None = None
    keepalive_seconds: Annotated[int, Field(ge=1, le=65_535)] = 30
    tls: Tls | None = None

    @model_validator(mode="after")
    def _password_has_user(self) -> Self:
        if self.password_file is not None and self.username is None:
            raise PydanticCustomError("username", "password_file needs a username")
        return self

    def password(self) -> str | None:
        """The first line of `password_file`, read now.

        Raises ConfigError where it can't be read.
        """
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text(encoding="utf-8").partition("\n")[0].removesuffix("\r")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"broker.password_file {self.password_file}: {_reason(exc)}") from exc


class Ingest(_Section):
    """How samples are taken from the broker and written.

    `group` names the shared subscription; null subscribes plainly, as MQTT 3.1.1 must. Null, or 0, sets no limit to
    what a device may have.
    """

    group: Annotated[str, AfterValidator(_check_group)] | None = "cloud-ingest"
    batch_rows: Annotated[int, Field(ge=1, le=100_000)] = 5_000
    batch_age_ms: Annotated[int, Field(ge=0, le=60_000)] = 100
    receive_maximum: Annotated[int, Field(ge=1, le=65_535)] = 10_000
    backlog_receive_maximum: Annotated[int, Field(ge=1, le=65_535)] = 128
    max_message_bytes: Annotated[int, Field(ge=1_024, le=268_435_455)] = 1024 * 1024
    max_decompressed_bytes: Annotated[int, Field(ge=1_024, le=1024**3)] = 16 * 1024 * 1024
    max_future_seconds: Annotated[int, Field(ge=0)] = 3_600
    max_series_per_device: Annotated[int, Field(ge=0)] | None = 10_000
    max_layouts_per_device: Annotated[int, Field(ge=0)] | None = 1_000
    ack_interval_seconds: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = 1.0
    metrics_listen: Listen | None = None


_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


class Retention(_Section):
    """How long data is kept: readings as they came, rollups of 5 minutes, an hour and a day, and what was rejected."""

    raw_hours: Annotated[int, Field(ge=1, le=876_000)] = 24
    rollup_5m_days: Annotated[int, Field(ge=1, le=36_500)] = 7
    rollup_1h_days: Annotated[int, Field(ge=1, le=36_500)] = 30
    rollup_1d_days: Annotated[int, Field(ge=1, le=36_500)] = 365
    rejected_days: Annotated[int, Field(ge=1, le=36_500)] = 30
    rejected_megabytes: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    rejected_megabytes_per_device: Annotated[int, Field(ge=1, le=1_000_000)] = 20

    @model_validator(mode="after")
    def _coarser_is_kept_longer(self) -> Self:
        names = ("raw_hours", "rollup_5m_days", "rollup_1h_days", "rollup_1d_days")
        for (finer, finer_ms), (coarser, coarser_ms) in pairwise(zip(names, self.tiers_ms, strict=True)):
            if coarser_ms < finer_ms:
                shorter, longer = (f"{name} {getattr(self, name)}" for name in (coarser, finer))
                raise PydanticCustomError("tiers", f"{shorter} must not be shorter than {longer}")
        return self

    @property
    def tiers_ms(self) -> tuple[int, int, int, int]:
        """How long each tier is kept, from the finest on. Older than the last is what nobody takes."""
        return (
            self.raw_hours * _HOUR_MS,
            self.rollup_5m_days * _DAY_MS,
            self.rollup_1h_days * _DAY_MS,
            self.rollup_1d_days * _DAY_MS,
        )


def _check_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise PydanticCustomError("time_zone", "must be a time zone, for example Asia/Seoul") from exc
    return name


Metric = Annotated[str, Field(pattern=f"^{METRIC_PATTERN}$")]


class FeelsLike(_Section):
    """How hot or cold the air feels, from temperature and humidity of one place, and the wind where it is measured."""

    formula: Literal["kma", "kma-summer", "kma-winter", "nws"] | None = "kma"
    time_zone: Annotated[str, AfterValidator(_check_zone)] = "Asia/Seoul"
    temperature_metric: Metric = "temperature_celsius"
    humidity_metric: Metric = "humidity_percent"
    wind_metric: Metric = "wind_speed_meters_per_second"
    ignored_label: Annotated[str, Field(pattern=f"^{LABEL_PATTERN}$")] | None = "sensor"


class Derived(_Section):
    """Series that are computed from others as they are stored."""

    feels_like: FeelsLike = FeelsLike()


SHORTEST_SILENCE_SECONDS: Final = 10.0  # well above the pauses of its own that the cloud does not notice
LONGEST_SILENCE_SECONDS: Final = 31 * 86_400.0


class SiteOutage(_Section):
    """How many devices of one site must go away together to be told as one, and within which time."""

    devices: Annotated[int, Field(ge=2, le=1_000_000)] = 5
    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    window_seconds: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = 60


class Liveness(_Section):
    """When a device that is not heard of any more is away, and when the cloud itself was."""

    interval_seconds: Annotated[float, Field(ge=0.1, le=60, allow_inf_nan=False)] = 2
    silence_seconds: Annotated[
        float, Field(ge=SHORTEST_SILENCE_SECONDS, le=LONGEST_SILENCE_SECONDS, allow_inf_nan=False)
    ] = 300
    grace_seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 120
    site_outage: SiteOutage = SiteOutage()


class Worker(_Section):
    """How often upkeep runs, how long no late sample may have come before they are judged, and who is there."""

    interval_seconds: Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)] = 60
    late_quiet_seconds: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = 10
    liveness: Liveness = Liveness()
    metrics_listen: Listen | None = None


class Api(_Section):
    """Where the REST API listens, and how many event streams a process of it keeps open."""

    listen: Listen = Address("127.0.0.1", 8000)
    max_streams: Annotated[int, Field(ge=0, le=100_000)] = 200


class Logging(_Section):
    """What is logged to standard error, and how."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["text", "json"] = "text"


class Config(_Section):
    """Everything that can be set. `database_url` is a secret: it prints as asterisks."""

    database_url: Annotated[SecretStr, BeforeValidator(_check_database_url)]
    broker: Broker = Broker()
    ingest: Ingest = Ingest()
    sources: dict[Identifier, ForeignSource] = {}
    retention: Retention = Retention()
    derived: Derived = Derived()
    notifications: Notifications = Notifications()
    worker: Worker = Worker()
    api: Api = Api()
    logging: Logging = Logging()

    @model_validator(mode="after")
    def _group_needs_version_5(self) -> Self:
        if self.broker.protocol != 5 and self.ingest.group is not None:  # noqa: PLR2004 - the protocol's name
            raise PydanticCustomError(
                "group", "ingest.group must be null with broker.protocol 3.1.1, which has no shared subscriptions"
            )
        return self


def load(file: Path | None, environ: Mapping[str, str]) -> Config:
    """The validated configuration of `file` (or of the one CLOUD_INGEST_CONFIG names) and the environment over it.

    Raises ConfigError with one line for each problem.
    """
    settings = config_source.read(file, environ)
    try:
        return Config.model_validate(settings.values)
    except ValidationError as exc:
        problems = [_problem(error, settings) for error in exc.errors(include_url=False)]
        raise ConfigError("\n".join(problems)) from None  # the cause would print what is secret


def _problem(error: ErrorDetails, settings: Settings) -> str:
    """One line for a person: key, what would be right, what was given, where."""
    path = _written_path(error["loc"])
    key = ".".join(path)
    if error["type"] == "missing":
        return f"{key} is missing: set {config_source.variable(path)} or write it in the configuration file"
    origin = settings.origin(path)
    where = "" if origin is None else f" ({origin})"
    if error["type"] in ("extra_forbidden", "invalid_key"):
        return f"{key} is not a known key{_suggestion(path)}{where}"
    what = (
        _alternative_problem(error)
        or _PLAIN_WORDS.get(error["type"])
        or error["msg"].replace("Input should be ", "must be ")
    )
    value = error["input"]
    secret = path[-1:] in (("database_url",), ("url",))
    got = "" if secret or isinstance(value, dict | BaseModel) else f", got {value!r:.200}"
    return f"{key} {what}{got}{where}".lstrip()


def _alternative_problem(error: ErrorDetails) -> str | None:
    """What is wrong with the key that tells the kind of a section; None where something else is."""
    for above, (key, kinds) in _ALTERNATIVES.items():
        if tuple(error["loc"][: len(above)]) == above:
            if error["type"] == "union_tag_invalid":
                return f"has a {key} that is not known: it must be {kinds}"
            if error["type"] == "union_tag_not_found":
                return f"has no {key}: it must be {kinds}"
    return None


def _written_path(location: tuple[int | str, ...]) -> KeyPath:
    """The keys of `location` as a person writes them, without the names of alternatives that pydantic adds."""
    for above in _ALTERNATIVES:
        depth = len(above) + 1  # with the name; behind it pydantic has the kind
        if location[: depth - 1] == above:
            return tuple(map(str, (*location[:depth], *location[depth + 1 :])))
    path: KeyPath = ()
    section: Any = Config
    for part in location:
        if section is None:
            break
        path = (*path, str(part))
        section = _section_at(section, str(part))
    return path


def _section_at(section: type[BaseModel], key: str) -> type[BaseModel] | None:
    known = section.model_fields.get(key)
    if known is None:
        return None
    candidates = (known.annotation, *getattr(known.annotation, "__args__", ()))
    return next((it for it in candidates if isinstance(it, type) and issubclass(it, BaseModel)), None)


def _suggestion(path: KeyPath) -> str:
    section: type[BaseModel] | None = Config
    for part in path[:-1]:
        section = None if section is None else _section_at(section, part)
    if section is None:
        return ""
    close = difflib.get_close_matches(path[-1], section.model_fields, n=1)
    return "" if not close else f"; did you mean {'.'.join((*path[:-1], close[0]))}?"


def _reason(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc)


def _no_passphrase() -> str:
    """Called for an encrypted key, where OpenSSL would otherwise ask at the terminal."""
    raise ConfigError("the key is protected by a passphrase, which a service can't type; store it without one")
