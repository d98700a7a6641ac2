"""Memory that was freed, back to the system: glibc keeps blocks of up to 32 MB for later."""

import psutil


def trim() -> None:
    """Where psutil (the host's) is 7.2 or newer; else it stays with the process, which uses it again."""
    if hasattr(psutil, "heap_trim"):
        psutil.heap_trim()
