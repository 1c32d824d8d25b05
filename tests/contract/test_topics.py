"""Topics: `telemetry/v1/{site}/{device}/{kind}`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry_contract.errors import InvalidTopic
from telemetry_contract.topics import IDENTIFIER_PATTERN, Kind, Topic, is_identifier, topic_filter

identifiers = st.from_regex(IDENTIFIER_PATTERN, fullmatch=True)


@given(identifiers, identifiers, st.sampled_from(Kind))
def test_topic_is_read_back_as_it_was_written(site: str, device: str, kind: Kind) -> None:
    assert Topic.parse(str(Topic(site, device, kind))) == (site, device, kind)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "telemetry/v1/plant/pump",
        "telemetry/v2/plant/pump/samples",
        "telemetry/v1/plant/pump/samples/more",
        "telemetry/v1//pump/samples",
        "telemetry/v1/plant/pump house/samples",
        "telemetry/v1/plant/+/samples",
        "telemetry/v1/plant/pump/nonsense",
        "telemetry/v1/plant/" + "x" * 65 + "/samples",
        "telemetry/v1/plant/pump\n/samples",
    ],
)
def test_other_topics_are_refused(text: str) -> None:
    with pytest.raises(InvalidTopic, match="topic"):
        Topic.parse(text)


def test_filters_match_every_device() -> None:
    assert topic_filter(Kind.STATUS) == "telemetry/v1/+/+/status"
    assert topic_filter(Kind.SAMPLES, group="g") == "$share/g/telemetry/v1/+/+/samples"


@pytest.mark.parametrize(("text", "fits"), [("pump-house_1.a", True), ("", False), ("a/b", False), ("é", False)])
def test_identifier_characters(text: str, fits: bool) -> None:  # noqa: FBT001
    assert is_identifier(text) is fits
