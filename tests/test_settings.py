"""The API's settings, from the environment and from files as any system writes them."""

from pathlib import Path

import pytest
from machine_lacks import lacks
from vega_pack.contract.auth import KeyAuth
from vega_pack.contract.settings import Settings
from vega_pack.nodes import model_lists

LINES = "# the third floor\n\na-first-key\n  ein-schlüssel  \n#a remark\nwith a space\n"
KEYS = ["a-first-key", "ein-schlüssel", "with a space"]


@pytest.fixture
def keys_file(tmp_path, monkeypatch):
    path = tmp_path / "of the door.txt"
    monkeypatch.setenv("VEGA_API_KEYS_FILE", str(path))
    monkeypatch.delenv("VEGA_API_KEYS", raising=False)
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_keys_are_read_from_any_systems_text(keys_file, monkeypatch, encoding, end):
    keys_file.write_bytes(LINES.replace("\n", end).encode(encoding))
    monkeypatch.setenv("VEGA_API_KEYS", "another, ")
    keys = Settings.from_environment().all_keys()
    assert keys == ["another", *KEYS]
    for wrong in ("# the third floor", "#a remark", "", "\ufeffa-first-key"):
        assert KeyAuth(keys).rejection({"x-api-key": wrong}, "127.0.0.1")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LINES.encode("latin-1"), "'of the door.txt' is not text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "'of the door.txt' is not text in UTF-8"),
        (b"\xff\xfea", "'of the door.txt' is not text in UTF-8"),
        ("one\ntwo".encode("utf-16-le"), "line 1 of 'of the door.txt' has characters that aren't seen"),
        (LINES.encode("utf-32"), "line 1 of 'of the door.txt' has characters that aren't seen"),
        ("one\n\ufefftwo".encode(), "line 2 of 'of the door.txt' has characters that aren't seen"),
        (b"# nobody yet\r\n\r\n", "there is no key in 'of the door.txt'"),
        (b"", "there is no key in 'of the door.txt'"),
        (None, "there is no file 'of the door.txt'"),
    ],
)
def test_a_file_that_holds_no_keys_is_named(keys_file, content, said):
    if content is not None:
        keys_file.write_bytes(content)
    with pytest.raises(ValueError) as error:
        Settings.from_environment()
    assert f"VEGA_API_KEYS_FILE: {said}" in str(error.value)
    assert "\n" not in str(error.value)
    assert str(keys_file.parent) not in str(error.value)
    assert "first-key" not in str(error.value)


def test_a_file_that_can_not_be_read_is_named(keys_file):
    memory = Path("/proc/self/mem")  # a file, whose first page nobody may read
    if not memory.is_file():
        lacks("Linux's /proc")
    keys_file.symlink_to(memory)
    with pytest.raises(ValueError, match=r"'of the door.txt' can't be read \(Input/output error\)"):
        Settings.from_environment()


def test_keys_stay_when_their_file_goes(keys_file):
    keys_file.write_text("a-key")
    settings = Settings.from_environment()
    keys_file.unlink()
    assert settings.all_keys() == ["a-key"]


def test_the_models_that_come_with_the_pack_are_the_default():
    """Written twice, because the settings are read without ComfyUI."""
    settings = Settings()
    assert (settings.model, settings.lora) == (model_lists.EMBEDDED_MODEL, model_lists.EMBEDDED_LORA)
