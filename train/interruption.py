"""SIGTERM and Ctrl-C: work that can be resumed ends in order; a second signal ends it at once."""

import signal
import threading
from contextlib import contextmanager

# SIGBREAK is what Windows has for a process of another console.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]


raised: list[int] = []  # the signals that raised KeyboardInterrupt


def raise_interrupt(number, frame) -> None:
    raised.append(number)
    raise KeyboardInterrupt


def interrupt_by_any_signal() -> None:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""
    for number in SIGNALS:
        signal.signal(number, raise_interrupt)


@contextmanager
def delayed_signals():
    """Gives the list of the signals that came within it; the first one changes nothing else."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number, frame) -> None:
        came.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
