"""Who is served: a holder of a key, or, where no keys are configured, this machine alone."""

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping

PROXIED = ("forwarded", "via", "x-real-ip")  # and every header that begins with x-forwarded


class Access:
    def __init__(self, keys: Iterable[str]):
        self.digests = [self.digest(key) for key in keys]

    @staticmethod
    def digest(key: str) -> bytes:
        """Of one length for every key, so that comparing tells nothing about any."""
        return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()

    def refusal(self, headers: Mapping[str, str], remote: str | None) -> str | None:
        """Why the request is not served; None if it is. remote is the address that the connection came from."""
        if self.digests:
            given = self.digest(headers.get("x-api-key", ""))
            # Every key is compared, also after one has matched: the time it takes says nothing.
            if sum(hmac.compare_digest(given, digest) for digest in self.digests):
                return None
            return "The header x-api-key holds no valid key."
        if any(name.lower() in PROXIED or name.lower().startswith("x-forwarded") for name in headers):
            return "No keys are configured (VEGA_API_KEYS), so a request that came through a proxy is not served."
        if not is_loopback(remote):
            return "No keys are configured (VEGA_API_KEYS), so only the machine that the server runs on is served."
        return None


def is_loopback(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
