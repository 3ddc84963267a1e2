"""Where the page listens."""

import errno
import ipaddress
import socket

from wssl_pl.errors import WSSLError

PORT = 7860


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, not a name."""
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host."""
    return ipaddress.ip_address(host).is_loopback if is_address(host) else host == "localhost"


def is_unspecified(host: str) -> bool:
    """Return whether a host stands for all addresses of this machine."""
    return is_address(host) and ipaddress.ip_address(host).is_unspecified


def listening(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens at an address; without a port, at the first free one from 7860 on.

    Raises:
        WSSLError: the host is no address of this machine, or the port is not free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in range(PORT, PORT + 100) if port is None else (port,):
        try:
            return socket.create_server((host, number), family=family)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                remedy = "127.0.0.1 is this machine alone, 0.0.0.0 all networks"
                raise WSSLError("host", host, f"is not an address of this machine ({error})", remedy) from None
            reason = error.strerror
    raise WSSLError("port", port, f"is not free ({reason})", "choose another, or omit it")


def shown(host: str) -> str:
    """Return a host as it stands in an address that this machine can open."""
    return "localhost" if is_unspecified(host) else f"[{host}]" if ":" in host else host
