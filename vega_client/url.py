"""A server's address, as it is given."""

import ipaddress

import httpx

MAX_PORT = 65535


def parse_url(url: str) -> httpx.URL:
    """ValueError, in one sentence, for what is no address of a server."""
    try:
        parsed = httpx.URL(url.strip())
        is_valid = parsed.scheme in ("http", "https") and parsed.host and (parsed.port or 0) <= MAX_PORT
    except (httpx.InvalidURL, AttributeError):  # AttributeError: no text
        is_valid = False
    if not is_valid or parsed.query or parsed.fragment:
        raise ValueError(f"{url} is no address of a server: give one such as http://127.0.0.1:8188.")
    return parsed


def is_loopback(url: httpx.URL) -> bool:
    try:
        return url.host == "localhost" or ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return False
