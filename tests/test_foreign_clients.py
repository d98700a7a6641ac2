"""Programs that others wrote, unmodified: Segmind's own SDK, and clients of ComfyUI that get Send Image's pictures.

docs/api.md lists them. The host's examples are in its folder; the others are installed by pip and npm, each into a
folder of its own.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from api_calls import BASE, PROMPT, RT, post
from foreign_packages import by_pip
from machine_lacks import lacks, program
from PIL import Image

from dev import host

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows" / "api"
SENDER = "save_image_websocket_node"
GRAPH = WORKFLOWS / "vega_send_image_api.json"
NUMBERED = WORKFLOWS / "vega_live_drawing.json"  # all its nodes have numbers
EXAMPLES = ["websockets_api_example.py", "websockets_api_example_ws_images.py"]
PYTHON = {  # what is installed -> a program that prints the picture's bytes as hexadecimal digits
    "comfyui-workflow-client==0.1.0": """
from comfyuiclient import ComfyUIClient
client = ComfyUIClient(ADDRESS, GRAPH)
client.connect()
images, _ = client.get_images(client.comfyui_prompt)
((file,),) = images.values()
print(file.hex())
""",
    "comfy-api-simplified==1.6.0": """
from comfy_api_simplified import ComfyApiWrapper
(file,) = ComfyApiWrapper(f"http://{ADDRESS}/").queue_and_wait_images(json.load(open(GRAPH)), "Send").values()
print(file.hex())
""",
    "comfyui-xy==0.3.0": """
from comfyui_xy.client import ComfyUiClient
(file,) = [one for one in ComfyUiClient(f"http://{ADDRESS}").process_workflow(json.load(open(GRAPH))) if one.is_file]
print(file.data.hex())
""",
}
NODE = {
    "@saintno/comfyui-sdk@0.3.1": """
const { ComfyApi, PromptBuilder, CallWrapper } = require("@saintno/comfyui-sdk");
(async () => {
  const api = await new ComfyApi(`http://${ADDRESS}`).init().waitForReady();
  const graph = new PromptBuilder(JSON.parse(require("fs").readFileSync(GRAPH)), [], ["sent"]).setOutputNode("sent", SENDER);
  const { sent } = await new CallWrapper(api, graph).run();
  const files = await Promise.all(sent.images.map((image) => api.getImage(image)));
  console.log(Buffer.from(await files[0].arrayBuffer()).toString("hex"));
  process.exit(files.length - 1);
})();
""",
    "@stable-canvas/comfyui-client@1.5.9": """
const { Client } = require("@stable-canvas/comfyui-client");
(async () => {
  const client = new Client({ api_host: ADDRESS, WebSocket, fetch });
  await client.connect();
  const { images } = await client.enqueue(JSON.parse(require("fs").readFileSync(GRAPH)), {});
  const { data } = images.find((image) => image.type === "buff");
  console.log(Buffer.from(data).toString("hex"));
  process.exit(0);
})();
""",
    "comfy-ui-client@0.1.2": """
const { ComfyUIClient } = require("comfy-ui-client");
(async () => {
  const client = new ComfyUIClient(ADDRESS, "baadbabe-b00b-4206-9420-deadd00d1337");
  await client.connect();
  const [[{ blob }]] = Object.values(await client.getImages(JSON.parse(require("fs").readFileSync(GRAPH))));
  console.log("\\n" + Buffer.from(await blob.arrayBuffer()).toString("hex"));
  process.exit(0);
})();
""",
}


def example(name: str, server) -> dict:
    """What the host's example defines, with this server for its own and nothing done yet."""
    source = (host.path() / "script_examples" / name).read_text(encoding="utf-8")
    defined = {}
    exec(source.partition("prompt_text =")[0].replace("127.0.0.1:8188", f"127.0.0.1:{server.port}"), defined)  # noqa: S102
    return defined


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_hosts_examples_get_the_shipped_graphs_picture(server, monkeypatch, name):
    """By /history and /view, and by the websocket's frames."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    defined = example(name, server)
    socket = defined["websocket"].WebSocket()
    socket.connect(f"ws://127.0.0.1:{server.port}/ws?clientId={defined['client_id']}")
    try:
        (file,) = defined["get_images"](socket, json.loads(GRAPH.read_text(encoding="utf-8")))[SENDER]
    finally:
        socket.close()
    assert is_drawn(file)


def is_drawn(file: bytes) -> bool:
    image = Image.open(io.BytesIO(file))
    return (image.format, image.size) == ("JPEG", (256, 256))


def run(*command: str, folder: Path, **changes: str) -> str:
    """What the program prints."""
    environment = {**os.environ, "no_proxy": "127.0.0.1", "HOME": str(folder), **changes}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def by_npm(folder: Path, *requirements: str) -> None:
    command = [program("npm"), "install", "--prefix", str(folder), "--no-audit", "--no-fund", *requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lacks(f"the network, or these packages: {done.stderr.strip().splitlines()[-1]}")


@pytest.mark.soak
@pytest.mark.parametrize(
    "name", ["websockets_api_example.py", "websockets_api_example_ws_images.py", "basic_api_example.py"]
)
def test_the_hosts_whole_scripts_run(server, tmp_path, name):
    """Unmodified but for the graph and the port; what they fill in for their own graph's nodes is ignored in ours."""
    source = (host.path() / "script_examples" / name).read_text(encoding="utf-8").replace("8188", str(server.port))
    head, _, rest = source.partition('prompt_text = """')
    script = f'{head}prompt_text = """{GRAPH.read_text(encoding="utf-8")}"""{rest.partition(chr(34) * 3)[2]}\n'
    if "images =" in script:
        script += f'print(images["{SENDER}"][0].hex())\n'
    printed = run(sys.executable, "-c", script, folder=tmp_path)
    assert "images =" not in script or is_drawn(bytes.fromhex(printed.strip().splitlines()[-1]))


@pytest.mark.soak
@pytest.mark.parametrize(("model", "fields"), [(RT, {}), (BASE, {"num_inference_steps": 4})])
def test_segminds_sdk_draws_the_same_by_every_verb(server, tmp_path, model, fields):
    fields = {"prompt": PROMPT, "seed": 8, **fields}
    code = f"""
import segmind, urllib.request
assert segmind.__version__ == "1.3.0"
client = segmind.SegmindClient(api_key="a", base_url="{server.url}/v1")
fetched = lambda result: urllib.request.urlopen(result["output"]).read()
model, fields = {model!r}, {fields!r}
print(client.run_sync(model, **fields).content.hex())
print(fetched(client.run(model, **fields)).hex())
print(fetched(client.submit_async(model, **fields).wait(interval=0.1)).hex())
try:
    client.run(model, prompt="")
except segmind.SegmindError as error:
    print(error.status, error.detail)
"""
    where = by_pip(tmp_path / "segmind", "segmind==1.3.0")
    *pictures, refused = run(sys.executable, "-c", code, folder=tmp_path, **where).splitlines()
    assert pictures == [post(server, model, **fields).content.hex()] * 3
    assert refused.startswith("400 prompt: ")


@pytest.mark.soak
@pytest.mark.parametrize("package", PYTHON)
def test_a_python_client_gets_the_picture(server, tmp_path, package):
    graph = json.loads(GRAPH.read_text(encoding="utf-8"))
    for node in graph.values():  # as File > Export (API) writes them, by which comfy-api-simplified finds nodes
        node["_meta"] = {"title": "Send" if node["class_type"] == "VegaSendImage" else "other"}
    (tmp_path / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    given = f"import json\nADDRESS, GRAPH = '127.0.0.1:{server.port}', {str(tmp_path / 'graph.json')!r}\n"
    printed = run(sys.executable, "-c", given + PYTHON[package], folder=tmp_path, **by_pip(tmp_path / "package", package))
    assert is_drawn(bytes.fromhex(printed.strip().splitlines()[-1]))


@pytest.mark.soak
@pytest.mark.parametrize("package", NODE)
def test_a_javascript_client_gets_the_picture(server, tmp_path, package):
    by_npm(tmp_path, package, "ws@8.18.3")
    given = f"const [ADDRESS, GRAPH, SENDER] = {json.dumps([f'127.0.0.1:{server.port}', str(GRAPH), SENDER])};\n"
    given += 'globalThis.WebSocket ??= require("ws");\n'
    (tmp_path / "client.cjs").write_text(given + NODE[package], encoding="utf-8")
    printed = run(program("node"), "client.cjs", folder=tmp_path)
    assert is_drawn(bytes.fromhex(printed.strip().splitlines()[-1]))


@pytest.mark.soak
def test_cfli_downloads_the_picture(server, tmp_path):
    """The command of @saintno/comfyui-sdk; it takes graphs whose nodes have numbers alone."""
    by_npm(tmp_path, "@saintno/comfyui-sdk@0.3.1")
    graph = json.loads(NUMBERED.read_text(encoding="utf-8"))
    graph["5"]["inputs"]["seed"] = 815  # not drawn before: it fails where the host has only Send Image to run
    (tmp_path / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    cli = str(tmp_path / "node_modules" / "@saintno" / "comfyui-sdk" / "dist" / "cli.js")
    options = ["-f", "graph.json", "-H", server.url, "--json", "--no-tui", "-d", "-o", "drawn"]
    run(program("node"), cli, "run", *options, folder=tmp_path)
    (file,) = (tmp_path / "drawn").iterdir()
    assert is_drawn(file.read_bytes())
