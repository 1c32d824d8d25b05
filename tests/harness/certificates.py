"""A certificate authority of a test's own, made with the `openssl` program."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from harness.absence import Absent


class KeyPair(NamedTuple):
    """Files in PEM format."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates into `directory`, valid for a day. Raises Absent where there is no `openssl`."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        if shutil.which("openssl") is None:
            raise Absent("openssl is not installed (Debian: apt-get install openssl)")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._own = self._pair(name)
        _openssl("req", "-x509", *_new_key(self._own), "-subj", f"/CN={name}", "-days", "1")

    @property
    def certificate(self) -> Path:
        """What those need who are to trust it."""
        return self._own.certificate

    def issue(self, name: str) -> KeyPair:
        """A certificate for `name`, good for a server on 127.0.0.1 and for a client."""
        pair = self._pair(name)
        request = pair.certificate.with_suffix(".csr")
        extensions = pair.certificate.with_suffix(".ext")
        extensions.write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        _openssl("req", *_new_key(KeyPair(request, pair.key)), "-subj", f"/CN={name}")
        signed_by: list[str | Path] = ["-CA", self._own.certificate, "-CAkey", self._own.key, "-CAcreateserial"]
        _openssl(
            "x509", "-req", "-in", request, *signed_by, "-days", "1", "-extfile", extensions, "-out", pair.certificate
        )
        return pair

    def _pair(self, name: str) -> KeyPair:
        return KeyPair(self._directory / f"{name}.pem", self._directory / f"{name}.key")


def _new_key(pair: KeyPair) -> list[str | Path]:
    curve: list[str | Path] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    return [*curve, "-keyout", pair.key, "-out", pair.certificate]


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
