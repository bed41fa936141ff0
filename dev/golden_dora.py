#!/usr/bin/env python3
"""DoRAs of a linear layer and a convolution, and what peft and LyCORIS' formula make of the weights.

usage: golden_dora.py
writes tests/golden/dora/{weights,peft,inputs,outputs,golden}.safetensors and golden.json; the layout: tests/golden/README.md
"""
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

import golden_common as g

OUT = g.ROOT / "dora"
LINE, CONV = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "down_blocks.0.resnets.0.conv1"
gen = torch.Generator().manual_seed(77)


def noise(*shape):
    return torch.randn(shape, generator=gen)


def model():
    root = torch.nn.Module()
    for path, layer in ((LINE, torch.nn.Linear(10, 7, bias=False)), (CONV, torch.nn.Conv2d(4, 6, 3, bias=False))):
        at = root
        *before, last = path.split(".")
        for name in before:
            if not hasattr(at, name):
                at.add_module(name, torch.nn.Module())
            at = getattr(at, name)
        at.add_module(last, layer)
    return root


base = model()
with torch.no_grad():
    for p in base.parameters():
        p.copy_(noise(*p.shape))
weights = {k: v.detach().clone() for k, v in base.state_dict().items()}
OUT.mkdir(exist_ok=True)
save_file(weights, OUT / "weights.safetensors")
arrays = {}

# peft scales rows, and knows no strength.
net = get_peft_model(base, LoraConfig(r=2, lora_alpha=3, use_dora=True, target_modules=["to_k", "conv1"], init_lora_weights=False))
with torch.no_grad():
    for name, p in net.named_parameters():
        if "lora_magnitude" in name:
            p.mul_(1 + 0.3 * noise(*p.shape))
        elif "lora_" in name:
            p.copy_(0.5 * noise(*p.shape))
state = get_peft_model_state_dict(net)
# What the file itself does not say stands beside it in adapter_config.json; here an alpha says it.
save_file({k: v.contiguous() for k, v in state.items()} | {
    f"base_model.model.{m}.alpha": torch.tensor(3.0) for m in (LINE, CONV)}, OUT / "peft.safetensors")
print(sorted(state))
merged = net.merge_and_unload()
arrays |= {f"peft/{k}": v for k, v in merged.state_dict().items()}

# LyCORIS: by inputs, as it began, or by outputs (wd_on_out); a strength as A1111 and ComfyUI apply it.
STRENGTH = 0.6
for kind in ("inputs", "outputs"):
    stored = {}
    for path in (LINE, CONV):
        w = weights[path + ".weight"]
        key = "lora_unet_" + path.replace(".", "_")
        down, up = 0.5 * noise(2, *w.shape[1:]), 0.5 * noise(w.shape[0], 2, *[1] * (w.dim() - 2))
        delta = (up.flatten(1) @ down.flatten(1)).reshape(w.shape) * (1.5 / 2)
        dims = [d for d in range(w.dim()) if d != (1 if kind == "inputs" else 0)]
        scale = torch.linalg.vector_norm(w, dim=dims, keepdim=True)
        scale = scale * (1 + 0.3 * noise(*scale.shape))
        after = (w + delta) * (scale / torch.linalg.vector_norm(w + delta, dim=dims, keepdim=True))
        arrays[f"{kind}/{path}.weight"] = w + STRENGTH * (after - w)
        stored |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1.5),
                   f"{key}.dora_scale": scale}
    save_file({k: v.contiguous() for k, v in stored.items()}, OUT / f"{kind}.safetensors")
for name, value in arrays.items():
    print(name, "moves by", (value - weights[name.split("/")[1]]).abs().max().item())
g.save("dora", {"source": "peft's merge, and LyCORIS' formula in torch", "versions": g.versions("peft"), "strength": STRENGTH}, arrays)
