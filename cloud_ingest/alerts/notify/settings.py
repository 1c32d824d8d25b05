"""The configuration of receivers: who is told of what, how, how much at once, and how often at most."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from cloud_ingest.alerts.notify.http_post import problem_of
from cloud_ingest.errors import ConfigError
from telemetry_contract.topics import IDENTIFIER_PATTERN

ReceiverName = Annotated[str, Field(pattern=f"^{IDENTIFIER_PATTERN}$")]
GroupField = Literal["site", "device", "location", "metric", "threshold", "severity"]


def _check_url(text: object) -> object:
    # A path or a query may hold a token, so that the text is not repeated
    plain = text.get_secret_value() if isinstance(text, SecretStr) else text
    problem = problem_of(plain) if isinstance(plain, str) else "must be text"
    if problem is not None:
        raise PydanticCustomError("url", "{problem}", {"problem": problem})
    return text


def _check_mailbox(text: str) -> str:
    name, at, domain = text.rpartition("@")
    if not (name and at and domain) or any(it.isspace() or it in "<>,;" or not it.isprintable() for it in text):
        raise PydanticCustomError("mailbox", "must be an address like alerts@example.org")
    return text


Url = Annotated[SecretStr, BeforeValidator(_check_url)]
Mailbox = Annotated[str, AfterValidator(_check_mailbox)]
Pattern = Annotated[str, Field(min_length=1, max_length=256)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Match(_Section):
    """What a receiver is told: all that is given must hold. `metric`, `threshold` and `location` know `*` and `?`."""

    min_severity: Literal["warning", "critical"] = "warning"
    site: Pattern | None = None
    device: Pattern | None = None
    location: Pattern | None = None
    metric: Pattern | None = None
    threshold: Pattern | None = None


class RateLimit(_Section):
    """No more than `messages` within any `seconds`; what is more waits and becomes one digest."""

    messages: Annotated[int, Field(ge=1, le=100_000)]
    seconds: Annotated[float, Field(gt=0, le=604_800, allow_inf_nan=False)]


_FOR_PEOPLE = RateLimit(messages=30, seconds=3_600)


class _Receiver(_Section):
    """What every receiver has. `group_by` null: each change is a message of its own; empty: all go together."""

    match: Match = Match()
    group_by: list[GroupField] | None = ["site", "threshold"]
    group_wait_seconds: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = 5
    rate_limit: RateLimit | None = None


class _Posted(_Receiver):
    """Told by HTTP. The URL may hold a token: it prints as asterisks, and may stand in a file of its own."""

    url: Url | None = None
    url_file: Path | None = None
    allow_private: bool = False

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        if (self.url is None) == (self.url_file is None):
            raise PydanticCustomError("url", "must have one of url and url_file")
        return self

    def address(self, key: str) -> str:
        """The URL, read now where it is in a file. Raises ConfigError, which names it below `key`."""
        if self.url is not None:
            return self.url.get_secret_value()
        url = read_secret(self.url_file, f"{key}.url_file") or ""
        problem = problem_of(url)
        if problem is not None:
            raise ConfigError(f"{key}.url_file {self.url_file}: its first line {problem}")
        return url


class WebhookReceiver(_Posted):
    """A webhook; signed with the first line of `secret_file`."""

    type: Literal["webhook"]
    secret_file: Path | None = None


class EmailReceiver(_Receiver):
    """Mail to some addresses by one SMTP server."""

    type: Literal["email"]
    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65_535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str | None = None
    password_file: Path | None = None
    sender: Mailbox
    to: Annotated[list[Mailbox], Field(min_length=1)]
    rate_limit: RateLimit | None = _FOR_PEOPLE

    @model_validator(mode="after")
    def _password_is_safe(self) -> Self:
        if self.password_file is not None and self.username is None:
            raise PydanticCustomError("username", "password_file needs a username")
        if self.username is not None and self.security == "none":
            raise PydanticCustomError("security", "must be starttls or tls where there is a username: none shows it")
        return self


class AlertmanagerReceiver(_Posted):
    """Prometheus' Alertmanager, which groups and limits by itself; told again every `resend_seconds`."""

    type: Literal["alertmanager"]
    group_by: list[GroupField] | None = []
    group_wait_seconds: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = 0
    resend_seconds: Annotated[float, Field(ge=1, le=3_600, allow_inf_nan=False)] = 60


class AppriseReceiver(_Receiver):
    """A service that Apprise knows; its URL holds tokens and stands in the first line of `url_file`."""

    type: Literal["apprise"]
    url_file: Path
    rate_limit: RateLimit | None = _FOR_PEOPLE


Receiver: TypeAlias = Annotated[
    WebhookReceiver | EmailReceiver | AlertmanagerReceiver | AppriseReceiver, Field(discriminator="type")
]


class Notifications(_Section):
    """Who is told of alerts, and for how long that is tried."""

    give_up_after_seconds: Annotated[float, Field(gt=0, le=2_592_000, allow_inf_nan=False)] = 86_400
    claim_seconds: Annotated[float, Field(ge=1, le=3_600, allow_inf_nan=False)] = 180
    kept_days: Annotated[int, Field(ge=1, le=36_500)] = 30
    mqtt_topics: bool = True
    receivers: dict[ReceiverName, Receiver] = {}


def read_secret(file: Path | None, key: str) -> str | None:
    """The first line of a file, read now; None without one. Raises ConfigError, which names it `key`."""
    if file is None:
        return None
    try:
        line = file.read_text(encoding="utf-8").partition("\n")[0].removesuffix("\r")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{key} {file}: {_reason(exc)}") from exc
    if not line:
        raise ConfigError(f"{key} {file}: its first line is empty")
    return line


def _reason(exc: Any) -> str:
    return getattr(exc, "strerror", None) or str(exc)
