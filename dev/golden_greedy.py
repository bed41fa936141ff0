#!/usr/bin/env python3
"""Golden greedy text of a real GGUF: the likeliest token, 64 times, in float32 by transformers.

usage: golden_greedy.py MODEL.gguf...
writes tests/golden/greedy/{smollm2,gemma3-270m}/golden.json; the layout: tests/golden/README.md
"""
import sys
from pathlib import Path

import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment

import golden_common as g

TOKENS = 64
# Chosen among some thirty for wide margins, so that exact equality is a fair demand.
CHATS = {
    "factorial": "Write a Python function that returns the factorial of n.",
    "cat": "Write a JSON object describing a cat.",
    "planets": "Name the planets of the solar system.",
    "months": "List the months of the year.",
}
PROMPTS = {
    "fibonacci": "def fibonacci(n):\n",
    "water": "Water boils at",
    "colours": "The three primary colours are",
}


def greedy(model, ids, eos):
    """The ids generated after IDS, and how far each led over the runner-up."""
    out, margins, past, step = [], [], None, torch.tensor([ids])
    with torch.no_grad():
        while len(out) < TOKENS and not (out and out[-1] == eos):
            result = model(step, past_key_values=past, use_cache=True)
            past, top = result.past_key_values, result.logits[0, -1].topk(2)
            out.append(top.indices[0].item())
            margins.append((top.values[0] - top.values[1]).item())
            step = top.indices[None, :1]
    return out, margins


for path in sys.argv[1:]:
    meta, model = g.load_model(path)
    tok = g.load_tokenizer(meta)
    chat = meta.get("tokenizer.chat_template")
    name = {"llama": "smollm2", "gemma3": "gemma3-270m"}[meta["general.architecture"]]
    eos = meta["tokenizer.ggml.eos_token_id"]
    prompts = {}
    for key, prompt in (CHATS if chat else PROMPTS).items():
        case = {}
        if chat:
            messages = [{"role": "user", "content": prompt}]
            env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
            case["messages"] = messages
            prompt = env.from_string(chat).render(messages=messages, add_generation_prompt=True)
        ids = g.encode(tok, meta, prompt)
        out, margins = greedy(model, ids, eos)
        ended = out[-1] == eos
        prompts[key] = case | {
            "prompt": prompt,
            "ids": ids,
            "generated": out,
            "ended_with_eos": ended,
            "text": tok.decode(out[:-1] if ended else out, skip_special_tokens=False),
            "smallest_margin": min(margins),
            "smallest_margin_at": margins.index(min(margins)),
        }
        print(name, key, len(out), min(margins))
    g.save(
        f"greedy/{name}",
        {
            "model": Path(path).name,
            "source": "GGUF dequantized by gguf, run in float32 by transformers, attention eager",
            "versions": g.versions("transformers", "gguf", "tokenizers"),
            "eos": eos,
            "prompts": prompts,
        },
        {},
    )
