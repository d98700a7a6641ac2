"""Who is served: a holder of a key, or, where no keys are configured, this machine alone."""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping

# What a proxy adds, if it tells of itself; not all do.
PROXIED = ("via", "cdn-loop", "proxy-connection", "x-host", "x-original-host", "x-cloud-trace-context", "x-request-start")
MAKERS = ("amz", "amzn", "azure", "appengine", "cf", "cloudfront", "envoy", "fastly", "fly", "nginx", "ngrok", "tailscale")
PROXYING = re.compile(rf".*forward.*|.*(-|client)ip|(x-)?({'|'.join(MAKERS)}|varnish|vercel)(-.*)?|.*remote-addr")
HOST = re.compile(r"(?P<name>[a-z0-9.]+|\[[0-9a-f:.]+\])(:[0-9]*)?", re.ASCII | re.IGNORECASE)
KEYLESS = "No keys are configured (VEGA_API_KEYS), so"


class Access:
    def __init__(self, keys: Iterable[str]):
        self.digests = [self.digest(key) for key in keys]

    @staticmethod
    def digest(key: str) -> bytes:
        """Of one length for every key, so that comparing tells nothing about any."""
        return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()

    def refusal(self, headers: Mapping[str, str], remote: str | None) -> str | None:
        """Why the request is not served; None if it is. remote is the address that the connection came from."""
        if not self.digests:
            return keyless_refusal(headers, remote)
        given = self.digest(headers.get("x-api-key", ""))
        # Every key is compared, also after one has matched: the time it takes says nothing.
        if sum(hmac.compare_digest(given, digest) for digest in self.digests):
            return None
        return "The header x-api-key holds no valid key."


def keyless_refusal(headers: Mapping[str, str], remote: str | None) -> str | None:
    """Why a request without a key is not taken for one of somebody at this machine; None if it is."""
    if any(tells_of_a_proxy(name.lower().replace("_", "-")) for name in headers):
        return f"{KEYLESS} a request that came through a proxy is not served: set VEGA_API_KEYS."
    if not is_loopback(remote):
        return f"{KEYLESS} only the machine that the server runs on is served: set VEGA_API_KEYS."
    hosts = [value for name, value in headers.items() if name.lower() == "host"]  # several are as good as none
    if len(hosts) != 1 or not names_loopback(hosts[0]):
        # A page's own name, which its owner has pointed to this machine (DNS rebinding), or that of a proxy.
        return f"{KEYLESS} only the hosts localhost, 127.0.0.1 and [::1] are served, and Host is another: set VEGA_API_KEYS."
    return None


def tells_of_a_proxy(header: str) -> bool:
    return header in PROXIED or PROXYING.fullmatch(header) is not None


def names_loopback(host: str) -> bool:
    """Whether a Host is localhost, 127.x.x.x or [::1], with any port; not what only resolves to one."""
    if not (found := HOST.fullmatch(host)):
        return False
    name = found["name"].lower()
    return name == "localhost" or is_loopback(name.strip("[]"))


def is_loopback(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
