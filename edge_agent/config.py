"""The configuration of the agent: what may be set, its defaults and its bounds.

`deploy/edge-agent.yaml` documents every key. Everything is validated here, before anything starts. A key without a
value (null) means its default.
"""

import os
import re
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from socket import gethostname
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec

from edge_agent import config_source
from edge_agent.address import Address
from edge_agent.config_source import KeyPath, Source, parsed
from edge_agent.errors import ConfigError
from edge_agent.scalar import Unfit
from edge_agent.section import Bounds, From, Section, leaves, plain
from edge_agent.topic_pattern import TopicPattern
from telemetry_contract.desired import MAX_LABELS, label_problem
from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.series import SeriesKey
from telemetry_contract.topics import is_identifier

T = TypeVar("T", bound=Sized)

DEFAULT_FILE: Final = Path("/etc/edge-agent/edge-agent.yaml")
DEFAULT_STATE_DIRECTORY: Final = Path("/var/lib/edge-agent")
MIN_INTERVAL_SECONDS: Final = 0.05

# Kernel interfaces and memory: they never fill up, or what fills them is not a disk. `overlay` is the root of a
# container and would repeat its host's disk once for each container; the root itself is never excluded.
PSEUDO_FILE_SYSTEMS: Final = (
    *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs"),
    *("fuse.gvfsd-fuse", "fuse.lxcfs", "fuse.portal", "fuse.snapfuse", "fusectl", "hugetlbfs", "iso9660", "mqueue"),
    *("nsfs", "overlay", "proc", "pstore", "ramfs", "rpc_pipefs", "securityfs", "selinuxfs", "squashfs", "sysfs"),
    *("tmpfs", "tracefs"),
)


def _identifier(text: str) -> str:
    if not is_identifier(text):
        raise Unfit("must be 1 to 64 of the characters A-Z a-z 0-9 _ . -")
    return text


def _host(text: str) -> str:
    # The value is not repeated: a URL may carry a password.
    if not text or re.search(r"[\s/@]", text):
        raise Unfit(
            "must be a host name or an address alone, for example broker.example.org: no scheme, no port",
            shown=False,
        )
    return text


def _user_name(text: str) -> str:
    if not text or not text.isprintable():
        raise Unfit("must be text without control characters")
    return text


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words or not words[0] or any("\0" in word for word in words):
        raise Unfit("must name a program and hold no NUL")
    return words


def _number_as_number(value: Any) -> Any:
    """The environment says "5" where YAML says 5."""
    return 5 if value == "5" else value


def _in_capitals(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _series(text: str) -> str:
    try:
        return str(SeriesKey.parse(text))
    except InvalidSeriesKey as exc:
        what = f'must be a series key like flow_ratio or temperature_celsius{{room="a"}}: {exc}'
        raise Unfit(what) from exc


def _not_empty(value: T) -> T:
    if not value:
        raise Unfit("must not be empty")
    return value


def _labels(labels: dict[str, str]) -> dict[str, str]:
    problems = (f"{name} {problem}" for name, value in labels.items() if (problem := label_problem(name, value)))
    if (problem := next(problems, None)) is not None:
        raise Unfit(f"can't be used: {problem}", shown=False)
    if len(labels) > MAX_LABELS:
        raise Unfit(f"must be at most {MAX_LABELS}", shown=False)
    return labels


def _address(value: Any) -> Any:
    address = value if isinstance(value, Address) else Address.parse(value) if isinstance(value, str) else None
    if address is None:
        raise Unfit("must be HOST:PORT, for example 127.0.0.1:9273 or [::1]:9273")
    return address


def _given_twice(names: Iterable[str]) -> str | None:
    return next((name for name, times in Counter(names).items() if times > 1), None)


Identifier = Annotated[str, _identifier]
IntervalSeconds = Annotated[float, Bounds(MIN_INTERVAL_SECONDS, 86_400)]
ModbusUnit = Annotated[int, Bounds(0, 255)]
Listen = Annotated[Address, From(_address)]
ProgramFormat = Literal["json", "influx"]
Labels = Annotated[dict[str, str], _labels]
Words = tuple[Annotated[str, _not_empty], ...]


def _state(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Tls(Section, frozen=True):
    """Encryption to the broker; an empty section trusts the authorities of the system."""

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    def contradictions(self) -> Iterator[str]:
        """A certificate is of no use without its key."""
        if (self.certificate_file is None) != (self.key_file is None):
            yield "must set certificate_file and key_file together, or neither"

    def state(self) -> tuple[tuple[int, ...] | None, ...]:
        """What tells that one of the files was replaced or written; None for one that is not there now."""
        return tuple(_state(file) for file in (self.ca_file, self.certificate_file, self.key_file) if file is not None)

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


class Broker(Section, frozen=True):
    """How to reach the MQTT broker."""

    host: Annotated[str, _host] = "localhost"
    port: Annotated[int, Bounds(1, 65_535)] = 1883
    protocol: Annotated[Literal[5, "3.1.1"], From(_number_as_number)] = 5
    username: Annotated[str, _user_name] | None = None
    password_file: Path | None = None
    keepalive_seconds: Annotated[int, Bounds(5, 65_535)] = 30
    tls: Tls | None = None

    def contradictions(self) -> Iterator[str]:
        """A password is somebody's."""
        if self.password_file is not None and self.username is None:
            yield "must set username where it sets password_file"

    def password(self) -> str | None:
        """The first line of `password_file`, read now.

        Raises ConfigError where it can't be read.
        """
        if self.password_file is None:
            return None
        return _first_line(f"broker.password_file {self.password_file}", self.password_file)


class Sampling(Section, frozen=True):
    """What holds for every collector that does not say otherwise."""

    interval_seconds: IntervalSeconds = 5.0


class Collector(Section, frozen=True):
    """What every built-in collector can be told. Without an interval of its own it keeps `sampling`'s."""

    enabled: bool = True
    interval_seconds: IntervalSeconds | None = None


class Cpu(Collector, frozen=True):
    """The `cpu` collector."""

    per_core: bool = True


class Disk(Collector, frozen=True):
    """The `disk` collector; mounts and devices are shell patterns."""

    exclude_file_systems: Words = PSEUDO_FILE_SYSTEMS
    exclude_mounts: Words = ()
    exclude_devices: Words = ("loop*", "ram*", "zram*", "fd*", "sr*")


class Network(Collector, frozen=True):
    """The `network` collector; interfaces are shell patterns."""

    exclude_interfaces: Words = ("lo", "veth*", "br-*", "docker*", "virbr*", "ifb*", "dummy*")
    connections_interval_seconds: IntervalSeconds | None = 60.0


# Where engines listen that speak Docker's API, with and without root.
ENGINE_SOCKETS: Final = (
    *("/run/docker.sock", "/run/podman/podman.sock"),
    *("/run/user/*/docker.sock", "/run/user/*/podman/podman.sock"),
)


def _name_or_pattern(text: str) -> str:
    if len(text) > len("//") and text.startswith("/") and text.endswith("/"):
        try:
            re.compile(text[1:-1])
        except re.error as exc:
            raise Unfit(f"must hold a regular expression between its slashes: {exc}") from exc
    return text


class Processes(Collector, frozen=True):
    """The `processes` collector; a name between slashes is a regular expression that the whole name must match."""

    enabled: bool = False
    interval_seconds: IntervalSeconds | None = 30.0
    top: Annotated[int, Bounds(0, 100)] = 10
    by: Literal["cpu", "memory"] = "cpu"
    names: tuple[Annotated[str, _not_empty, _name_or_pattern], ...] = ()


class Containers(Collector, frozen=True):
    """The `containers` collector; sockets and names are shell patterns."""

    root: Path = Path("/")
    engine_sockets: Words = ENGINE_SOCKETS
    exclude_names: Words = ()


SensorKind = Literal["hwmon", "iio", "onewire", "battery"]


class Sensors(Collector, frozen=True):
    """The `sensors` collector, and what of the machine it looks at."""

    kinds: tuple[SensorKind, ...] = get_args(SensorKind)


class Textfile(Collector, frozen=True):
    """The `textfile` collector; files are shell patterns. Without any it has nothing to do."""

    files: Words = ()
    max_age_seconds: Annotated[float, Bounds(above=0, at_most=366 * 86_400)] = 7_200.0


class HttpInput(Collector, frozen=True):
    """The `http_input` collector, to which devices nearby hand what they measure."""

    enabled: bool = False
    listen: Listen = Address("127.0.0.1", 9274)
    token_file: Path | None = None
    max_body_bytes: Annotated[int, Bounds(1_024, 16_777_216)] = 262_144

    def token(self) -> str | None:
        """The first line of `token_file`, read now; None where none is asked for.

        Raises ConfigError where it can't be read or is empty.
        """
        if self.token_file is None:
            return None
        what = f"collectors.http_input.token_file {self.token_file}"
        token = _first_line(what, self.token_file)
        if not token:
            raise ConfigError(f"{what}: its first line is empty")
        return token


class Exec(Section, frozen=True):
    """One program of the user's that prints what it measured and ends."""

    name: Identifier
    command: Annotated[tuple[str, ...], _command]
    format: ProgramFormat = "json"
    interval_seconds: IntervalSeconds | None = None
    timeout_seconds: Annotated[float, Bounds(0.05, 3_600)] = 5.0


class Execd(Section, frozen=True):
    """One program of the user's that is kept running and prints what it measures, a line at a time."""

    name: Identifier
    command: Annotated[tuple[str, ...], _command]
    format: ProgramFormat = "json"
    interval_seconds: IntervalSeconds | None = None
    max_silence_seconds: Annotated[float, Bounds(1, 86_400)] | None = None


class ModbusTcp(Section, frozen=True):
    """A device or gateway that speaks Modbus TCP."""

    host: Annotated[str, _host]
    port: Annotated[int, Bounds(1, 65_535)] = 502


class ModbusSerial(Section, frozen=True):
    """A serial line with Modbus RTU."""

    device: Path
    baud_rate: Annotated[int, Bounds(50, 4_000_000)] = 9_600
    parity: Literal["none", "even", "odd"] = "none"
    stop_bits: Literal[1, 2] = 1


class ModbusRegister(Section, frozen=True, kw_only=True):
    """What one series is read from: registers (or a bit) by table and address as sent, which begin at 0."""

    series: Annotated[str, _series]
    unit: ModbusUnit | None = None
    table: Literal["holding", "input", "coil", "discrete"] = "holding"
    address: Annotated[int, Bounds(0, 65_535)]
    type: Literal["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"] = "uint16"
    word_order: Literal["big", "little"] = "big"
    scale: float = 1.0
    offset: float = 0.0


class Modbus(Section, frozen=True, kw_only=True):
    """One connection to Modbus devices."""

    name: Identifier
    tcp: ModbusTcp | None = None
    serial: ModbusSerial | None = None
    unit: ModbusUnit = 1
    interval_seconds: IntervalSeconds | None = None
    timeout_seconds: Annotated[float, Bounds(0.05, 60)] = 1.0
    registers: Annotated[tuple[ModbusRegister, ...], _not_empty]

    def contradictions(self) -> Iterator[str]:
        """It has one connection, and gives each series one value."""
        if (self.tcp is None) == (self.serial is None):
            yield "must set either tcp or serial"
        if (twice := _given_twice(register.series for register in self.registers)) is not None:
            yield f"must give each of its series once: {twice} is repeated"


def _topic(text: str) -> str:
    try:
        TopicPattern.parse(text)
    except ValueError as exc:
        raise Unfit(f"must {exc}") from exc
    return text


class MqttTopic(Section, frozen=True):
    """What is subscribed to, and how its payloads are read.

    `values` maps series to where their values stand in a JSON document: names and positions, joined by dots.
    """

    topic: Annotated[str, _topic]
    format: Literal["json", "number", "influx"] = "json"
    series: Annotated[str, _series] | None = None
    values: dict[Annotated[str, _series], Annotated[str, _not_empty]] = msgspec.field(default_factory=dict)

    def contradictions(self) -> Iterator[str]:
        """What names the values depends on the format."""
        if (self.format == "number") != (self.series is not None):
            yield "must set series where the format is number, and only there"
        if self.values and self.format != "json":
            yield "must set values only where the format is json"


class MqttInput(Section, frozen=True, kw_only=True):
    """A broker to which devices nearby publish what they measure; without one of its own it is the agent's."""

    name: Identifier
    broker: Broker | None = None
    topics: Annotated[tuple[MqttTopic, ...], _not_empty]
    interval_seconds: IntervalSeconds | None = None


class Plugin(Section, frozen=True):
    """A collector of another package, by the name under which that offers it."""

    name: Identifier
    type: Annotated[str, _not_empty]
    interval_seconds: IntervalSeconds | None = None
    timeout_seconds: Annotated[float, Bounds(0.05, 3_600)] = 5.0
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class Collectors(Section, frozen=True):
    """What is measured."""

    cpu: Cpu = Cpu()
    memory: Collector = Collector()
    disk: Disk = Disk()
    network: Network = Network()
    temperature: Collector = Collector()
    host: Collector = Collector()
    processes: Processes = Processes()
    containers: Containers = Containers()
    sensors: Sensors = Sensors()
    textfile: Textfile = Textfile()
    http_input: HttpInput = HttpInput()
    exec: tuple[Exec, ...] = ()
    execd: tuple[Execd, ...] = ()
    modbus: tuple[Modbus, ...] = ()
    mqtt_input: tuple[MqttInput, ...] = ()
    plugins: tuple[Plugin, ...] = ()

    def contradictions(self) -> Iterator[str]:
        """Names are each one's own, and so are serial lines."""
        named: dict[str, tuple[Exec | Execd | Modbus | MqttInput | Plugin, ...]] = {
            "exec program": self.exec,
            "execd program": self.execd,
            "modbus connection": self.modbus,
            "mqtt_input": self.mqtt_input,
            "plugin": self.plugins,
        }
        for kind, several in named.items():
            if (twice := _given_twice(one.name for one in several)) is not None:
                yield f"must give each {kind} a name of its own: {twice} is taken"
        lines = (str(connection.serial.device) for connection in self.modbus if connection.serial is not None)
        if (twice := _given_twice(lines)) is not None:
            yield f"must name each serial line in one modbus connection alone: {twice} is in two"


def default_outbox_path() -> Path:
    """In the directory that systemd made for the service, or else where its unit would have made it."""
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return (Path(state) if state else DEFAULT_STATE_DIRECTORY) / "outbox.db"


class Outbox(Section, frozen=True):
    """Where samples wait for the cloud, and how much of them."""

    path: Path = msgspec.field(default_factory=default_outbox_path)
    max_bytes: Annotated[int, Bounds(65_536)] = 100_000_000
    min_resolution_seconds: Annotated[float, Bounds(0, 86_400)] = 300.0
    flush_after_seconds: Annotated[float, Bounds(0, 86_400)] = 0.0


class Clock(Section, frozen=True):
    """Whether to believe this machine's clock, and how long to wait for the time where that is in doubt."""

    trust: Literal["auto", "always"] = "auto"
    max_wait_seconds: Annotated[float, Bounds(0, 86_400)] = 300.0


class Delivery(Section, frozen=True):
    """What counts as delivered, and how much may be on its way at a time."""

    confirm: Literal["cloud", "broker"] = "cloud"
    confirm_timeout_seconds: Annotated[float, Bounds(1, 3_600)] = 30.0
    window_messages: Annotated[int, Bounds(2, 10_000)] = 128
    window_bytes: Annotated[int, Bounds(65_536, 1024**3)] = 4_194_304
    backlog_ticks_per_message: Annotated[int, Bounds(1, 10_000)] = 100
    backlog_bytes_per_second: Annotated[int, Bounds(100, 1024**3)] | None = None


class Status(Section, frozen=True):
    """Where the agent tells of itself over HTTP; None: nowhere."""

    null_is_a_value = True

    listen: Listen | None = Address("127.0.0.1", 9273)


class Desired(Section, frozen=True):
    """Whether the cloud may change a part of the configuration, and how long a change has to prove itself."""

    enabled: bool = True
    confirm_within_seconds: Annotated[float, Bounds(1, 86_400)] = 300.0


class Logging(Section, frozen=True):
    """What is logged, how, and where."""

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], From(_in_capitals)] = "INFO"
    format: Literal["text", "json"] = "text"
    directory: Path | None = None
    max_file_bytes: Annotated[int, Bounds(10_000)] = 10_000_000
    keep_files: Annotated[int, Bounds(2, 1_000)] = 5


def default_device() -> str:
    """The host name, with what a device id can't hold replaced by `-`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", gethostname())[:64] or "unnamed"


class Config(Section, frozen=True):
    """Everything that can be set."""

    device: Identifier = msgspec.field(default_factory=default_device)
    site: Identifier = "default"
    labels: Labels = msgspec.field(default_factory=dict)
    broker: Broker = Broker()
    sampling: Sampling = Sampling()
    collectors: Collectors = Collectors()
    outbox: Outbox = msgspec.field(default_factory=Outbox)
    clock: Clock = Clock()
    delivery: Delivery = Delivery()
    status: Status = Status()
    desired: Desired = Desired()
    logging: Logging = Logging()


def load(file: Path | None, environment: Mapping[str, str]) -> Config:
    """The validated configuration of a file with the environment, and the file `.env` beside it, laid over it.

    The file is `file`, or the one that EDGE_AGENT_CONFIG names, or DEFAULT_FILE where that exists; without any it is
    the defaults. Raises ConfigError with one line for each problem.
    """
    keys = dict(leaves(Config))
    shapes = {tuple: "a list like [a, b]", dict: "names with values, like {a: b}"}
    structured = {path: shapes[kind] for path, hint in keys.items() if (kind := get_origin(hint)) in shapes}
    source = config_source.read(_file(file, environment), environment, keys, structured)
    try:
        config = Config.of(source.values, source)
    except ConfigError as exc:
        raise ConfigError("\n".join([*source.problems, str(exc)])) from None
    problems = [*source.problems, *_unreadable_files(config, source)]
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def changed(config: Config, values: Mapping[KeyPath, Any]) -> Config:
    """The configuration with other values at these paths, validated as a file is.

    Raises ConfigError with one line for each problem.
    """
    wanted = plain(config, others=lambda value: value)
    for path, value in values.items():
        section = wanted
        for part in path[:-1]:
            section = section.setdefault(part, {}) if isinstance(part, str) else section[part]
        section[path[-1]] = value
    return Config.of(wanted)


def _file(file: Path | None, environment: Mapping[str, str]) -> Path | None:
    named = environment.get(config_source.FILE_VARIABLE)
    if file is None and named:
        return Path(named)
    if file is None and DEFAULT_FILE.exists():
        return DEFAULT_FILE
    return file


def _unreadable_files(config: Config, source: Source) -> Iterator[str]:
    """A sentence for each file that the configuration names and that can't serve."""
    checks = [("", check) for check in _files_of(config.broker)]
    if config.collectors.http_input.enabled:
        checks.append(("", config.collectors.http_input.token))
    for number, one in enumerate(config.collectors.mqtt_input):
        if one.broker is not None:
            checks += [(f"collectors.mqtt_input[{number}].", check) for check in _files_of(one.broker)]
    for where, check in checks:
        try:
            check()
        except ConfigError as exc:
            said = f"{where}{exc}"
            yield f"{said}{source.where(parsed(said.partition(' ')[0]))}"


def _files_of(broker: Broker) -> list[Callable[[], object]]:
    return [broker.password] if broker.tls is None else [broker.password, broker.tls.context]


def _first_line(what: str, file: Path) -> str:
    """The first line of a file; raises ConfigError, which begins with `what`, where it can't be read."""
    try:
        return file.read_text(encoding="utf-8").partition("\n")[0].removesuffix("\r")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{what}: {_reason(exc)}") from exc


def _reason(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc)


def _no_passphrase() -> str:
    """Called for an encrypted key, where OpenSSL would otherwise ask at the terminal."""
    raise ConfigError("the key is protected by a passphrase, which a service can't type; store it without one")
