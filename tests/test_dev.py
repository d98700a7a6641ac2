"""The commands of the README on an ordinary machine: odd prompts, a proxy in the environment, a stop from outside.

Like the Makefile they are for Linux and macOS; what runs on Windows is the pack.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import graphs
import pytest
import requests

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("by", ["argument", "environment"])
@pytest.mark.parametrize("prompt", ["a $5 tree, $(HOME) and $$", 'it\'s "night"; 100 %'])
def test_make_passes_the_prompt_as_it_is(prompt, by):
    command = ["make", "-s", "--eval=show: ; @printenv PROMPT", "show"]
    environment = dict(os.environ)
    if by == "argument":
        command.append(f"PROMPT={prompt}")
    else:
        environment["PROMPT"] = prompt
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout == prompt + "\n"


def test_a_proxy_is_not_asked_for_the_local_server(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("no_proxy", "example.org")
    with server.connect() as client:
        assert client.run(graphs.text_to_image(VegaLCMSampler__steps=1))


@pytest.mark.server
def test_sigterm_stops_the_server_too():
    process = subprocess.Popen([sys.executable, "-u", "-m", "dev.run"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    address = process.stdout.readline().split()[3]
    assert requests.get(address + "/queue", timeout=10).ok
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    deadline = time.monotonic() + 10
    with pytest.raises(requests.ConnectionError):
        while time.monotonic() < deadline:
            requests.get(address + "/queue", timeout=10)
