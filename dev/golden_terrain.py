#!/usr/bin/env python3
"""What adaptive-terrain-diffusion and its UNet in ONNX give, by onnxruntime in float32, and the noise that numpy draws.

usage: golden_terrain.py FOLDER   (into which the wheel adaptive_terrain_diffusion 0.4.2 was unpacked)
needs onnxruntime, onnx, numpy, safetensors; beside the other scripts' packages it takes none of them
writes tests/golden/terrain/{golden.json,golden.safetensors}; the layout: tests/golden/README.md
"""
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from safetensors.numpy import save_file

sys.path.insert(0, sys.argv[1])
from terrain_diffusion import TerrainGenerator

OUT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "terrain"
MODEL = Path(sys.argv[1]) / "terrain_diffusion/weights/terrain_consistency_unet_difficulty100.onnx"
STEP = 11  # of the pixels of most arrays, each STEP-th is kept


def few(x):
    return np.asarray(x, dtype=np.float32).ravel()[::STEP].copy()


arrays, facts = {}, {}

# ---- the network, before it is scaled and cut off ----
model = onnx.load(MODEL)
nodes = {n.output[0]: n for n in model.graph.node}
scaled = next(n for n in model.graph.node if n.op_type == "Clip").input[0]
inner = [i for i in nodes[nodes[scaled].input[0]].input if nodes[i].op_type == "Conv"][0]
for name in (scaled, inner):
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
noise = np.random.default_rng(1).standard_normal((1, 1, 128, 128), dtype=np.float32)
arrays["noise"] = noise
facts["network"] = []
last = np.zeros_like(noise)
for i, (sigma, difficulty) in enumerate([(80.0, 0.3), (4.0, 1.0), (0.4, 0.0)]):
    noisy = last + np.float32(sigma) * noise
    feed = {"noisy": noisy, "sigma": np.array([sigma], np.float32), "difficulty": np.array([difficulty], np.float32)}
    out, free, last = session.run([inner, scaled, "denoised"], feed)
    print(sigma, f"out std {out.std():.3f} max {abs(out).max():.3f}; before the cut {free.min():.3f}..{free.max():.3f}")
    arrays |= {f"{i}.out": few(out), f"{i}.scaled": few(free), f"{i}.denoised": few(last)}
    facts["network"].append({"sigma": sigma, "difficulty": difficulty})

# ---- numpy's generator ----
facts["draws"] = []
for seed in (0, 7, 123456789, 2**40 + 5, 2**64 - 1):
    rng = np.random.default_rng(seed)
    label = int(rng.integers(1, 101, size=1, dtype=np.int64)[0])
    draws = rng.standard_normal(1_000_000, dtype=np.float32)
    name = f"draws.{seed}"
    arrays[name] = np.concatenate([draws[:32], draws[-32:]])
    # The tail and the wedges of the ziggurat are met some thousand times.
    bits = int(np.bitwise_xor.reduce(draws.view(np.uint32)))
    facts["draws"].append({"seed": str(seed), "label": label, "count": draws.size, "xor": bits, "array": name})

# ---- whole terrains ----
generator = TerrainGenerator(model=MODEL, device="cpu")
facts["terrains"] = []
first = None
for name, count, shape, difficulty, seed in [
    ("native", 1, (128, 128), 60, 7),
    ("chance", 1, (128, 128), "random", 8),
    ("small", 1, (50, 70), 100, 9),
    ("large", 1, (160, 300), 25, 10),
]:
    heights, said = generator.generate(count, shape=shape, difficulty=difficulty, seed=seed, return_difficulties=True)
    print(name, heights.shape, f"{heights.min():.3f}..{heights.max():.3f} m, difficulty {said}")
    first = heights[0] if first is None else first
    arrays[name] = few(heights)
    facts["terrains"].append({"name": name, "height": shape[0], "width": shape[1], "seed": seed,
                              "difficulty": difficulty, "said": int(said[0]), "step": STEP})

source = first[10:70, 20:84].copy()
arrays["source"] = source
facts["varied"] = []
for name, shape, difficulty, strength, seed in [
    ("varied", (60, 64), 75, 0.5, 11),
    ("varied-large", (60, 180), 40, 0.7, 12),
]:
    heights = generator.generate_from(source, shape=shape, difficulty=difficulty, strength=strength, seed=seed)
    print(name, heights.shape, f"{heights.min():.3f}..{heights.max():.3f} m")
    arrays[name] = few(heights)
    facts["varied"].append({"name": name, "height": shape[0], "width": shape[1], "seed": seed,
                            "difficulty": difficulty, "strength": strength, "step": STEP})

OUT.mkdir(parents=True, exist_ok=True)
packages = {p: version(p) for p in ("numpy", "onnx", "onnxruntime")}
facts["versions"] = {"python": platform.python_version(), "adaptive-terrain-diffusion": "0.4.2"} | packages
facts["source"] = "adaptive-terrain-diffusion's generator.py and its ONNX by onnxruntime on a processor, float32"
rows = []
for key, value in facts.items():
    if isinstance(value, list):
        body = ",\n".join("    " + json.dumps(v) for v in value)
        rows.append(f"  {json.dumps(key)}: [\n{body}\n  ]")
    else:
        rows.append(f"  {json.dumps(key)}: {json.dumps(value)}")
(OUT / "golden.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")
save_file({k: np.ascontiguousarray(v, dtype=np.float32) for k, v in arrays.items()}, OUT / "golden.safetensors")
(OUT / "golden.safetensors").chmod(0o644)
print(sum(f.stat().st_size for f in OUT.iterdir()) // 1024, "KiB")
