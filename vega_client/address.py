"""A server's address, as it is given."""

import ipaddress

import httpx

MOST_PORT = 65535


def address(url: str) -> httpx.URL:
    """ValueError, in one sentence, for what is no address of a server."""
    try:
        found = httpx.URL(url.strip())
        is_one = found.scheme in ("http", "https") and found.host and (found.port or 0) <= MOST_PORT
    except (httpx.InvalidURL, AttributeError):  # AttributeError: no text
        is_one = False
    if not is_one or found.query or found.fragment:
        raise ValueError(f"{url} is no address of a server: give one such as http://127.0.0.1:8188.")
    return found


def is_local(url: httpx.URL) -> bool:
    try:
        return url.host == "localhost" or ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return False
