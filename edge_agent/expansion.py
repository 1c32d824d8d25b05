"""`${NAME}` and `${NAME:-default}` in texts of the configuration.

Braces only, so that a password or a program's argument with a `$` in it is left as it is; `$${` stands for `${`.
"""

import re
from collections.abc import Mapping
from typing import Final

from edge_agent.dotenv import NAME
from edge_agent.errors import ConfigError

_REFERENCE: Final = re.compile(r"(\$?)\$\{([^}]*)\}")
_INSIDE: Final = re.compile(rf"({NAME})(?::-([^{{]*))?")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """The text with the values of variables in it; what they hold is not expanded again.

    A default stands for a variable that is not set or empty, as in the shell. Raises ConfigError, whose
    message goes on after the key and shows nothing of the text: it may be a secret.
    """

    def replaced(match: re.Match[str]) -> str:
        escape, inside = match.groups()
        if escape:
            return match[0][1:]
        reference = _INSIDE.fullmatch(inside)
        if reference is None:
            raise ConfigError("holds a ${...} that is not ${NAME} or ${NAME:-default}; write $${ for ${ itself")
        name, default = reference.groups()
        value = variables.get(name)
        if default is not None:
            return value or default
        if value is None:
            raise ConfigError(f"needs the variable {name}, which is not set (or write ${{{name}:-default}})")
        return value

    return _REFERENCE.sub(replaced, text)
