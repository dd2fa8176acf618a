"""The address of a run: its port and its token, kept beside the questions while it lasts.

A run that was killed is taken up under the same address, so that the page that is open goes on by itself.
A run that ended in order takes its address with it, and the next one has a new token.
"""

import contextlib
import dataclasses
import ipaddress
import json
import os
import re
import secrets
import socket
import stat

_NAME = "label-address.json"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a run listens; with the token, what its user opens."""

    host: str
    port: int
    token: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/{self.token}/"


def _new_token() -> str:
    """192 random bits, safe in an address."""
    return secrets.token_urlsafe(24)


def is_loopback(host: str) -> bool:
    """Whether a host to listen on is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(folder: str, *, host: str, port: int, token: str) -> tuple[socket.socket, Address]:
    """Opens the socket of a run and keeps its address in the folder, readable by its owner only.

    Args:
      folder: of the questions; the caller holds the lock of its answers.
      port: 0 takes that of a killed run, else a free one.
      token: "" takes that of a killed run, else a new one.

    Raises:
      ValueError: a token that is too short or does not fit into an address.
      OSError: the host or the port cannot be had; the message says which.
    """
    if token and not _TOKEN.fullmatch(token):
        raise ValueError(
            f"token must be 16 to 128 letters, digits, - and _, got {len(token)} characters; leave it out "
            "for a random one."
        )
    if not 0 <= port < 2**16:
        raise ValueError(f"port must be from 0 (a free one) to 65535, got {port}.")
    kept = _read(folder)
    listener = None
    if not port and kept is not None:
        with contextlib.suppress(OSError):  # taken meanwhile: another one then
            listener = _bind(host, kept.port)
    if listener is None:
        listener = _bind(host, port)
    address = Address(host, listener.getsockname()[1], token or (kept.token if kept else _new_token()))
    try:
        _write(folder, address)
    except BaseException:
        listener.close()
        raise
    return listener, address


def forget(folder: str) -> None:
    """Ends an address: what was opened under it stays outside of the next run."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, _NAME))


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}); close what uses it, or pass "
            "another --port, or 0 for a free one."
        ) from error


def _read(folder: str) -> Address | None:
    """The address that a killed run left; None where there is none that only its owner could have read."""
    try:
        descriptor = os.open(os.path.join(folder, _NAME), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            return None
        try:
            fields = json.loads(file.read(4096))
            address = Address("", fields["port"], fields["token"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
    is_port = type(address.port) is int and 0 < address.port < 2**16
    is_token = isinstance(address.token, str) and _TOKEN.fullmatch(address.token)
    return address if is_port and is_token else None


def _write(folder: str, address: Address) -> None:
    path = os.path.join(folder, _NAME)
    temporary = f"{path}.{os.getpid()}.tmp"
    with contextlib.suppress(FileNotFoundError):
        os.remove(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump({"port": address.port, "token": address.token}, file)
    os.replace(temporary, path)
