"""Mutated files end in our error or in a correct load: never in a crash, a wrong picture or a full memory."""

import copy
import gc
import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from vega_pack.vega import checkpoint, lora

from dev import diffusers_folders as folders
from dev import single_files

pytestmark = pytest.mark.model
MOST_MEMORY = 2 * 1024**3
FUZZ = dict(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
FUZZ["phases"] = [Phase.generate]  # without shrinking, whose memory would be taken for ours

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
LIKELY = [0, 1, -1, 2, 4, 9, 32, 64, 2**31, 1e9, "", "silu", None, True, [], [1], [1, 2, 4], [64, 128, 256], [[1, 1], 2, 1]]
VALUES = st.sampled_from(LIKELY) | ANYTHING
CONFIGS = ("unet/config.json", "text_encoder/config.json", "vae/config.json", "model.safetensors.index.json")
# Options that the published config.json files leave out, but that a UNet2DConditionModel has.
OPTIONS = ("num_attention_heads", "transformer_layers_per_block", "reverse_transformer_layers_per_block", "mid_block_type")
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "X")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder, two single files and a LoRA that load."""
    base = tmp_path_factory.mktemp("fuzz")
    folders.write(base / "folder", "tiny-sd")
    single_files.write(base / "sd.safetensors", "tiny-sd")
    single_files.write(base / "xl.safetensors", "Segmind-Vega", torch.float16)
    shutil.copy(checkpoint.NANO_LORA, base / "lora.safetensors")
    return base


def peak_memory() -> int:
    """Bytes; the most that the process has held since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.fixture(autouse=True)
def quick_collect():
    """gc.collect(), which follows every example, leaves out what was there before the test: most of its time otherwise."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def memory():
    """The test may take this process's memory up by so much and no more (where Linux tells)."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        yield
        return
    reset.write_text("5")
    before = peak_memory()
    yield
    assert peak_memory() - before < MOST_MEMORY


def ends_well(load, *paths):
    """What load() gives, or None where it refused, which must be with one sentence that names one of the paths."""
    try:
        with torch.inference_mode():
            return load()
    except ValueError as error:
        message = str(error)
        assert any(str(path) in message for path in paths), message
        assert "\n" not in message
        return None


def header_of(content: bytes) -> tuple[dict, bytes]:
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


@st.composite
def mutated(draw, original: dict) -> bytes:
    """A safetensors file's length and header, changed in one to three places."""
    header = copy.deepcopy(original)
    names = sorted(header)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(names))
        entry = header.get(name)
        if not isinstance(entry, dict) or "shape" not in entry:
            continue
        what = draw(st.sampled_from(["drop", "rename", "swap", "dtype", "shape", "transpose", "offsets", "entry"]))
        if what == "drop":
            del header[name]
        elif what == "rename":
            header[draw(st.text(max_size=30) | st.sampled_from(names).map(lambda n: n + ".extra"))] = header.pop(name)
        elif what == "swap":
            other = draw(st.sampled_from(names))
            header[name], header[other] = header.get(other), entry
        elif what == "dtype":
            entry["dtype"] = draw(st.sampled_from(DTYPES))
        elif what == "shape":
            entry["shape"] = draw(VALUES)
        elif what == "transpose":
            entry["shape"] = list(reversed(entry["shape"] if isinstance(entry["shape"], list) else []))
        elif what == "offsets":
            entry["data_offsets"] = draw(st.lists(st.integers(-1, 2**66), max_size=3))
        else:
            header[name] = draw(ANYTHING)
    text = json.dumps(header).encode()
    size = draw(st.sampled_from([len(text)] * 8 + [0, 1, len(text) - 1, len(text) + 1, 2**63, 2**64 - 1]))
    return struct.pack("<Q", size) + text


def fuzz_headers(sound, tmp_path, examples):
    model, _, _ = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])
    originals = {name: header_of((sound / f"{name}.safetensors").read_bytes()) for name in ("sd", "xl", "lora")}
    outcomes = {"loaded": 0, "refused": 0}

    @settings(max_examples=examples, **FUZZ)
    @given(st.data(), st.sampled_from(["sd", "xl", "lora"]))
    def one(data, which):
        path = tmp_path / f"{which}.safetensors"
        header, rest = originals[which]
        path.write_bytes(data.draw(mutated(header)) + rest)
        approx = {"taesd.safetensors": tiny, "taesdxl.safetensors": tiny}
        if which == "lora":
            loaded = ends_well(lambda: lora.apply(model, path, 1.0), path)
        else:
            loaded = ends_well(lambda: checkpoint.load(path, "tiny", [], approx), path)
        outcomes["loaded" if loaded else "refused"] += 1
        del loaded
        gc.collect()

    tiny = sound / "folder" / "vae" / "diffusion_pytorch_model.safetensors"
    one()
    return outcomes


def fuzz_configs(sound, tmp_path, examples):
    folder = tmp_path / "folder"
    shutil.copytree(sound / "folder", folder)
    outcomes = {"loaded": 0, "refused": 0}
    texts = {name: (folder / name).read_text() for name in CONFIGS if (folder / name).exists()}
    x, context, t = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 64), torch.tensor([999])

    @settings(max_examples=examples, **FUZZ)
    @given(st.data(), st.sampled_from(sorted(texts)))
    def one(data, name):
        config = json.loads(texts[name])
        for _ in range(data.draw(st.integers(1, 2))):
            option = data.draw(st.sampled_from(sorted({*config, *OPTIONS})))
            if data.draw(st.integers(0, 9)) == 0:
                config.pop(option, None)
            else:
                config[option] = data.draw(VALUES)
        text = json.dumps(config)
        if data.draw(st.integers(0, 19)) == 0:
            text = data.draw(st.text(max_size=20) | st.just(text[: len(text) // 2]) | st.just("[" * 5000))
        (folder / name).write_text(text, encoding="utf-8")
        loaded = ends_well(lambda: checkpoint.load(folder, "tiny", []), folder, "models/vae_approx")
        outcomes["loaded" if loaded else "refused"] += 1
        if loaded and name == "unet/config.json":
            same_as_diffusers(loaded[0].model.diffusion_model, config)
        (folder / name).write_text(texts[name])
        del loaded
        gc.collect()

    def same_as_diffusers(unet, config):
        with torch.inference_mode():
            try:
                reference = UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False)
                expected = reference(x, t, context).sample
            except Exception:
                return  # what diffusers itself cannot make of it says nothing about ours
            assert (unet(x, t, context=context) - expected).abs().max() <= 1e-4 * expected.abs().max(), config

    one()
    return outcomes


def test_mutated_safetensors_headers(sound, tmp_path, memory):
    outcomes = fuzz_headers(sound, tmp_path, 60)
    assert outcomes["refused"] > 30


def test_mutated_configs(sound, tmp_path, memory):
    outcomes = fuzz_configs(sound, tmp_path, 40)
    assert min(outcomes.values()) > 5


@pytest.mark.soak
def test_a_thousand_mutated_safetensors_headers(sound, tmp_path, memory, record_property):
    for name, count in fuzz_headers(sound, tmp_path, 1000).items():
        record_property(name, count)


@pytest.mark.soak
def test_a_thousand_mutated_configs(sound, tmp_path, memory, record_property):
    for name, count in fuzz_configs(sound, tmp_path, 1000).items():
        record_property(name, count)
