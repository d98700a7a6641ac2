"""What happens when what all of Ray hangs on dies: its GCS, or the raylet, which ends with each of its two agents."""

import contextlib
import os
import sys
import threading
from collections.abc import Mapping

import psutil
import ray

FATAL = {"gcs_server", "raylet"}  # Ray's names for them; everything else is started again by these
LOOKS = 1.0  # seconds between two looks at whether they live
GONE = 30.0  # seconds for all the others to be gone


class RayWatch:
    """Begins the whole program anew, in the same process, once it has served; before, ends it.

    In a thread of its own, as whoever asks a dead Ray waits for minutes. By way of the node that ray.init has started,
    to which Ray has no public way.
    """

    def __init__(self, environment: Mapping[str, str]):
        """environment: as this program was given it."""
        self.environment = dict(environment)
        self.node = ray._private.worker._global_node
        self.processes: list[psutil.Process] = []  # which have no parent any more when one of these has died
        self.anew = False  # whether it is begun anew
        self.stopped = threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()

    def watch(self) -> None:
        while not self.stopped.wait(LOOKS):
            if dead := FATAL & {name for name, _ in self.node.dead_processes()}:
                self.end(", ".join(sorted(dead)))
            self.processes = psutil.Process().children(recursive=True)

    def end(self, dead: str) -> None:
        said = "everything is started again" if self.anew else "so does the API"
        print(f"Ray has ended ({dead} died): {said}", file=sys.stderr, flush=True)
        self.node.kill_all_processes(check_alive=False)
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(self.processes, GONE)
        if self.anew:
            os.execve(sys.executable, sys.orig_argv, self.environment)
        os._exit(1)
