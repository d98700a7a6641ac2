"""Models in subfolders and in the places of extra_model_paths.yaml: listed after a refresh, loaded, and nothing else."""

import asyncio
import io
import json
import os
import shutil
import threading

import comfy.sd
import execution
import folder_paths
import graphs
import opened
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from vega_pack.api.service import Service
from vega_pack.contract.settings import Settings
from vega_pack.extension import VegaExtension
from vega_pack.nodes import lcm_lora, loader, model_lists
from vega_pack.vega import checkpoint, native_resolution, trained_size

import nodes as host_nodes


def options(server, node, widget):
    info = server.get(f"/object_info/{node}").json()
    return info[node]["input"]["required"][widget][1]["options"]


def model(folder):
    """What makes a folder one of the list."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text("{}")


def draw(client, **changes):
    """The picture of the shipped graph with these changes."""
    graph = graphs.text_to_image(**changes)
    return Image.open(io.BytesIO(client.download(client.run(graph)[graphs.SAVE]["images"][0]))).tobytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """vega-nano as core saves it in one file, with its tiny autoencoder and without any."""
    folder = tmp_path_factory.mktemp("saved")
    with torch.inference_mode():
        model, clip, vae = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])
        comfy.sd.save_checkpoint(str(folder / "with.safetensors"), model, clip, vae)
        comfy.sd.save_checkpoint(str(folder / "without.safetensors"), model, clip)
    return folder


def test_everything_elsewhere_is_listed_and_draws(server, client, elsewhere, saved):
    """Models in the places of extra_model_paths.yaml are listed after a refresh, and draw."""
    expected = draw(client)
    (elsewhere / "my checkpoints" / "sub").mkdir()
    shutil.copy(saved / "with.safetensors", elsewhere / "my checkpoints" / "sub" / "nano.safetensors")
    (elsewhere / "my loras" / "sub").mkdir()
    shutil.copy(checkpoint.NANO_LORA, elsewhere / "my loras" / "sub" / "lcm.safetensors")
    shutil.copytree(checkpoint.NANO_DIR, elsewhere / "my diffusers" / "sub" / "nano")
    names = options(server, "VegaLoader", "model_name")
    assert names[0] == "vega-nano (embedded)"
    assert {"sub/nano.safetensors", "sub/nano/"} <= set(names)
    assert "sub/lcm.safetensors" in options(server, "VegaLCMLora", "lora_name")
    for name in ("sub/nano.safetensors", "sub/nano/"):
        same = draw(client, VegaLoader__model_name=name, VegaLCMLora__lora_name="sub/lcm.safetensors")
        assert same == expected, name


def test_a_file_of_vega_nano_has_its_sizes(saved):
    """As its folder, so that the same note stands on the sampler and the same graph draws it."""
    model = checkpoint.load(saved / "with.safetensors", "tiny", [])[0]
    assert trained_size.of_model(model) == trained_size.NANO_TRAINED_SIZE


def test_the_tiny_decoder_elsewhere_is_found(server, client, elsewhere, saved):
    shutil.copy(saved / "without.safetensors", server.base / "models" / "checkpoints" / "bare.safetensors")
    vae = load_file(checkpoint.NANO_DIR / "vae" / "diffusion_pytorch_model.safetensors")
    names = {k: k.split(".", 3)[2:] for k in vae if k.startswith("decoder.")}
    decoder = {f"{int(index) + 1}.{leaf}": vae[key] for key, (index, leaf) in names.items()}
    save_file(decoder, elsewhere / "my vae_approx" / "taesdxl_decoder.safetensors")
    dead = server.base / "models" / "vae_approx" / "taesdxl_encoder.safetensors"
    dead.symlink_to("nowhere")  # listed all the same
    assert draw(client, VegaLoader__model_name="bare.safetensors") == draw(client)
    dead.unlink()


@pytest.mark.parametrize(
    "name",
    ["../out.safetensors", "../out/", "/etc/passwd", "..\\out.safetensors", "out.safetensors", "..\\out/", "in/../../out/"]
    # Ways to write the name of a folder that is there which are not the list's.
    + ["/", "//", "in//", "./in/", "in/./", "in/../in/", "/in/", "//in/", "\\in/", "C:/in/", "C:in/", "./", ""]
    + ["in/\0/", "\ud800/", 400 * "long/", 300 * "long" + "/"],
)
def test_a_name_outside_the_model_folders_cannot_be_reached(tmp_path, monkeypatch, name):
    """Also where it comes over a link, which the host's list does not check."""
    for kind in ("checkpoints", "diffusers"):
        (tmp_path / kind).mkdir()
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    (tmp_path / "out").symlink_to(checkpoint.NANO_DIR)
    model(tmp_path / "diffusers" / "in")
    save_file({}, tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match="There is no model .* press R"):
        model_lists.model_path(name)


@pytest.fixture
def bases(tmp_path, monkeypatch):
    """Two empty model folders for diffusers."""
    found = tmp_path / "first", tmp_path / "second"
    for base in found:
        base.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusers", ([str(base) for base in found], ["folder"]))
    return found


@pytest.fixture
def looks(monkeypatch):
    """The folders that were listed, or asked whether they have changed, while the test runs; a thousand are too many."""
    found = []

    def counted(look):
        def looking(folder="."):
            found.append(str(folder))
            assert len(found) < 1000
            return look(folder)

        return looking

    monkeypatch.setattr(os, "scandir", counted(os.scandir))
    monkeypatch.setattr(os, "listdir", counted(os.listdir))
    monkeypatch.setattr(os.path, "getmtime", counted(os.path.getmtime))  # how the host's lists see that a folder changed
    return found


def listed(node, widget):
    """What /object_info says of a combo."""
    return json.loads(json.dumps(node.GET_NODE_INFO_V1()))["input"]["required"][widget][1]["options"]


def test_names_are_paths_below_the_model_folders(bases, tmp_path, looks):
    """Names are the paths below the model folders, of which the first one wins."""
    first, second = bases
    here, shelf = tmp_path / "here", tmp_path / "shelf"
    folders = [first / "nano", first / "nano" / "refiner", first / "a b" / "c.d" / "e", second / "nano", second / "other"]
    for folder in (first, *folders, here, shelf / "on it"):
        model(folder)
    (first / "empty" / "model_index.json").mkdir(parents=True)  # a folder is no index
    (first / "link").symlink_to(here)
    (first / "twin").symlink_to(here)
    (second / "shelf").symlink_to(shelf)
    (first / "dead").symlink_to("nowhere")
    expected = {
        "./": first,
        "a b/c.d/e/": first / "a b" / "c.d" / "e",
        "link/": first / "link",
        "nano/": first / "nano",
        "nano/refiner/": first / "nano" / "refiner",
        "other/": second / "other",
        "shelf/on it/": second / "shelf" / "on it",
        "twin/": first / "twin",
    }
    names = listed(loader.VegaLoader, "model_name")
    assert [name for name in names if name.endswith("/")] == list(expected)
    assert names[0] == model_lists.EMBEDDED_MODEL
    looks.clear()
    assert {name: model_lists.model_path(name) for name in expected} == expected
    for name in ("a b/", "a b/c.d/", "empty/", "dead/", "shelf/", "nano/unet/"):
        with pytest.raises(ValueError, match="There is no model .* in models/diffusers"):
            model_lists.model_path(name)
    assert not looks
    shutil.rmtree(first / "nano")
    left = [name for name in expected if name != "nano/refiner/"]
    assert listed(loader.VegaLoader, "model_name")[1 : len(left) + 1] == left
    assert model_lists.model_path("nano/") == second / "nano"


def test_links_in_a_circle_are_listed_once(bases, tmp_path, looks):
    """By each name but those that come back to where they are."""
    first, second = bases
    model(first / "nano")
    model(second / "other")
    for name, target in {"self": first, "again": first, "above": tmp_path, "nano/back": first / "nano"}.items():
        (first / name).symlink_to(target)
    (first / "to second").symlink_to(second)
    (second / "to first").symlink_to(first)
    names = [name for name in listed(loader.VegaLoader, "model_name") if name.endswith("/")]
    assert names == ["above/second/other/", "nano/", "other/", "to first/nano/", "to second/other/"]
    for name in ("self/again/nano/", "to second/to first/nano/"):  # a graph may have been saved with one
        assert model_lists.model_path(name) == first / name


def test_a_prompt_and_a_request_look_into_no_model_folder(bases, tmp_path, monkeypatch, looks):
    """By the host's own validation, which asks for each node's inputs; /object_info looks into each folder once."""
    for kind in ("checkpoints", "loras"):
        (tmp_path / kind / "sub").mkdir(parents=True)
        entry = ([str(tmp_path / kind)], {".safetensors"})
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, entry)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})  # the host's own must not hold what is gone then
    shutil.copytree(checkpoint.NANO_DIR, bases[1] / "nano")
    shutil.copy(checkpoint.NANO_LORA, tmp_path / "loras" / "sub" / "lcm.safetensors")
    for k in range(300):
        (bases[0] / f"{k % 10}" / f"{k}").mkdir(parents=True)
    for node in asyncio.run(VegaExtension().get_node_list()):
        monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, node.GET_SCHEMA().node_id, node)
    graph = graphs.text_to_image(VegaLoader__model_name="nano/", VegaLCMLora__lora_name="sub/lcm.safetensors")
    looks.clear()
    valid, error, _, errors = asyncio.run(execution.validate_prompt("id", graph, None))
    assert valid, (error, errors)
    assert native_resolution.read_pixels(model_lists.model_path("nano/")) == 256
    assert not looks
    assert listed(lcm_lora.VegaLCMLora, "lora_name")[2:] == ["sub/lcm.safetensors"]
    folders = [str(path) for base in bases for path in (base, *base.rglob("*/"))]
    assert len(folders) > 310
    looks.clear()
    assert "nano/" in listed(loader.VegaLoader, "model_name")
    assert sorted(look for look in looks if look.startswith(tuple(map(str, bases)))) == sorted(folders)


@pytest.mark.skipif(not opened.CAN_TELL, reason="only Linux tells who opens a folder")
def test_the_server_opens_no_model_folder(server, client, elsewhere):
    """The server opens no model folder for a prompt or a request."""
    shutil.copytree(checkpoint.NANO_DIR, elsewhere / "my diffusers" / "deep" / "nano", dirs_exist_ok=True)
    with opened.watched(elsewhere / "my diffusers", elsewhere / "my diffusers" / "deep") as was_opened:
        assert "deep/nano/" in options(server, "VegaLoader", "model_name")
        assert was_opened()
        assert draw(client, VegaLoader__model_name="deep/nano/")
        assert server.post("/v1/segmind-vega-rt-v1", {"prompt": "night", "seed": 1}).status_code == 200
        assert not was_opened()


@pytest.mark.parametrize("name", [5, 1.5, True, {"name": "nano/"}])
def test_what_is_no_name_is_refused_in_a_sentence(name):
    for node, widget in ((loader.VegaLoader, "model_name"), (lcm_lora.VegaLCMLora, "lora_name")):
        assert node.validate_inputs(**{widget: name}) == f"{name!r} is no name. Choose one from the list."


def test_the_server_goes_on_while_the_models_size_is_read(bases):
    """From a file that gives nothing until the event loop has gone on."""
    model(bases[0] / "slow")
    (bases[0] / "slow" / "unet").mkdir()
    file = bases[0] / "slow" / "unet" / "config.json"
    os.mkfifo(file)
    went_on, was_in_time = threading.Event(), []

    def give():
        was_in_time.append(went_on.wait(10))
        file.write_text('{"sample_size": 12}')

    async def read_size():
        service = Service.__new__(Service)
        service.settings = Settings(model="slow/")
        size = asyncio.create_task(service.native_size())
        await asyncio.sleep(0)  # the task has begun
        went_on.set()
        return await size

    giver = threading.Thread(target=give)
    giver.start()
    assert asyncio.run(read_size()) == 96
    giver.join()
    assert was_in_time == [True]
