"""What Send Image (Vega) keeps to be fetched: the pictures in memory, the files in temp, and when they end."""

import asyncio
import io
import os

import folder_paths
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from api_calls import wait_for
from PIL import Image
from sent_images import SEND, check_picture, finished, graph, plain, run
from vega_pack.images import encode, store, temp_files


def files(server) -> set:
    return {p for name in ("output", "temp", "input") for p in (server.base / name).rglob("*")}


def test_metadata_frames_touch_no_disk(server, metadata_client, noise):
    """For a client that takes metadata frames nothing touches the disk."""
    before = files(server)
    prompt_id, frames = run(metadata_client, graph())
    assert (len(frames), set(metadata_client.outputs(prompt_id)[SEND])) == (2, {"sent"})
    assert files(server) == before


@pytest.mark.parametrize("connected", [True, False])
def test_history_names_files_for_other_programs(server, client, noise, connected):
    """For any other program /history names files in temp as well.

    Most clients look there alone; whether one takes the frames, too, isn't known.
    """
    before, body = files(server), {"prompt": graph("png")}
    prompt_id = run(client, body["prompt"])[0] if connected else server.post("/prompt", body).json()["prompt_id"]
    output = finished(server, prompt_id)["outputs"][SEND]
    assert files(server) - before == {server.base / "temp" / image["filename"] for image in output["images"]}
    for image, entry, array in zip(output["images"], output["sent"], noise.values(), strict=True):
        file = server.get("/view", **image)
        assert (file.headers["Content-Type"], file.content) == ("image/png", server.get(entry["url"]).content)
        check_picture(file.content, "png", array)


def test_the_files_end_with_those_in_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(store, "MAX_AGE_SECONDS", 0)
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path / "temp"))

    async def scene() -> tuple[int, int]:
        loop, file = asyncio.get_running_loop(), encode.EncodedImage("png", 1, 1, b"a")
        entries = await asyncio.to_thread(temp_files.write_expiring, loop, [file, file])
        await asyncio.to_thread(wait_for, lambda: not list((tmp_path / "temp").iterdir()))
        temp_files.delete([tmp_path / "temp" / entries[0]["filename"]])  # gone already, as where the folder is emptied
        return len(entries), len(list((tmp_path / "temp").iterdir()))

    assert asyncio.run(scene()) == (2, 0)


def test_a_disk_that_takes_no_file_fails_no_program(monkeypatch, tmp_path, caplog):
    (tmp_path / "temp").write_bytes(b"")  # no folder
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path / "temp"))

    async def scene() -> list:
        return temp_files.write_expiring(asyncio.get_running_loop(), [encode.EncodedImage("png", 1, 1, b"a")])

    assert asyncio.run(scene()) == []
    assert "can't be written (File exists), so /history names only the pictures in memory" in caplog.text


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_disk_that_ends_keeps_no_part_of_a_file(monkeypatch, tmp_path):
    import resource

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # bytes of any file
    try:
        with pytest.raises(OSError, match="too large"):
            temp_files.write(encode.EncodedImage("png", 1, 1, bytes(5000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_fetched_by_the_id_in_history(client, noise):
    prompt_id, frames = run(client, graph())
    for entry, frame in zip(client.outputs(prompt_id)[SEND]["sent"], frames, strict=True):
        response = client.server.get(entry["url"])
        assert response.content == plain(frame)[1]
        assert response.headers["Content-Type"] == "image/jpeg"
        assert response.headers["Cache-Control"] == "private"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert entry["url"].endswith(entry["id"])


def test_the_65th_picture_ends_the_first(client):
    """The 65th picture ends the first (410), and an unknown id is 404."""
    prompt = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 65, "color": 0}}}
    prompt[SEND] = {"class_type": "VegaSendImage", "inputs": {"images": ["1", 0], "format": "jpeg", "quality": 95}}
    prompt_id, frames = run(client, prompt)
    assert len(frames) == 65
    urls = [entry["url"] for entry in client.outputs(prompt_id)[SEND]["sent"]]
    http, address = client.server.http, client.server.url
    gone = http.get(address + urls[0])
    assert (gone.status_code, gone.text) == (410, "This picture is gone: the last 64 are kept, for 10 minutes.")
    assert {http.get(address + url).status_code for url in urls[1:]} == {200}
    for unknown in ("never", urls[0].rpartition("/")[2][:-1] + "_", urls[1].rpartition("/")[2][1:], "é.é"):
        assert http.get(f"{address}/vega/sent/{unknown}").status_code == 404


def test_a_picture_ends_by_age(monkeypatch):
    monkeypatch.setattr(store, "MAX_AGE_SECONDS", 0)

    async def status() -> int:
        image_store, app = store.ImageStore(), web.Application()
        app.router.add_get(store.ROUTE + "{id}", image_store.respond)
        async with TestClient(TestServer(app)) as client:
            entry = image_store.put(encode.EncodedImage("png", 1, 1, b""))
            await asyncio.sleep(0.01)
            return (await client.get(entry["url"])).status

    assert asyncio.run(status()) == 410


def test_without_a_client_pictures_wait_to_be_fetched(server, noise):
    prompt_id = server.post("/prompt", {"prompt": graph("webp")}).json()["prompt_id"]
    (entry, _) = finished(server, prompt_id)["outputs"][SEND]["sent"]
    assert Image.open(io.BytesIO(server.get(entry["url"]).content)).format == "WEBP"
