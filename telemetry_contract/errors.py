"""What can be wrong with a message, as one tree.

ContractError
 +- InvalidTopic        the topic is not of `telemetry/v1/{site}/{device}/{kind}`
 +- InvalidSeriesKey    a series key is not in Prometheus notation
 +- InvalidLine         a line is not InfluxDB line protocol
 +- PayloadError        the payload can't be used; it never can, so reject it
     +- MalformedPayload    not JSON, not of the schema, or not decompressible
     +- PayloadTooLarge     larger than the cap, before or after decompression
     +- UnknownVersion      well-formed, but of a version this program does not speak: park it for replay
"""


class ContractError(ValueError):
    """Something does not follow the wire contract."""


class InvalidTopic(ContractError):
    """The topic is not one of the contract's."""


class InvalidSeriesKey(ContractError):
    """The text is not a series key in Prometheus notation."""


class InvalidLine(ContractError):
    """The line is not InfluxDB line protocol; the message names line, column and what would be right there."""


class PayloadError(ContractError):
    """The payload can't be used; `reason` is a short, stable word for counters and the `rejected` table."""

    reason = "invalid"


class MalformedPayload(PayloadError):
    """The payload is not JSON, does not follow the schema, or can't be decompressed."""

    reason = "malformed"


class PayloadTooLarge(PayloadError):
    """The payload is larger than allowed, as received or after decompression."""

    reason = "too_large"


class UnknownVersion(PayloadError):
    """The payload names a contract version that this program does not speak."""

    reason = "unknown_version"
