#!/usr/bin/env python3
"""Golden gradients and training losses: LoRA on tests/golden/tiny/llama, by torch's autograd in float32.

usage: golden_lora.py
writes tests/golden/lora/{adapter_config.json,adapter_model.safetensors,golden.json,golden.safetensors}; the
layout: tests/golden/README.md
"""
import json

import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from transformers import LlamaForCausalLM

import golden_common as g

RANK, ALPHA = 4, 8.0
TARGETS = ["q_proj", "v_proj"]
LENGTHS = [11, 17]
STEPS = 20
ADAMW = dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)


class Lora(torch.nn.Module):
    """y = W x + alpha / rank * B (A x); A is (rank, in), B is (out, rank)."""

    def __init__(self, linear, gen):
        super().__init__()
        rows, cols = linear.weight.shape
        self.base = linear
        self.lora_A = torch.nn.Parameter(torch.randn(RANK, cols, generator=gen) * cols**-0.5)
        self.lora_B = torch.nn.Parameter(torch.randn(rows, RANK, generator=gen) * 0.05)

    def forward(self, x):
        return self.base(x) + ALPHA / RANK * (x @ self.lora_A.T @ self.lora_B.T)


def loss_of(model, sequences):
    """Mean cross-entropy over every next token of every sequence, each run by itself from position 0."""
    total, count = 0.0, 0
    for ids in sequences:
        x = torch.tensor([ids])
        rows = model(x, use_cache=False).logits[0]
        total = total + F.cross_entropy(rows[:-1], x[0, 1:], reduction="sum")
        count += len(ids) - 1
    return total / count


folder = g.ROOT / "lora"
base = g.ROOT / "tiny" / "llama"
model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").train()
gen = torch.Generator().manual_seed(7)
vocab = model.config.vocab_size
sequences = [torch.randint(3, vocab, (n,), generator=gen).tolist() for n in LENGTHS]
plain_loss = loss_of(model, sequences).item()
adapters = {}
for i, layer in enumerate(model.model.layers):
    for target in TARGETS:
        lora = Lora(getattr(layer.self_attn, target), gen)
        setattr(layer.self_attn, target, lora)
        adapters[f"model.layers.{i}.self_attn.{target}"] = lora

# A real PEFT folder with the initial values.
folder.mkdir(parents=True, exist_ok=True)
peft = dict(
    peft_type="LORA", task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, bias="none",
    lora_dropout=0.0, fan_in_fan_out=False, use_rslora=False, base_model_name_or_path="../tiny/llama",
)
(folder / "adapter_config.json").write_text(json.dumps(peft, indent=2) + "\n")
parts = {f"{path}.lora_{x}.weight": getattr(lora, f"lora_{x}") for path, lora in adapters.items() for x in "AB"}
save_file({f"base_model.model.{k}": v.detach().numpy() for k, v in parts.items()}, folder / "adapter_model.safetensors")

loss = loss_of(model, sequences)
loss.backward()
arrays = {}
for name, p in model.named_parameters():
    path = name.replace(".lora_A", ".lora_A.weight").replace(".lora_B", ".lora_B.weight").replace(".base.", ".")
    assert p.grad is not None and p.grad.abs().max() > 0, name
    arrays[f"grad.{path}"] = p.grad.clone()

for p in model.parameters():
    p.requires_grad_(False)
for p in parts.values():
    p.requires_grad_(True)
optimizer = torch.optim.AdamW(list(parts.values()), **ADAMW)
losses = []
for _ in range(STEPS):
    optimizer.zero_grad()
    step_loss = loss_of(model, sequences)
    step_loss.backward()
    optimizer.step()
    losses.append(step_loss.item())
final_loss = loss_of(model, sequences).item()
arrays |= {f"final.{k}": v for k, v in parts.items()}
print("loss without the adapter", plain_loss, "with", loss.item(), "after", STEPS, "steps", final_loss)
assert abs(losses[0] - loss.item()) < 1e-6 and final_loss < losses[0] - 0.5
g.save(
    "lora",
    {
        "base": "../tiny/llama",
        "source": "transformers and torch.autograd in float32, attention eager",
        "versions": g.versions("transformers"),
        "rank": RANK,
        "alpha": ALPHA,
        "targets": TARGETS,
        "sequences": sequences,
        "counted": [list(range(len(s) - 1)) for s in sequences],
        "predictions": sum(len(s) - 1 for s in sequences),
        "loss_without_adapter": plain_loss,
        "loss": loss.item(),
        "adamw": ADAMW,
        "losses": losses,
        "final_loss": final_loss,
    },
    arrays,
)
