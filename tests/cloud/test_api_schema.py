"""The API against its own description: requests made up from it, usable and not, must be answered as it says."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness.api import Source, serving

from cloud_ingest.store.migrate import migrate

# What each answer is held against. Not 405 for methods of other addresses: PUT /thresholds/explain is one of
# /thresholds/{id}, and `explain` no id. The others are about authentication and the order in which things are made.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


@pytest.mark.slow
def test_made_up_requests_are_answered_as_described(database_url: str, tmp_path: Path) -> None:
    migrate(database_url)
    now = time.time_ns() // 1_000_000
    for device in ("pump-house-1", "pump-house-2"):
        Source(database_url, device, "plant-a").write(
            {
                now - ago * 5_000: {"cpu_usage_percent": 50.0 + ago % 7, "network_receive_bytes_total": 9e6 - ago}
                for ago in range(720)
            }
        )
    with serving(database_url) as client:
        run = subprocess.run(
            [
                *(Path(sys.executable).with_name("schemathesis"), "run", f"{client.base_url}/openapi.json"),
                *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"),
                *("--exclude-path-regex", "/stream$"),  # whose answers never end: test_api_streams.py
                # One worker: CPython 3.11 counts the recursion of `ast.parse`, which the tool uses, over all threads
                # (https://github.com/python/cpython/issues/106905)
                *(
                    "--max-examples",
                    "10",
                    "--workers",
                    "1",
                    "--max-time",
                    "45",
                    "--seed",
                    "1",
                    "--generation-deterministic",
                    "--no-shrink",
                ),
                *("--warnings", "off", "--no-color", "--request-timeout", "40"),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            check=False,
            capture_output=True,
            text=True,
            timeout=280,
        )
    report = "\n".join(line[:300] for line in run.stdout.splitlines())  # an address may be very long
    assert run.returncode == 0, report[-12_000:] + run.stderr[-2_000:]
