"""The options of both applications; in Ray Serve's config files they are `args`."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from contract.settings import Settings


class Options(BaseModel):
    """pydantic.ValidationError where there is no ComfyUI, or where it would be reachable without a key."""

    model_config = ConfigDict(extra="forbid")

    comfyui: Path  # the folder with main.py, with this pack in its custom_nodes; the same path on every machine
    arguments: list[str] = []  # ComfyUI's own command line options, such as --base-directory
    loopback: bool = False  # Ray listens where only this machine reaches it

    @field_validator("comfyui")
    @classmethod
    def has_main(cls, comfyui: Path) -> Path:
        if not (comfyui / "main.py").is_file():
            raise ValueError(f"there is no ComfyUI in {comfyui}: it is the folder with its main.py")
        return comfyui.resolve()

    @field_validator("arguments")
    @classmethod
    def keeps_listen_and_port(cls, arguments: list[str]) -> list[str]:
        """Refuses --port and --listen in every spelling that ComfyUI's argparse takes for them."""
        names = [argument.partition("=")[0] for argument in arguments]
        for name in names:
            if name == "--port" or (name.startswith("--li") and "--listen".startswith(name)):
                raise ValueError(
                    f"{name} is no option for ComfyUI here: each process listens at 127.0.0.1, behind --host and --port"
                )
        return arguments

    @model_validator(mode="after")
    def has_keys_or_loopback(self):
        if not Settings.from_environment().all_keys() and not self.loopback:
            raise ValueError("without keys (VEGA_API_KEYS) only this machine may be served: set it, or listen at 127.0.0.1")
        return self
