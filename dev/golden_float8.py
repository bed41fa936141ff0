#!/usr/bin/env python3
"""The tiny Flux `dev` of golden_flux.py in floats of 8 bits, with what diffusers gives for the same numbers in float32.

usage: golden_float8.py
writes tests/golden/float8/{scaled,plain,noted}.safetensors and golden.{json,safetensors}, and of all 256 codes
tests/golden/blocks/F8_{E4M3,E5M2}.bin (codes, then their values in F32); the layout: tests/golden/README.md
"""
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

import golden_common as g

SOURCE = g.ROOT / "flux/dev"
OUT = g.ROOT / "float8"
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2

codes = torch.arange(256, dtype=torch.uint8)
for name, dtype in (("F8_E4M3", E4M3), ("F8_E5M2", E5M2)):
    values = codes.view(dtype).float()
    (g.ROOT / f"blocks/{name}.bin").write_bytes(codes.numpy().tobytes() + values.numpy().astype("<f4").tobytes())

weights = load_file(SOURCE / "diffusion_pytorch_model.safetensors")
inputs = load_file(SOURCE / "golden.safetensors")


def scaled(suffix):
    """Matrices as codes of their largest at 448, with a scale beside each; all else in F32."""
    stored, plain = {}, {}
    for name, w in weights.items():
        if w.dim() < 2:
            stored[name] = plain[name] = w
            continue
        scale = w.abs().max() / 448 * 1.25
        stored[name] = (w / scale).to(E4M3)
        stored[name.removesuffix("weight") + suffix] = scale
        plain[name] = stored[name].float() * scale
    return stored, plain


old, plain_old = scaled("scale_weight")
old |= {"scaled_fp8": torch.empty(2, dtype=E4M3), "proj_out.scale_input": torch.tensor([1.5])}
new, plain_new = scaled("weight_scale")
note = torch.frombuffer(bytearray(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
new |= {"proj_out.comfy_quant": note, "x_embedder.comfy_quant": note.clone()}
cast = {name: w.to(E5M2) for name, w in weights.items()}
files = {"scaled": (old, plain_old), "noted": (new, plain_new), "plain": (cast, {k: w.float() for k, w in cast.items()})}

OUT.mkdir(exist_ok=True)
arrays = {}
for name, (stored, plain) in files.items():
    save_file({k: v.contiguous() for k, v in stored.items()}, OUT / f"{name}.safetensors")
    model = FluxTransformer2DModel.from_pretrained(SOURCE).eval()
    model.load_state_dict(plain)
    tokens = 15
    ids = torch.zeros(3, 5, 3)
    ids[..., 1] += torch.arange(3)[:, None]
    ids[..., 2] += torch.arange(5)[None]
    with torch.no_grad():
        arrays[name] = model(
            hidden_states=inputs["packed"], encoder_hidden_states=inputs["text"], pooled_projections=inputs["pooled"],
            timestep=inputs["timestep"], guidance=inputs["guidance"], img_ids=ids.reshape(tokens, 3),
            txt_ids=torch.zeros(7, 3), return_dict=False)[0]
    moved = (arrays[name] - inputs["sample"]).abs().max().item()
    print(name, "is", moved, "from float32, whose largest is", inputs["sample"].abs().max().item())
    assert 0.001 < moved
g.save("float8", {"source": "diffusers FluxTransformer2DModel in float32, with weights rounded to floats of 8 bits by torch",
                  "versions": g.versions("diffusers")}, arrays)
