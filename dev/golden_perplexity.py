#!/usr/bin/env python3
"""Golden perplexity of a real GGUF on tests/golden/perplexity/text.txt, in float32 by transformers.

usage: golden_perplexity.py MODEL.gguf...
writes tests/golden/perplexity/{smollm2,gemma3-270m}/golden.{json,safetensors}; the layout: tests/golden/README.md
"""
import math
import sys
from pathlib import Path

import golden_common as g

WINDOW = 2048

text = (g.ROOT / "perplexity/text.txt").read_text(encoding="utf-8")
for path in sys.argv[1:]:
    meta, model = g.load_model(path)
    name = {"llama": "smollm2", "gemma3": "gemma3-270m"}[meta["general.architecture"]]
    ids = g.encode(g.load_tokenizer(meta), meta, text)
    assert len(ids) >= WINDOW
    losses = g.nll(g.logits(model, ids[:WINDOW])[:-1], ids[1:WINDOW])
    mean = losses.mean().item()
    print(name, len(ids), "tokens; mean nll", mean, "perplexity", math.exp(mean))
    g.save(
        f"perplexity/{name}",
        {
            "model": Path(path).name,
            "text": "../text.txt",
            "method": "ids[0..2048] in one pass with an empty cache; mean over positions 1..=2047 of "
            "-log p(ids[i] | ids[..i]), natural logarithm, accumulated in float64",
            "versions": g.versions("transformers", "gguf", "tokenizers"),
            "window": WINDOW,
            "mean_nll": mean,
            "perplexity": math.exp(mean),
            "tokens": len(ids),
            "ids": ids,
        },
        {"nll": losses},
    )
