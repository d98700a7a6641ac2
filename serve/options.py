"""What a deployment is made of; also the `args` of Ray Serve's config files."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from contract.settings import Settings


class Options(BaseModel):
    """Raises pydantic's ValidationError for what cannot be served, and for what must not."""

    model_config = ConfigDict(extra="forbid")

    comfyui: Path  # the folder with main.py, which has this pack in its custom_nodes; the same path on every machine
    arguments: list[str] = []  # ComfyUI's own, such as --base-directory
    loopback: bool = False  # nobody but this machine reaches the address that Ray listens at

    @field_validator("comfyui")
    @classmethod
    def is_there(cls, comfyui: Path) -> Path:
        if not (comfyui / "main.py").is_file():
            raise ValueError(f"there is no ComfyUI in {comfyui}: it is the folder with its main.py")
        return comfyui.resolve()

    @field_validator("arguments")
    @classmethod
    def keep_it_here(cls, arguments: list[str]) -> list[str]:
        """In every spelling that argparse takes for it."""
        names = [argument.partition("=")[0] for argument in arguments]
        for name in names:
            if name == "--port" or (name.startswith("--li") and "--listen".startswith(name)):
                raise ValueError(
                    f"{name} is no option for ComfyUI here: each process listens at 127.0.0.1, behind --host and --port"
                )
        return arguments

    @model_validator(mode="after")
    def asks_for_keys(self):
        if not Settings.from_environment().all_keys() and not self.loopback:
            raise ValueError("without keys (VEGA_API_KEYS) only this machine may be served: set it, or listen at 127.0.0.1")
        return self
