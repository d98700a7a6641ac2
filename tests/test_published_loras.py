"""Files called pytorch_lora_weights.safetensors: which published LCM-LoRA each is by its header, if it can be told."""

import hashlib
import json
import os

import distilled_loras
import pytest
from distilled_loras import NAMES, RT, SD15, SD15_BYTES, SDXL, SDXL_BYTES, SSD, TCD_SDXL_BYTES
from safetensors import safe_open
from vega_pack.vega import published_files, published_loras, recipes

pytestmark = pytest.mark.model


@pytest.mark.parametrize("name", NAMES)
def test_every_browsers_name_is_a_downloads(name):
    for folder in ("", "sub/", "sub\\"):
        assert published_loras.DEFAULT_FILE_NAME.search(folder + name)


@pytest.mark.parametrize(
    "name", ["pytorch_lora_weights", "my pytorch_lora_weights.safetensors", "pytorch_lora_weights (1).safetensors.part"]
)
def test_other_names_are_no_downloads(name):
    assert not published_loras.DEFAULT_FILE_NAME.search(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("family", "published"), [("Segmind-Vega", RT), ("SSD-1B", SSD)])
def test_an_lcm_lora_is_known_by_its_modules(tmp_path, family, published, name):
    assert published_loras.identify(distilled_loras.kohya(tmp_path / name, family)) == (published, "")


def test_vega_rt_may_have_rank_128(tmp_path):
    """Its file has the bytes of rank 128 in fp16."""
    path = distilled_loras.kohya(tmp_path / NAMES[0], "Segmind-Vega", 128)
    assert published_loras.identify(path) == (RT, "")


def test_sdxls_is_told_from_tcds_by_its_size(tmp_path):
    own = distilled_loras.at_published_size(tmp_path / NAMES[0], "SDXL", SDXL_BYTES)
    tcds = distilled_loras.at_published_size(tmp_path / NAMES[1], "SDXL", TCD_SDXL_BYTES)
    assert own.stat().st_size == SDXL_BYTES
    with safe_open(own, "pt") as file:  # the library takes it
        assert len(file.keys()) == 3 * 788
    assert published_loras.identify(own) == (SDXL, "")
    name, mismatch = published_loras.identify(tcds)
    assert name == SDXL
    assert "it has 393,854,624 bytes and not 393,855,224" in mismatch


def test_sd15s_is_told_from_tcds_by_digest_or_folder(tmp_path, monkeypatch):
    """TCD's LoRA for SD 1.5 has the name, the modules and the size of the LCM-LoRA."""
    bare = distilled_loras.at_published_size(tmp_path / "loras" / NAMES[0], "SD 1.5", SD15_BYTES)
    name, mismatch = published_loras.identify(bare)
    assert name == SD15
    assert "it is not the published file, and TCD's LoRA has the same name, modules and size" in mismatch
    published = distilled_loras.at_published_size(tmp_path / "loras" / NAMES[1], "SD 1.5", SD15_BYTES)
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    monkeypatch.setitem(published_files.PUBLISHED, published.stat().st_size, {digest: (recipes.LCM, None)})
    assert published_loras.identify(published) == (SD15, "")
    for folder, expected in (("lcm-lora-sdv1-5", (SD15, "")), ("TCD-SD15-LoRA", None)):
        path = distilled_loras.at_published_size(tmp_path / "loras" / folder / NAMES[3], "SD 1.5", SD15_BYTES)
        found = published_loras.identify(path)
        assert found == expected if expected else (found.name is None and "it is TCD by its name" in found.mismatch)


@pytest.mark.parametrize("family", ["small-sd", "tiny-sd"])
def test_one_for_another_base_stands_for_none(tmp_path, family):
    path = distilled_loras.kohya(tmp_path / NAMES[0], family)
    assert published_loras.identify(path) == (None, "it is for no base that has a published one")


def test_a_style_that_diffusers_saved_is_none(tmp_path):
    """diffusers calls every LoRA so; those of its scripts for styles adapt attention."""
    path = distilled_loras.diffusers(tmp_path / NAMES[1], "Segmind-Vega", 64, tuple(distilled_loras.ATTENTION))
    assert published_loras.identify(path) == (None, "it is no LCM-LoRA")


def test_one_of_all_modules_in_another_form_is_in_doubt(tmp_path):
    """A style on all of an LCM-LoRA's modules: as diffusers saves it, and by kohya's scripts at another rank."""
    saved = distilled_loras.diffusers(tmp_path / NAMES[1], "Segmind-Vega")
    assert published_loras.identify(saved) == (RT, "it lacks alphas")
    low = distilled_loras.kohya(tmp_path / NAMES[2], "Segmind-Vega", 16)
    assert published_loras.identify(low) == (RT, "its rank is another than that of the published ones")


@pytest.mark.parametrize(
    ("metadata", "why"),
    [({"ss_tag_frequency": "{}"}, "style or a subject"), ({"modelspec.title": "PCM, four steps"}, "it is PCM by")],
)
def test_its_metadata_tells_that_it_is_none(tmp_path, metadata, why):
    path = distilled_loras.kohya(tmp_path / NAMES[0], "Segmind-Vega", metadata=metadata)
    name, mismatch = published_loras.identify(path)
    assert name is None
    assert why in mismatch


def test_a_file_that_is_not_whole_is_none(tmp_path):
    whole = distilled_loras.kohya(tmp_path / NAMES[0], "Segmind-Vega").read_bytes()
    path = tmp_path / NAMES[1]
    for content in (whole[:-1], whole[:5000], whole[:4], b"", b"<!doctype html>", b"\xff" * 64):
        path.write_bytes(content)
        assert published_loras.identify(path) == (None, "it is no whole LoRA"), content[:20]
    for header in ([], {"a": 1}, {"a": {"shape": [-1], "data_offsets": [0, 0]}}):
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        assert published_loras.identify(path) == (None, "it is no whole LoRA"), header
    path.unlink()
    assert published_loras.identify(path).name is None


def test_a_replaced_file_is_read_again(tmp_path):
    path = distilled_loras.kohya(tmp_path / NAMES[0], "Segmind-Vega")
    assert published_loras.identify(path).name == RT
    os.replace(distilled_loras.kohya(tmp_path / "new", "SSD-1B"), path)
    assert published_loras.identify(path).name == SSD
