from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import config as config_module
from edge_agent import dotenv
from edge_agent.config import Config, load
from edge_agent.errors import ConfigError
from edge_agent.expansion import expand


@pytest.fixture(autouse=True)
def _as_a_machine_without_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "DEFAULT_FILE", tmp_path / "etc" / "edge-agent.yaml")
    monkeypatch.chdir(tmp_path)


def loaded(text: str, environment: Mapping[str, str] | None = None, *, env_file: str | None = None) -> Config:
    Path("edge.yaml").write_text(text)
    if env_file is not None:
        Path(".env").write_text(env_file)
    return load(Path("edge.yaml"), environment or {})


def problems(text: str, environment: Mapping[str, str] | None = None, *, env_file: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(text, environment, env_file=env_file)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${SITE}", "plant"),
        ("a-${SITE}-${SITE}", "a-plant-plant"),
        ("${SITE:-x}", "plant"),
        ("${ABSENT:-x y}", "x y"),
        ("${ABSENT:-}", ""),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY}", ""),
        ("pa$$word$", "pa$$word$"),
        ("$SITE ${", "$SITE ${"),
        ("$${SITE}", "${SITE}"),
        ("$$${SITE}", "$${SITE}"),
        ("$ {SITE}", "$ {SITE}"),
        ("${NESTED}", "${SITE}"),
        ("${ABSENT:-a:-b}", "a:-b"),
    ],
)
def test_braces_are_replaced_and_nothing_else(text: str, expected: str) -> None:
    assert expand(text, {"SITE": "plant", "EMPTY": "", "NESTED": "${SITE}"}) == expected


@pytest.mark.parametrize("text", ["${}", "${1}", "${A-b}", "${A:?b}", "${A:-{b}}", "${ A }", "${${A}}"])
def test_braces_that_are_no_variable_are_refused_without_showing_them(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^holds a \$\{\.\.\.\} that is not \$\{NAME\} or") as caught:
        expand(f"secret {text}", {"A": "x"})
    assert "secret" not in str(caught.value)


@given(st.text().filter(lambda text: "${" not in text))
def test_a_text_without_dollar_and_brace_is_left_alone(text: str) -> None:
    assert expand(text, {}) == text


@given(st.text())
def test_the_value_of_a_variable_is_taken_as_it_is(value: str) -> None:
    assert expand("<${A}>", {"A": value}) == f"<{value}>"


def test_variables_in_the_configuration_wherever_a_text_stands() -> None:
    config = loaded(
        """
device: pump-${NUMBER}
broker:
  host: ${BROKER_HOST}
  port: ${BROKER_PORT:-8883}
  username: ${NOBODY:-}
collectors:
  cpu: {enabled: "${CPU}"}
  exec:
    - name: x
      command: [sh, -c, "echo $HOME $${HOME} ${NUMBER}"]
""",
        {"NUMBER": "7", "BROKER_HOST": "broker.example.org", "CPU": "false"},
    )
    assert config.device == "pump-7"
    assert (config.broker.host, config.broker.port, config.broker.username) == ("broker.example.org", 8883, None)
    assert not config.collectors.cpu.enabled
    assert config.collectors.exec[0].command == ("sh", "-c", "echo $HOME ${HOME} 7")


def test_what_a_variable_holds_is_validated_as_any_value() -> None:
    said = problems("broker:\n  port: ${PORT}\n", {"PORT": "x"})
    assert said == ["broker.port must be a whole number, got 'x' (edge.yaml line 2)"]


def test_a_variable_that_is_not_set_is_told_with_key_name_and_line() -> None:
    said = problems("site: a\nbroker:\n  host: ${BROKER_HOST}\ncollectors: {disk: {exclude_mounts: [/a, '${B}']}}\n")
    host, mount, *_ = said
    assert host.startswith("broker.host needs the variable BROKER_HOST, which is not set")
    assert host.endswith("(or write ${BROKER_HOST:-default}) (edge.yaml line 3)")
    assert mount.startswith("collectors.disk.exclude_mounts[1] needs the variable B, which is not set")
    assert mount.endswith("(edge.yaml line 4)")


def test_braces_within_braces_without_quotes_are_explained() -> None:
    (said,) = problems("site: a\nbroker: {host: ${HOST}}\n", {"HOST": "x"})
    assert said.startswith("edge.yaml line 2: not valid YAML: ")
    assert said.endswith("(within { } or [ ] a value with ${NAME} needs quotes)")


def test_variables_beside_the_file_count_below_those_of_the_environment() -> None:
    config = loaded(
        "site: ${SITE}\ndevice: ${DEVICE}\n",
        {"DEVICE": "from-environment", "EDGE_AGENT_BROKER__PORT": "1"},
        env_file="SITE=plant\nDEVICE=from-file\nEDGE_AGENT_BROKER__PORT=2\nEDGE_AGENT_BROKER__HOST=b\n",
    )
    assert (config.site, config.device) == ("plant", "from-environment")
    assert (config.broker.host, config.broker.port) == ("b", 1)


def test_problems_of_the_file_of_variables_name_its_line() -> None:
    said = problems(
        "site: a\n",
        env_file=(
            "# ok\nEDGE_AGENT_BROKER__PORT=x\nEDGE_AGENT_SIET=b\nno\nA='x\n"
            "EDGE_AGENT_CONFIG=c\nEDGE_AGENT_COLLECTORS__EXEC=[\n"
        ),
    )
    assert said == [
        ".env line 4: must be NAME=value, with a name of A-Z a-z 0-9 _",
        ".env line 5: the value of A must end with the quote that it begins with",
        "EDGE_AGENT_CONFIG can't be set here (.env line 6)",
        "collectors.exec must be a list like [a, b] (EDGE_AGENT_COLLECTORS__EXEC, .env line 7)",
        "EDGE_AGENT_SIET is not a known variable; did you mean EDGE_AGENT_SITE? (.env line 3)",
        "broker.port must be a whole number, got 'x' (EDGE_AGENT_BROKER__PORT, .env line 2)",
    ]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("  export A = b c  # why", "b c"),
        ("A=", ""),
        ("A= # why", ""),
        ("A=b#c", "b#c"),
        ("A='b # c' # why", "b # c"),
        ('A="b\\n\\"c\\" \\\\ $x ${y}"', 'b\n"c" \\ $x ${y}'),
        ("A='pa$$\\n'", "pa$$\\n"),
        ("A=pa$$word'\"", "pa$$word'\""),
        ("A=1\nA=2", "2"),
        ("\ufeffA=b\r\n", "b"),
    ],
)
def test_lines_of_a_file_of_variables(line: str, value: str) -> None:
    found = dotenv.parse(line, ".env")
    assert (found.values, found.problems) == ({"A": value}, [])


@pytest.mark.parametrize("line", ["A", "1=x", "=x", "A B=x", "A='", 'A="b\\"', "A='b'c", "A='\0'"])
def test_lines_that_are_none_are_told_without_what_they_hold(line: str) -> None:
    found = dotenv.parse(f"\n{line}", ".env")
    assert found.values == {}
    assert len(found.problems) == 1
    assert found.problems[0].startswith(".env line 2: ")


@given(st.text())
def test_any_text_is_read_as_variables_or_refused_line_by_line(text: str) -> None:
    found = dotenv.parse(text, "x")
    assert found.values.keys() == found.origins.keys()
    assert len(found.values) + len(found.problems) <= text.count("\n") + 1


def test_a_file_of_variables_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert problems("site: a") == ["can't read .env: Is a directory"]
    (tmp_path / ".env").rmdir()
    (tmp_path / ".env").write_bytes(b"A=\xff")
    assert problems("site: a") == [".env is not UTF-8 text: byte 2 is invalid start byte"]
