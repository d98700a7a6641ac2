"""Restarts this program when a process of Ray's dies that Ray can't replace: its GCS, or its raylet.

The raylet exits with each of its two agents, so that their deaths count as well.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Mapping

import psutil
import ray

FATAL_PROCESS_TYPES = {"gcs_server", "raylet"}  # Ray's process types; these restart every other kind
POLL_INTERVAL_SECONDS = 1.0
KILL_TIMEOUT_SECONDS = 30.0  # for every other process to be gone


class RayWatchdog:
    """Executes the program again in the same process where `restarts` is set; otherwise exits with status 1.

    It polls in a thread, because calls to a dead Ray block for minutes. Ray has no public way to the node that ray.init has
    started; this uses ray._private.worker._global_node.
    """

    def __init__(self, environment: Mapping[str, str]):
        """environment: the one that this program was started with."""
        self.environment = dict(environment)
        self.node = ray._private.worker._global_node
        self.processes: list[psutil.Process] = []  # descendants, as of the last poll: orphans can't be found any more
        self.restarts = False
        self.stopped = threading.Event()
        threading.Thread(target=self.poll, daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()

    def poll(self) -> None:
        while not self.stopped.wait(POLL_INTERVAL_SECONDS):
            if dead := FATAL_PROCESS_TYPES & {name for name, _ in self.node.dead_processes()}:
                self.restart_or_exit(", ".join(sorted(dead)))
            self.processes = psutil.Process().children(recursive=True)

    def restart_or_exit(self, dead: str) -> None:
        consequence = "everything is started again" if self.restarts else "so does the API"
        print(f"Ray has ended ({dead} died): {consequence}", file=sys.stderr, flush=True)
        self.node.kill_all_processes(check_alive=False)
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(self.processes, KILL_TIMEOUT_SECONDS)
        if self.restarts:
            os.execve(sys.executable, sys.orig_argv, self.environment)
        os._exit(1)
