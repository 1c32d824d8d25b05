"""The examples of the documentation are what the program takes and what publishers send."""

import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from cloud_ingest.api.body import CODINGS
from cloud_ingest.api.write import WriteQuery
from cloud_ingest.config import Config
from cloud_ingest.foreign.interpretation import Reading
from cloud_ingest.ingest.decoders import interpreter_of
from cloud_ingest.message import Message

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "foreign-publishers.md").read_text(encoding="utf-8")
SAMPLE = (ROOT / "deploy" / "cloud-ingest.yaml").read_text(encoding="utf-8")


def configured(sources: dict[str, Any]) -> Config:
    return Config.model_validate({"database_url": "postgresql://localhost/none", "sources": sources})


def examples() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL):
        found |= yaml.safe_load(block)["sources"]
    return found


def reading(name: str, topic: str, payload: bytes) -> Reading:
    source = configured(examples()).sources[name]
    found = interpreter_of(name, source, lambda _group, _node: None).interpret(Message(topic, b""), payload, 0)
    assert found.problems == []
    (only,) = found.readings
    return only


def outputs() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for block in re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL):
        found |= tomllib.loads(block)["outputs"]
    return found


def test_telegraf_writes_over_http_to_an_address_that_takes_its_parameters() -> None:
    (output,) = outputs()["http"]
    url = urlsplit(output["url"])
    assert url.path == "/api/v1/write"
    assert WriteQuery.model_validate(dict(parse_qsl(url.query))).device_tag == "host"
    assert output["content_encoding"] in CODINGS
    assert output["data_format"] == "influx"


def test_telegraf_with_the_configuration_shown_is_understood() -> None:
    (output,) = outputs()["mqtt"]
    assert (output["data_format"], output["layout"], output["qos"]) == ("influx", "non-batch", 1)
    topic = output["topic"].replace("{{ .Hostname }}", "web01").replace("{{ .PluginName }}", "mem")
    found = reading("telegraf", topic, b"mem,host=web01 used=4300000000i 1795000010000000000\n")
    assert (found.device, found.keys, found.values) == ("web01", ("mem_used",), (4.3e9,))


def test_json_of_the_example_is_understood() -> None:
    found = reading("cellar", "sensors/north/state", b'{"ts": 1795000010, "temp_f": 68, "humidity": 41}')
    assert (found.device, found.site) == ("north", "plant-a")
    values = {key: round(value, 9) for key, value in zip(found.keys, found.values, strict=True)}
    assert values == {"humidity_percent": 41.0, 'temperature_celsius{sensor="sht31"}': 20.0}


def test_the_sample_shows_every_key_of_a_source() -> None:
    commented = re.search(r"(# sources:\n(?:#  .*\n)+)sources: {}", SAMPLE)
    assert commented is not None
    sources = yaml.safe_load(commented[1].replace("\n# ", "\n").removeprefix("# "))["sources"]
    config = configured(sources)
    shown = {source["format"]: set(source) for source in sources.values()}
    for source in config.sources.values():
        common = {"client_id", "session_expiry_seconds", "site"}
        assert shown["influx"] >= common
        assert shown[source.format] >= set(type(source).model_fields) - common
