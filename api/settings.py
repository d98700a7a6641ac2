"""What the environment says about the API: VEGA_API_KEYS, VEGA_API_MODEL and so on."""

from typing import Annotated, Literal

from pydantic import Field, FilePath, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="VEGA_API_", hide_input_in_errors=True)

    keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()  # separated by commas; none: only this machine is served
    keys_file: FilePath | None = None  # more keys, one in each line
    model: str = "vega-nano (embedded)"  # a name in Load Vega's list
    lora: str = "vega-nano LCM-LoRA (embedded)"  # a name in Apply LCM-LoRA's list
    vae: Literal["tiny", "full"] = "tiny"
    waiting: int = Field(256, ge=1)  # requests; with more, the answer is 429
    body_mib: int = Field(32, ge=1)  # with a larger body, the answer is 413

    @field_validator("keys", mode="before")
    @classmethod
    def separated(cls, value: str | tuple) -> tuple[str, ...]:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    def all_keys(self) -> list[str]:
        lines = self.keys_file.read_text(encoding="utf-8").splitlines() if self.keys_file else []
        return [*(key.get_secret_value() for key in self.keys), *filter(None, map(str.strip, lines))]

    @classmethod
    def of_environment(cls) -> "Settings":
        """ValueError names the variables that are wrong, and never shows a value."""
        try:
            return cls()
        except ValidationError as error:
            wrong = "; ".join(f"VEGA_API_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
            raise ValueError(f"The API's settings are wrong: {wrong}.") from None
