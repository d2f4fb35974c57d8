"""This host's addresses, by interface: what others are told to call."""

import contextlib
import fcntl
import socket
import struct
from typing import Final

from gkfs.errors import ExitStatus, GkfsError

_SIOCGIFADDR: Final = 0x8915
_NAME_MAX_BYTES: Final = 15  # IFNAMSIZ without the final NUL


def of_interface(name: str) -> str:
    """The IPv4 address of network interface *name*. Raises GkfsError (ADDRESS), naming those there are."""
    address = _ask(name)
    if address is None:
        known = ", ".join(known for _, known in socket.if_nameindex())
        raise GkfsError(
            f"no network interface {name} with an IPv4 address here, known: {known}", ExitStatus.ADDRESS
        )
    return address


def of_this_host() -> list[str]:
    """The host's name, then its IPv4 addresses, loopback last."""
    found = {_ask(name) for _, name in socket.if_nameindex()} - {None}
    addresses = sorted(map(str, found), key=lambda address: (address.startswith("127."), address))
    return [socket.gethostname(), *addresses]


def _ask(name: str) -> str | None:
    encoded = name.encode()
    if len(encoded) > _NAME_MAX_BYTES:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked, contextlib.suppress(OSError):
        answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", encoded))
        return socket.inet_ntoa(answer[20:24])
    return None
