"""The file that a name in Apply LCM-LoRA's list stands for, where it lies as a browser saved it."""

import os

import distilled_loras
import folder_paths
import pytest
from distilled_loras import NAMES, RT, SD15, SD15_BYTES, SDXL, SDXL_BYTES, SSD, TCD_SDXL_BYTES
from vega_pack.nodes import lcm_lora, lcm_lora_files, model_lists
from vega_pack.vega import recipes

pytestmark = pytest.mark.model
FIRST, SECOND = NAMES[:2]


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """An empty models/loras."""
    folder = tmp_path / "loras"
    folder.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(folder)], {".safetensors"}))
    folder_paths.filename_list_cache.pop("loras", None)
    yield folder
    folder_paths.filename_list_cache.pop("loras", None)


def refused(name, *words):
    with pytest.raises(ValueError, match=f"There is no LoRA '{name}' in models/loras") as error:
        lcm_lora_files.path(name)
    message = str(error.value)
    assert lcm_lora.VegaLCMLora.validate_inputs(name) == message
    assert name not in lcm_lora_files.names()
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("number", range(1, 5))
def test_two_downloads_are_told_apart(loras, number):
    """Under the same name, with each browser's number."""
    for name, family in ((FIRST, "SSD-1B"), (NAMES[number], "Segmind-Vega")):
        distilled_loras.kohya(loras / name, family)
    assert lcm_lora_files.path(RT) == loras / NAMES[number]
    assert lcm_lora_files.path(SSD) == loras / FIRST
    assert lcm_lora_files.names() == [
        model_lists.EMBEDDED_LORA,
        recipes.FUSED_LORA,
        *sorted([FIRST, NAMES[number]]),
        SSD,
        RT,
    ]
    for name in (RT, SSD, FIRST, NAMES[number]):
        assert lcm_lora.VegaLCMLora.validate_inputs(name) is True


def test_a_file_of_the_name_itself_comes_first(loras):
    own = distilled_loras.kohya(loras / RT, "SSD-1B")
    distilled_loras.kohya(loras / FIRST, "Segmind-Vega")
    assert lcm_lora_files.path(RT) == own
    assert lcm_lora_files.names().count(RT) == 1


def test_one_in_a_subfolder_is_found(loras):
    path = distilled_loras.kohya(loras / "sub" / SECOND, "Segmind-Vega")
    assert lcm_lora_files.path(RT) == path


def test_two_that_fit_equally_are_asked_for(loras):
    for name in (FIRST, SECOND):
        distilled_loras.kohya(loras / name, "Segmind-Vega")
    refused(RT, f"'{SECOND}' and '{FIRST}'", "Choose one of them in lora_name")


def test_the_certain_one_counts_before_a_doubtful_one(loras):
    own = distilled_loras.at_published_size(loras / FIRST, "SDXL", SDXL_BYTES)
    distilled_loras.at_published_size(loras / SECOND, "SDXL", TCD_SDXL_BYTES)
    assert lcm_lora_files.path(SDXL) == own
    own.unlink()
    refused(
        SDXL, f"'{SECOND}' may be it, but it has 393,854,624 bytes", "If it is latent-consistency/lcm-lora-sdxl, choose it"
    )


def test_what_may_be_sd15s_is_asked_for(loras):
    distilled_loras.at_published_size(loras / FIRST, "SD 1.5", SD15_BYTES)
    refused(
        SD15,
        f"'{FIRST}' may be it, but it is not the published file, and TCD's LoRA",
        "If it is latent-consistency/lcm-lora-sdv1-5, choose it",
    )


def test_a_style_of_that_name_alone_is_not_taken(loras):
    """On attention, and on all of an LCM-LoRA's modules."""
    distilled_loras.diffusers(loras / FIRST, "Segmind-Vega", 64, tuple(distilled_loras.ATTENTION))
    refused(RT, "Put it there, or press R and choose another.")
    (loras / FIRST).unlink()
    distilled_loras.diffusers(loras / SECOND, "Segmind-Vega")
    refused(
        RT, f"'{SECOND}' may be it, but it lacks alphas", "If it is the VegaRT adapter, segmind/Segmind-VegaRT, choose it"
    )


def test_other_names_find_nothing(loras):
    distilled_loras.kohya(loras / FIRST, "Segmind-Vega")
    for name in ("mine.safetensors", "sub/Segmind-VegaRT.safetensors", "segmind-vegart.safetensors"):
        refused(name, "Put it there")


def test_a_link_that_leads_nowhere_is_passed_over(loras):
    (loras / FIRST).symlink_to("nowhere")
    refused(RT, "Put it there")


def test_a_file_in_its_place_is_another_input(loras):
    """So the host runs the node again, and reads the new one."""
    fingerprint = lcm_lora.VegaLCMLora.fingerprint_inputs
    path = distilled_loras.kohya(loras / SECOND, "Segmind-Vega")
    first = fingerprint(lora_name=RT, model=None, strength_model=1.0)
    assert first == fingerprint(lora_name=RT, model=None, strength_model=1.0)
    os.replace(distilled_loras.kohya(loras / "new.safetensors", "Segmind-Vega", 128), path)
    second = fingerprint(lora_name=RT, model=None, strength_model=1.0)
    assert second != first
    path.rename(loras / RT)
    assert fingerprint(lora_name=RT, model=None, strength_model=1.0) not in (first, second)
    assert fingerprint(lora_name=None, model=None, strength_model=1.0) is None
