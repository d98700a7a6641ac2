"""Runs a command as a child that never outlives the parent of this process: `python supervisor.py COMMAND ...`.

The parent holds the write end of this process's standard input. End of file means that the parent has exited or wants the
child stopped: the child gets SIGTERM, then SIGKILL TERMINATE_TIMEOUT_SECONDS later. Ray may kill this process before it
reads the end of file, so on Linux the kernel also kills the child when this process dies.

The exit status is the child's. Standard library only, because it is run by its path, without the pack's root on sys.path.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

TERMINATE_TIMEOUT_SECONDS = 10.0  # from SIGTERM to SIGKILL
PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    preexec_fn = die_with_parent if sys.platform == "linux" else None
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=preexec_fn)

    def stop_at_end_of_file() -> None:
        while os.read(0, 1):
            pass
        with contextlib.suppress(OSError):
            child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(TERMINATE_TIMEOUT_SECONDS)
        child.kill()

    threading.Thread(target=stop_at_end_of_file, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    os._exit(main() & 0xFF)  # sys.exit would wait for the thread's blocking read
