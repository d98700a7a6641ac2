"""Runs a command that ends when its parent does, however that ends: `python -m serve.leash command ...`.

The parent holds the other end of standard input; when the parent dies, it closes. Ray may kill this process before it has
acted on that, so on Linux the kernel is told to kill the command with it.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

PATIENCE = 10.0  # seconds to end by itself
PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    preparation = die_with_parent if sys.platform == "linux" else None
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=preparation)

    def end() -> None:
        while os.read(0, 1):
            pass
        with contextlib.suppress(OSError):
            child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(PATIENCE)
        child.kill()

    threading.Thread(target=end, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    os._exit(main() & 0xFF)  # the thread still reads, and would hold an orderly exit up
