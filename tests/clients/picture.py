"""A whole picture model that makes a picture in a moment, as tests/common/tiny_picture.rs has it: the golden model of Stable
Diffusion 1's kind, with a text encoder by chance that reads CLIP's own words. `python picture.py FOLDER` writes one."""

import json
import random
import shutil
import struct
import sys
from array import array
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "golden/pipeline/sd15"
HIDDEN, LAYERS, SIDE = 12, 2, 32


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def write(folder):
    shutil.copytree(GOLDEN, folder)
    change(folder / "text_encoder/config.json", vocab_size=49408, max_position_embeddings=77, num_hidden_layers=LAYERS,
           bos_token_id=49406, eos_token_id=49407)
    change(folder / "unet/config.json", sample_size=SIDE // 2)
    shapes = {"embeddings.token_embedding.weight": [49408, HIDDEN], "embeddings.position_embedding.weight": [77, HIDDEN]}
    norms = ["final_layer_norm"]
    for i in range(LAYERS):
        layer = f"encoder.layers.{i}"
        norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
        linear = {f"self_attn.{part}_proj": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "out")}
        for name, (rows, columns) in (linear | {"mlp.fc1": (36, HIDDEN), "mlp.fc2": (HIDDEN, 36)}).items():
            shapes |= {f"{layer}.{name}.weight": [rows, columns], f"{layer}.{name}.bias": [rows]}
    shapes |= {f"{norm}.{kind}": [HIDDEN] for norm in norms for kind in ("weight", "bias")}
    chance, header, data = random.Random(1), {}, bytearray()
    for name, shape in shapes.items():
        count, mean = shape[0] * (shape[1] if len(shape) > 1 else 1), float("norm" in name and name.endswith("weight"))
        start = len(data)
        data += array("f", (mean + chance.uniform(-0.4, 0.4) for _ in range(count))).tobytes()
        header[f"text_model.{name}"] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    (folder / "text_encoder/model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
