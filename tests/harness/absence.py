"""What happens when this machine lacks something that a test needs: a skip, or in CI a failure."""

import os
from typing import NoReturn

import pytest


class Absent(Exception):
    """This machine can't provide something; the text says what, why, and how it could."""


def required() -> bool:
    """Whether everything must be there: in CI (`CI=true`), or with `REQUIRE_TIMESCALEDB=1`."""
    return any(os.environ.get(name, "").lower() in {"1", "true"} for name in ("CI", "REQUIRE_TIMESCALEDB"))


def skip_or_fail(absent: Absent) -> NoReturn:
    """Skip the running test with the reason, or fail it where everything is required."""
    if required():
        pytest.fail(f"required here, but: {absent}", pytrace=False)
    pytest.skip(str(absent))
