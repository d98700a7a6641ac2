"""Authentication: by an API key, or, where no keys are configured, for requests of this machine alone."""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping

# Headers that proxies add; not all of them add any.
PROXY_HEADERS = (
    "via",
    "cdn-loop",
    "proxy-connection",
    "x-host",
    "x-original-host",
    "x-cloud-trace-context",
    "x-request-start",
)
PROXY_VENDORS = "amz|amzn|azure|appengine|cf|cloudfront|envoy|fastly|fly|nginx|ngrok|tailscale|varnish|vercel"
PROXY_HEADER_PATTERN = re.compile(rf".*forward.*|.*(-|client)ip|(x-)?({PROXY_VENDORS})(-.*)?|.*remote-addr")
HOST_PATTERN = re.compile(r"(?P<name>[a-z0-9.]+|\[[0-9a-f:.]+\])(:[0-9]*)?", re.ASCII | re.IGNORECASE)
NO_KEYS_MESSAGE = "No keys are configured, so"
SET_KEYS_MESSAGE = "To serve others, set VEGA_API_KEYS to a key of yours, start the server again, and give that key."


class KeyAuth:
    """Knows the digests of the keys alone."""

    def __init__(self, keys: Iterable[str]):
        self.digests = [self.digest(key) for key in keys]

    @staticmethod
    def digest(key: str) -> bytes:
        """SHA-256: of one length for every key, so that the time of a comparison tells nothing about any."""
        return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()

    def rejection(self, headers: Mapping[str, str], remote: str | None) -> str | None:
        """Why the request is unauthorized; None if it is authorized. remote: the address of the connection's peer."""
        if not self.digests:
            return keyless_rejection(headers, remote)
        given = self.digest(headers.get("x-api-key", ""))
        # Every key is compared, also after one has matched: the time it takes says nothing.
        if sum(hmac.compare_digest(given, digest) for digest in self.digests):
            return None
        return "The header x-api-key holds no valid key."

    def rejection_without_key(self, headers: Mapping[str, str], remote: str | None) -> str | None:
        """The same for a route that needs no key where there are keys."""
        return None if self.digests else keyless_rejection(headers, remote)


def keyless_rejection(headers: Mapping[str, str], remote: str | None) -> str | None:
    """Why a request without a key does not come from this machine's own user; None if it does."""
    if any(is_proxy_header(name.lower().replace("_", "-")) for name in headers):
        return f"{NO_KEYS_MESSAGE} a request that came through a proxy is not served. {SET_KEYS_MESSAGE}"
    if not is_loopback(remote):
        return f"{NO_KEYS_MESSAGE} only the computer that the server runs on is served. {SET_KEYS_MESSAGE}"
    hosts = [value for name, value in headers.items() if name.lower() == "host"]  # several are as good as none
    if len(hosts) != 1 or not is_loopback_host(hosts[0]):
        # The name of a web page whose owner points it to this machine (DNS rebinding), or of a proxy.
        served = "the hosts localhost, 127.0.0.1 and [::1]"
        return f"{NO_KEYS_MESSAGE} only {served} are served, and Host is another: open one of these. {SET_KEYS_MESSAGE}"
    return None


def is_proxy_header(name: str) -> bool:
    return name in PROXY_HEADERS or PROXY_HEADER_PATTERN.fullmatch(name) is not None


def is_loopback_host(host: str) -> bool:
    """Whether a Host header is localhost, 127.x.x.x or [::1], with any port; a name that resolves to one is not."""
    if not (found := HOST_PATTERN.fullmatch(host)):
        return False
    name = found["name"].lower()
    return name == "localhost" or is_loopback(name.strip("[]"))


def is_loopback(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
