#!/usr/bin/env python3
"""Golden logits of a real GGUF: its weights dequantized, run in float32 by transformers.

usage: golden_logits.py MODEL.gguf...      (SmolLM2-135M-Instruct Q4_1, Gemma-3-270M Q4_K_M)
writes tests/golden/logits/{smollm2,gemma3-270m}/golden.{json,safetensors}; the layout: tests/golden/README.md
"""
import sys
from pathlib import Path

import numpy as np
import torch

import golden_common as g

TEXTS = {
    "english": (
        "A good map leaves things out. It does not show every tree, or the colour of the doors, or where the "
        "dog sleeps. It shows the road, the river and the bridge between them, so that a person who has never "
        "been there can find the way home before dark."
    ),
    "code": (
        "fn count_runs(bytes: &[u8]) -> usize {\n    let mut runs = 0;\n    let mut last = None;\n"
        "    for &b in bytes {\n        if last != Some(b) {\n            runs += 1;\n"
        "            last = Some(b);\n        }\n    }\n    runs\n}\n"
    ),
    "multilingual": (
        "Guten Morgen! Le chat noir dort sur la chaise. ¿Quién tiene la llave de la casa? Завтра будет тепло. "
        "明日は晴れです。 안녕! 🙂 Il treno parte alle 9, e o gato bebe leite."
    ),
}
# The texts, and the length of the long one, are chosen so that no two logits compete for the top: every
# margin is above 0.009, so an engine that is right to a few thousandths has the same argmax everywhere.
LONG = 820  # tokens of the long text for a model with sliding-window layers
LONG_KEEP = 100
SAMPLE = 256


def arrays(rows, sample):
    """The stored facts of (T, V) logits: argmax ids, and arrays over the positions."""
    top = rows.topk(2, dim=-1)
    return top.indices[:, 0].tolist(), {
        "top": top.values[:, 0],
        "margin": top.values[:, 0] - top.values[:, 1],
        "logsumexp": torch.logsumexp(rows.double(), -1),
        "logits": rows[:, sample],
    }


for path in sys.argv[1:]:
    meta, model = g.load_model(path)
    tok = g.load_tokenizer(meta)
    name = {"llama": "smollm2", "gemma3": "gemma3-270m"}[meta["general.architecture"]]
    vocab = len(meta["tokenizer.ggml.tokens"])
    sample = sorted(np.random.default_rng(20).choice(vocab, SAMPLE, replace=False).tolist())
    texts, out = {}, {}
    jobs = [(key, text, g.encode(tok, meta, text), None) for key, text in TEXTS.items()]
    if name == "gemma3-270m":
        story = (g.ROOT / "perplexity/text.txt").read_text(encoding="utf-8")
        ids = g.encode(tok, meta, story)[:LONG]
        jobs.append(("long", tok.decode(ids[1:], skip_special_tokens=False), ids, LONG_KEEP))
    for key, text, ids, keep in jobs:
        rows = g.logits(model, ids)
        first = 0 if keep is None else len(ids) - keep
        argmax, facts = arrays(rows[first:], sample)
        texts[key] = {
            "text": text,
            "tokens": len(ids),
            "first_position": first,
            "mean_nll": g.nll(rows[:-1], ids[1:]).mean().item(),
            "ids": ids,
            "argmax": argmax,
        }
        out |= {f"{key}.{k}": v for k, v in facts.items()}
        print(name, key, len(ids), "smallest margin", facts["margin"].min().item(), texts[key]["mean_nll"])
    g.save(
        f"logits/{name}",
        {
            "model": Path(path).name,
            "source": "GGUF dequantized by gguf, run in float32 by transformers, attention eager, one pass a text",
            "versions": g.versions("transformers", "gguf", "tokenizers"),
            "vocab": vocab,
            "sample_ids": sample,
            "texts": texts,
        },
        out,
    )
