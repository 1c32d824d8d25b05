"""The unit file, and whether one that is there is as an installation left it."""

import hashlib
import re
from importlib.resources import files
from pathlib import Path
from typing import Final

NAME: Final = "edge-agent.service"
_PROGRAM: Final = "/opt/edge-agent/bin/edge-agent"
_SEAL: Final = re.compile(r"\n# Written by `edge-agent install-service`, sha256 ([0-9a-f]{64})\n\Z")


def text(program: Path) -> str:
    """The unit that runs `program`, sealed: its last line tells whether somebody changed the rest."""
    template = (files("edge_agent.service") / NAME).read_text(encoding="utf-8")
    filled = template.replace(f"ExecStart={_PROGRAM} ", f"ExecStart={_quoted(program)} ")
    return f"{filled}\n# Written by `edge-agent install-service`, sha256 {_digest(filled)}\n"


def is_untouched(written: str) -> bool:
    """Whether it is as an installation, of whatever version, wrote it."""
    found = _SEAL.search(written)
    return found is not None and found[1] == _digest(written[: found.start()])


def _quoted(program: Path) -> str:
    """As systemd.service(5) reads the path of a program: specifiers and quotes doubled or escaped."""
    escaped = str(program).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if re.search(r"[\s'\"\\;]", escaped) else escaped


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
