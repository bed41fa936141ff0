"""One server for all tests, in a world of its own: its models, its cache, its hub."""

import os
import subprocess
import sys
import time
from pathlib import Path

import anthropic
import httpx
import ollama
import openai
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from hub import Hub, gguf  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
HOB = Path(os.environ.get("HOB", ROOT / "target/release/hob")).resolve()
STARTER = ROOT / "target/test-models/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL = "starter"


class Server:
    """`hob serve` on a free port, with the starter model in its folder and `hub` as its hub."""

    def __init__(self, home, hub, *args):
        models = home / "hob/models"
        models.mkdir(parents=True)
        (models / STARTER.name).symlink_to(STARTER)
        env = {
            "HOME": str(home), "HOB_HOME": str(home / "hob"), "HF_HOME": str(home / "hf"),
            "OLLAMA_MODELS": str(home / "ollama"), "HF_ENDPOINT": hub.url, "PATH": os.environ["PATH"],
        }
        self.log = open(home / "log.txt", "w")
        self.home = home
        command = [HOB, "serve", "--port=0", *args]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = next((line for line in self.process.stdout if "http://" in line), None)
        assert line, f"the server did not start: {(home / 'log.txt').read_text()}"
        self.url = line.split()[-1]

    def metric(self, name):
        page = httpx.get(self.url + "/metrics").text
        return next(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name + " "))

    def until(self, name, value, within=5.0):
        """Waits until a metric has that value, and tells for how long."""
        start = time.monotonic()
        while self.metric(name) != value:
            assert time.monotonic() - start < within, f"{name} is {self.metric(name)}, and was to be {value}"
            time.sleep(0.01)
        return time.monotonic() - start

    def stop(self):
        self.process.terminate()
        assert self.process.wait(15) == 0
        self.log.close()
        log = (self.home / "log.txt").read_text()
        assert "bug in Hob" not in log, log


@pytest.fixture(scope="session")
def hub():
    hub = Hub({"tiny": gguf("Tiny", 1 << 20), "slow": gguf("Slow", 4 << 20), "other": gguf("Other", 1 << 16)})
    yield hub
    hub.stop()


@pytest.fixture(scope="session")
def server(hub, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("world"), hub)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def guarded(hub, tmp_path_factory):
    """A server that wants a token and opens no connection."""
    server = Server(tmp_path_factory.mktemp("guarded"), hub, "--token=secret", "--offline")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def gpt(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="session")
def claude(server):
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


@pytest.fixture(scope="session")
def llama(server):
    return ollama.Client(host=server.url)


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
            "required": ["city"],
        },
    },
}
