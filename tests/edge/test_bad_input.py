"""What an agent as a process makes of programs that misbehave, and of a configuration that can't be."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from harness.agent_process import Agent
from harness.processes import NewProcess
from harness.wait import until


@pytest.fixture
def agent(tmp_path: Path, new_process: NewProcess) -> Agent:
    return Agent(tmp_path, new_process)


def test_programs_that_fail_hang_or_print_rubbish_cost_only_their_own_readings_and_are_counted(agent: Agent) -> None:
    programs = {
        "fails": ["false"],
        "hangs": ["sleep", "600"],
        "rubbish": ["echo", "\x01 no JSON"],
        "partly": ["echo", '{"good_ratio": 0.5, "not a key": 1, "no_number": "x"}'],
        "well": ["echo", '{"well_ratio": 1}'],
    }
    agent.write(
        collectors={
            "exec": [
                {"name": name, "command": command, "interval_seconds": 0.2, "timeout_seconds": 0.5}
                for name, command in programs.items()
            ]
        }
    )
    agent.start()

    def failures(name: str) -> float:
        return agent.metrics().get(f'agent_collector_failures_total{{collector="exec.{name}"}}', 0)

    for bad in ("fails", "hangs", "rubbish"):
        until(lambda: failures(bad) >= 2, 40, f"the failures of {bad} to be counted")  # noqa: B023 - asked at once
    before = agent.metrics()["agent_heartbeat_total"]
    until(lambda: agent.metrics()["agent_heartbeat_total"] > before + 5, 40, "the others to go on")
    told = agent.metrics()
    assert (told["good_ratio"], told["well_ratio"]) == (0.5, 1)
    assert (failures("well"), failures("partly")) == (0, 0)
    assert told['agent_collector_failures_total{collector="memory"}'] == 0
    assert agent.status()["collectors"]["exec.partly"]["rejected_values"] >= 2
    assert agent.get("/healthz") == (200, "ok\n")
    for bad in ("fails", "hangs", "rubbish"):
        assert agent.said().count(f"collector exec.{bad}: ") == 1, "one line, not one a tick"


BAD = [
    ({"samplng": {}}, "samplng is not a known key; did you mean sampling? (FILE line 1)"),
    (
        {"sampling": {"interval": 5}},
        "sampling.interval is not a known key; did you mean interval_seconds? (FILE line 2)",
    ),
    (
        {"sampling": {"interval_seconds": "5 s"}},
        "sampling.interval_seconds must be a number, got '5 s' (FILE line 2)",
    ),
    (
        {"desired": {"confirm_within_seconds": 0}},
        "desired.confirm_within_seconds must be at least 1, got 0 (FILE line 2)",
    ),
    (
        {"collectors": {"exec": [{"name": "x", "command": ["true"]}, {"name": "x", "command": ["true"]}]}},
        "collectors must give each exec program a name of its own: x is taken (FILE line 1)",
    ),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_a_configuration_that_can_not_be_ends_it_with_2_and_the_key(
    agent: Agent, content: dict[str, Any], message: str
) -> None:
    agent.file.write_text(yaml.safe_dump(content))
    agent.process.start()
    assert agent.process.wait(40) == 2
    assert agent.process.output() == f"edge-agent: {message}\n".replace("FILE", str(agent.file))
