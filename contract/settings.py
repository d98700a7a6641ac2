"""The API's settings, from the environment: VEGA_API_KEYS, VEGA_API_MODEL and so on."""

import codecs
from collections.abc import MutableMapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def read_keys_file(path: Path) -> tuple[str, ...]:
    """One key a line, except empty lines and those that begin with #; in UTF-8, or in UTF-16 with its mark.

    ValueError names the file, and neither its folder nor anything in it: clients are shown the message.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path.name!r}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path.name!r} can't be read ({error.strerror})") from None
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        lines = [line.strip() for line in content.decode("utf-16" if marked else "utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"{path.name!r} is not text in UTF-8: save it as that") from None
    for number, line in enumerate(lines, 1):
        if not line.isprintable():
            raise ValueError(f"line {number} of {path.name!r} has characters that aren't seen: save it as text in UTF-8")
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ValueError(f"there is no key in {path.name!r}")
    return keys


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="VEGA_API_", hide_input_in_errors=True)

    keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()  # separated by commas; none: only this machine is served
    keys_file: Annotated[tuple[SecretStr, ...], NoDecode] = ()  # the path of a file of more, which are read at once
    model: str = "vega-nano (embedded)"  # a name in Load Vega's list
    lora: str = "vega-nano LCM-LoRA (embedded)"  # a name in Apply LCM-LoRA's list
    vae: Literal["tiny", "full"] = "tiny"
    embeddings: Annotated[tuple[str, ...], NoDecode] = ()  # names in models/embeddings that prompts may use
    max_queued_requests: int = Field(256, ge=1, validation_alias="VEGA_API_WAITING")  # with more, the response is 429
    max_body_mib: int = Field(32, ge=1, validation_alias="VEGA_API_BODY_MIB")  # with a larger body, the response is 413

    @field_validator("keys", "embeddings", mode="before")
    @classmethod
    def split_at_commas(cls, value: str | tuple) -> tuple[str, ...]:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("keys_file", mode="before")
    @classmethod
    def read_from_file(cls, value: str | tuple) -> tuple[str, ...]:
        return read_keys_file(Path(value)) if isinstance(value, str) else value

    def all_keys(self) -> list[str]:
        return [key.get_secret_value() for key in (*self.keys, *self.keys_file)]

    @staticmethod
    def pop_keys(environment: MutableMapping[str, str]) -> dict[str, str]:
        """Removes the variables of the keys, so that no child process inherits them: arguments of from_environment."""
        names = {name: name.upper() for name in environment}  # pydantic_settings reads them in any case
        fields = {"VEGA_API_KEYS": "keys", "VEGA_API_KEYS_FILE": "keys_file"}
        return {fields[upper]: environment.pop(name) for name, upper in names.items() if upper in fields}

    @classmethod
    def from_environment(cls, **keys: str) -> "Settings":
        """keys: what pop_keys returned. ValueError names the variables that are wrong, and never shows a value."""
        try:
            return cls(**keys)
        except ValidationError as error:
            found = [(str(e["loc"][0]).upper(), e["msg"].removeprefix("Value error, ")) for e in error.errors()]
            wrong = "; ".join(f"VEGA_API_{name.removeprefix('VEGA_API_')}: {why}" for name, why in found)
            raise ValueError(f"The API's settings are wrong: {wrong}.") from None
