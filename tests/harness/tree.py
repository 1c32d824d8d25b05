"""Trees of files from a description in one file.

So a fake /sys can be kept whose names (`iio:device0`, `0000:01:00.0`) can't be checked out everywhere. A line is
`path = content` (where `\\n` is a line feed), `path -> target of a link`, or `path/` for a folder (which can't be read
where a file is expected). Empty lines and lines that begin with `#` say nothing.
"""

import re
from pathlib import Path


def build_tree(description: str, root: Path) -> Path:
    """Make the files below `root`, and give it back."""
    for line in description.splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"(\S+?)(?:/| -> (\S+)| =(?: (.*))?)", line)
        assert match is not None, line
        path = root / match[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        if match[2] is not None:
            path.symlink_to(match[2])
        elif line.endswith("/"):
            path.mkdir()
        else:
            path.write_text((match[3] or "").replace("\\n", "\n") + "\n")
    return root
