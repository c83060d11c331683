"""Where a server listens, as its URL says."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from backends.base import InvalidConfig


@dataclass(frozen=True)
class Address:
    """Where a server is: ``path`` comes before ``/v1`` and is empty for most."""

    secure: bool
    host: str
    port: int
    path: str = ""

    @property
    def netloc(self) -> str:
        """``127.0.0.1:8000`` or ``[::1]:8000``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.netloc}{self.path}"


def parse_url(url: str) -> Address:
    """The address in ``http://host:port``, also with ``/v1`` at its end as OpenAI's clients take it.

    Raises InvalidConfig, without repeating what may be a password.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise InvalidConfig(f"--url {_without_login(url)}: {error}; write http://HOST:PORT") from None
    if "@" in parts.netloc:
        raise InvalidConfig("--url holds a user or a password; give a key by --api-key-env NAME instead")
    plain = parts.path.isascii() and parts.path.isprintable() and " " not in parts.path
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not plain:
        raise InvalidConfig(f"--url {_without_login(url)} is no address of a server; write http://HOST:PORT")
    if parts.query or parts.fragment:
        raise InvalidConfig("--url holds more than an address and a path; write http://HOST:PORT")
    secure = parts.scheme == "https"
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return Address(secure, parts.hostname, port or (443 if secure else 80), path)


def _without_login(url: str) -> str:
    return url.rpartition("@")[2]
