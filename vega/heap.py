"""Memory that was freed, back to the system: glibc keeps blocks of up to 32 MB for later."""

import ctypes
import sys


def trim() -> None:
    """Where the C library is glibc; others give it back themselves or have no such call."""
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if malloc_trim:
            malloc_trim(0)
