"""The folder of one run: its settings, which a resumed run must share, and where its state and results are."""

import json
import shutil
from pathlib import Path

from filelock import FileLock, Timeout  # which torch needs as well

from .files import atomic_write, remove_leftovers
from .options import TIMESTEP_BIAS_MULTIPLIER, TIMESTEP_BIAS_PORTION

# What may differ when a run goes on: where things are, what is shown and how often, and how long it goes on.
RESUME_MUTABLE_OPTIONS = {"output_dir", "work", "overwrite", "report_to", "progress", "save_every"}
RESUME_MUTABLE_OPTIONS |= {"sample_prompts", "sample_every", "lcm_lora"}
# What runs of older versions did, whose settings lack these options.
OLDER_DEFAULTS = {
    "prior_prediction": False,
    "more_resolutions": [],
    "noise_offset": 0.0,
    "timestep_bias_strategy": "none",
    "timestep_bias_multiplier": TIMESTEP_BIAS_MULTIPLIER,
    "timestep_bias_portion": TIMESTEP_BIAS_PORTION,
}


class RunFolder:
    """work/name, and the file or diffusers folder that the run ends with."""

    def __init__(self, work: Path, name: str, output: Path):
        self.folder, self.name, self.output = work / name, name, output
        self.cache, self.state = work / "cache", self.folder / "training"
        self.settings, self.samples = self.folder / "settings.json", self.folder / "samples"
        self.class_pictures, self.loss_plot = self.folder / "class", self.folder / "loss.png"
        self.trajectories = self.folder / "trajectories"
        if name.casefold() == self.cache.name:
            raise ValueError(f"--name {name}: {self.cache} is where all runs keep latents. Choose another name.")

    def lock(self) -> None:
        """Keeps others from the run as long as this process lives; ValueError where another one has it."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.locked = FileLock(self.folder.with_name(f".{self.name}.lock"), timeout=0, is_singleton=True)
        try:
            self.locked.acquire()
        except Timeout as error:
            raise ValueError(
                f"Another process is training {self.name}: wait until it has ended, or choose another --name."
            ) from error

    def begin(self, settings: dict, overwrite: bool) -> None:
        """Notes the settings; ValueError naming those that differ from the ones that the run began with.

        overwrite deletes a run of that name with other settings; its file stays until the new one replaces it. One with the
        same settings goes on, which ends as if it had begun anew.
        """
        try:
            self.check(settings)
        except ValueError:
            if not overwrite:
                raise
            self.delete()
        remove_leftovers(self.output)
        with atomic_write(self.settings) as file:
            file.write_text(json.dumps(settings, indent=1, default=str), encoding="utf-8")

    def delete(self) -> None:
        """Removes the folder whole; ValueError where that can't be, with nothing lost."""
        deleted = self.folder.with_name(f".{self.name}.old")  # which is no run's name
        shutil.rmtree(deleted, ignore_errors=True)
        try:
            if self.folder.exists():
                self.folder.replace(deleted)
        except OSError as error:
            raise ValueError(
                f"{self.folder} can't be removed ({error}): close the program that has it open, or choose another --name."
            ) from error
        shutil.rmtree(deleted, ignore_errors=True)

    def stored_settings(self) -> dict:
        """The settings that the run began with; of a new one there are none."""
        try:
            return json.loads(self.settings.read_text(encoding="utf-8")) if self.settings.exists() else {}
        except ValueError as error:
            raise ValueError(f"{self.settings} is broken ({error}): give --overwrite to begin anew.") from error

    def check(self, settings: dict) -> None:
        """ValueError unless there is no run of that name and no file, or one with these settings.

        A run that failed before it made anything is none.
        """
        settings = json.loads(json.dumps(settings, default=str))
        latest = self.state / "latest"
        made = (latest, self.class_pictures, self.trajectories)
        if not self.settings.exists() or not any(path.exists() for path in made):
            if self.output.exists():
                raise ValueError(
                    f"{self.output} exists, and {self.folder} has no run that made it: choose another --name, or give "
                    "--overwrite to replace it."
                )
            return
        began = {name: value for name, value in OLDER_DEFAULTS.items() if name in settings} | self.stored_settings()
        goes_on = not latest.exists() or int(latest.read_text()) <= settings["steps"]
        mutable = RESUME_MUTABLE_OPTIONS | ({"steps"} if settings["lr_scheduler"] == "constant" and goes_on else set())
        names = sorted((began.keys() | settings.keys()) - mutable)
        changed = [name for name in names if began.get(name) != settings.get(name)]
        if changed:
            listed = ", ".join(f"{name} was {began.get(name)} and is {settings.get(name)}" for name in changed)
            raise ValueError(
                f"The run {self.name} began with other settings: {listed}. Give the old ones to go on, --overwrite to begin "
                "anew, or another --name."
            )
