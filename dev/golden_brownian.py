#!/usr/bin/env python3
"""Noise of Brownian trees, by torchsde as k-diffusion, diffusers and ComfyUI ask it on a processor.

usage: golden_brownian.py        (needs torchsde with trampoline beside diffusers)
writes tests/golden/brownian/{golden.json,golden.safetensors}; the layout: tests/golden/README.md
"""
import torch
from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

import golden_common as g


def karras(n, low, high):
    ramp = torch.linspace(0, 1, n)
    return (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7


walks = [
    (0, karras(8, 0.0292, 14.6146), (1, 4, 6, 5)),
    (123456789, torch.linspace(14.6146, 0.0292, 5), (3,)),
    (2**40 + 7, karras(20, 0.1, 80.0), (2, 9)),
    (2**32, torch.tensor([1.0, 0.75, 0.5, 0.4, 0.25, 0.0078125]), (17,)),
    (2**63 - 1, torch.tensor([2.0, 1.5, 1.25, 1.1]), (40,)),
]
facts, arrays = [], {}
for number, (seed, sigmas, shape) in enumerate(walks):
    sampler = BrownianTreeNoiseSampler(torch.zeros(shape), sigmas.min(), sigmas.max(), seed=seed)
    pairs = list(zip(sigmas, sigmas[1:]))
    # Not in order, and over several steps at once: the path must not depend on what was asked before.
    pairs += [(sigmas[0], sigmas[-1]), (sigmas[0], (sigmas[0] * sigmas[1]).sqrt()), (sigmas[-2], sigmas[1])]
    rows = []
    for i, (a, b) in enumerate(pairs):
        noise = sampler(a, b)
        if torch.isfinite(noise).all():
            rows.append([a.item(), b.item(), f"{number}.{i}"])
            arrays[f"{number}.{i}"] = noise.flatten()
    facts.append({"seed": str(seed), "least": sigmas.min().item(), "greatest": sigmas.max().item(),
                  "count": int(torch.tensor(shape).prod()), "asked": rows})
g.save("brownian", {"source": "torchsde's BrownianTree through diffusers' BrownianTreeNoiseSampler, on a CPU with AVX2",
                    "versions": g.versions("torchsde", "diffusers"), "walks": facts}, arrays)
