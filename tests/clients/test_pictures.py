"""Pictures by OpenAI's client, and by A1111's API as SillyTavern and Open WebUI ask it."""

import base64
import json
import struct

import httpx
import openai
import picture
import pytest
from conftest import Server

EXTRA = {"steps": 2, "seed": 7, "sampler": "euler", "schedule": "normal", "cfg": 5}


@pytest.fixture(scope="session")
def painting(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny-sd"
    picture.write(folder)
    server = Server(tmp_path_factory.mktemp("painting"), hub, "--image-model", folder)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def painter(painting):
    return openai.OpenAI(base_url=painting.url + "/v1", api_key="none", max_retries=0)


def png(text):
    data = base64.b64decode(text)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return data, struct.unpack(">II", data[16:24])


def test_models_that_make_pictures_are_listed(painter):
    assert "tiny-sd" in [m.id for m in painter.models.list()]


def test_generate(painter):
    made = painter.images.generate(model="tiny-sd", prompt="a fox", n=2, size="48x32", extra_body=EXTRA)
    assert len(made.data) == 2 and made.created > 1_700_000_000
    first, size = png(made.data[0].b64_json)
    assert size == (48, 32) and made.data[0].seed == 7 and b"a fox" in first
    again = painter.images.generate(
        model="tiny-sd", prompt="a fox", size="48x32", response_format="b64_json", extra_body=EXTRA
    )
    assert again.data[0].b64_json == made.data[0].b64_json
    assert painter.images.generate(prompt="a fox", extra_body={"steps": 1}).data[0].b64_json


def test_edit(painter):
    source = base64.b64decode(painter.images.generate(prompt="a wall", extra_body=EXTRA).data[0].b64_json)
    whole = painter.images.edit(model="tiny-sd", image=source, prompt="a door", extra_body=EXTRA)
    masked = painter.images.edit(image=("a.png", source), mask=("m.png", source), prompt="a door", extra_body=EXTRA)
    assert png(whole.data[0].b64_json)[1] == png(masked.data[0].b64_json)[1] == (32, 32)
    assert whole.data[0].b64_json != masked.data[0].b64_json
    with pytest.raises(openai.BadRequestError, match="one at a time"):
        painter.images.edit(image=[source, source], prompt="a door")


def test_errors(painter):
    with pytest.raises(openai.NotFoundError, match="there are tiny-sd"):
        painter.images.generate(model="dall-e-3", prompt="x")
    with pytest.raises(openai.BadRequestError, match="multiples of"):
        painter.images.generate(prompt="x", size="33x33")
    with pytest.raises(openai.BadRequestError, match="b64_json"):
        painter.images.generate(prompt="x", response_format="url")


def test_a1111(painting):
    with httpx.Client(base_url=painting.url, timeout=60) as web:
        title = web.get("/sdapi/v1/sd-models").json()[0]["title"]
        assert web.post("/sdapi/v1/options", json={"sd_model_checkpoint": title}).status_code == 200
        assert web.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == title
        ask = {"prompt": "a fox", "negative_prompt": "", "sampler_name": "Euler a", "scheduler": "Karras", "steps": 2,
               "cfg_scale": 7, "width": 32, "height": 32, "seed": -1, "restore_faces": False, "enable_hr": False}
        reply = web.post("/sdapi/v1/txt2img", json=ask).json()
        info = json.loads(reply["info"])
        assert "Sampler: Euler a, Schedule type: Karras" in info["infotexts"][0]
        from_it = {**ask, "init_images": reply["images"], "denoising_strength": 0.5, "seed": info["seed"]}
        assert png(web.post("/sdapi/v1/img2img", json=from_it).json()["images"][0])[1] == (32, 32)
        assert web.get("/sdapi/v1/progress").json()["progress"] == 0
