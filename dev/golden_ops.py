#!/usr/bin/env python3
"""Golden outputs and gradients of single ops: torch in float64 on float32 inputs, rounded to float32.

usage: golden_ops.py
writes tests/golden/ops/golden.{json,safetensors}; the layout: tests/golden/README.md
"""
import math

import torch
import torch.nn.functional as F

import golden_common as g

gen = torch.Generator().manual_seed(5)
cases, arrays = [], {}


def rand(*shape, scale=1.0, low=None):
    """Normal numbers; with LOW, uniform from LOW to LOW + SCALE."""
    if low is not None:
        return low + scale * torch.rand(shape, generator=gen)
    return scale * torch.randn(shape, generator=gen)


def case(name, op, f, inputs, **attrs):
    """Run F on INPUTS (a dict, float32) and keep them, the output, and d sum(out * seed) / d input for each."""
    wide = [v.double().requires_grad_(True) for v in inputs.values()]
    out = f(*wide)
    seed = rand(*out.shape)
    grads = torch.autograd.grad((out * seed.double()).sum(), wide)
    for key, value, grad in zip(inputs, inputs.values(), grads):
        arrays[f"{name}.{key}"] = value
        arrays[f"{name}.grad.{key}"] = grad
    arrays[f"{name}.out"] = out
    arrays[f"{name}.seed"] = seed
    cases.append({"name": name, "op": op, "inputs": list(inputs), "attrs": attrs})


# ---- elementwise ----
for op, f in dict(
    neg=torch.neg, exp=torch.exp, sin=torch.sin, cos=torch.cos, tanh=torch.tanh, sigmoid=torch.sigmoid,
    erf=torch.erf, relu=torch.relu, silu=F.silu, gelu=F.gelu,
).items():
    case(op, op, f, {"x": rand(5, 7, scale=2.0)})
case("gelu_tanh", "gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), {"x": rand(5, 7, scale=2.0)})
case("log", "log", torch.log, {"x": rand(5, 7, low=0.1, scale=3.0)})
case("sqrt", "sqrt", torch.sqrt, {"x": rand(5, 7, low=0.1, scale=3.0)})
case("recip", "recip", torch.reciprocal, {"x": rand(5, 7, low=0.3, scale=3.0)})
for op, f in dict(add=torch.add, sub=torch.sub, mul=torch.mul).items():
    case(op, op, f, {"x": rand(3, 4, 5), "y": rand(4, 1)})
case("div", "div", torch.div, {"x": rand(3, 4, 5), "y": rand(4, 1, low=0.5)})
case("glu_silu", "glu", lambda a, b: F.silu(a) * b, {"gate": rand(5, 8), "up": rand(5, 8)}, act="silu")
case(
    "glu_gelu_tanh", "glu", lambda a, b: F.gelu(a, approximate="tanh") * b, {"gate": rand(5, 8), "up": rand(5, 8)},
    act="gelu_tanh",
)

# ---- rows ----
case("matmul", "matmul", torch.matmul, {"x": rand(2, 5, 7), "y": rand(2, 7, 3)})
case("linear", "linear", F.linear, {"x": rand(6, 16), "w": rand(9, 16)})
case("linear_bias", "linear", F.linear, {"x": rand(6, 16), "w": rand(9, 16), "b": rand(9)})
ids = [3, 0, 10, 3, 7]
case("gather", "gather", lambda w: F.embedding(torch.tensor(ids), w), {"w": rand(11, 6)}, ids=ids)
case("softmax", "softmax", lambda x: x.softmax(-1), {"x": rand(5, 11, scale=3.0)}, axis=-1)
case("softmax_large", "softmax", lambda x: x.softmax(-1), {"x": rand(3, 9, scale=60.0)}, axis=-1)
for offset in (0.0, 1.0):
    case(
        f"rms_norm_offset{offset:.0f}", "rms_norm",
        lambda x, w: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * (w + offset),
        {"x": rand(5, 16), "w": rand(16)}, eps=1e-5, offset=offset,
    )
case(
    "layer_norm", "layer_norm", lambda x, w, b: F.layer_norm(x, (16,), w, b, 1e-5),
    {"x": 3 + rand(5, 16), "w": rand(16), "b": rand(16)}, eps=1e-5,
)
case(
    "group_norm", "group_norm", lambda x, w, b: F.group_norm(x, 4, w, b, 1e-6),
    {"x": 1 + rand(2, 8, 3, 5), "w": rand(8), "b": rand(8)}, eps=1e-6, groups=4,
)
targets = [4, 0, 12, 7, 7]
case(
    "cross_entropy", "cross_entropy", lambda x: F.cross_entropy(x, torch.tensor(targets)),
    {"x": rand(5, 13, scale=2.0)}, targets=targets, reduction="mean",
)
skipping = [4, -1, 12, -1, 7]
case(
    "cross_entropy_skip", "cross_entropy", lambda x: F.cross_entropy(x, torch.tensor(skipping), ignore_index=-1),
    {"x": rand(5, 13, scale=2.0)}, targets=skipping, reduction="mean over the targets that are not negative",
)


# ---- rotary positions and attention ----
def rope(x, positions, theta, style, mscale=1.0):
    """x (T, H, D)."""
    half = x.shape[-1] // 2
    freq = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.tensor(positions, dtype=torch.float64)[:, None, None] * freq
    cos, sin = angle.cos() * mscale, angle.sin() * mscale
    if style == "halves":
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)


for style in ("halves", "pairs"):
    for suffix, positions, mscale in (("", [0, 1, 2, 3, 4, 5], 1.0), ("_far", [7, 300, 1, 0, 4095, 2], 1.25)):
        theta = 10000.0
        case(
            f"rope_{style}{suffix}", "rope", lambda x: rope(x, positions, theta, style, mscale), {"x": rand(6, 2, 8)},
            positions=positions, theta=theta, style=style, mscale=mscale,
        )


def attend(q, k, v, scale, causal=True, window=None, softcap=None, lengths=None, past=0):
    """q (T, H, D), k and v (S, K, D), S = past + T: the queries are the last T of S tokens."""
    t, s, heads = q.shape[0], k.shape[0], q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(heads, 1), v.repeat_interleave(heads, 1)
    scores = torch.einsum("thd,shd->hts", q, k) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    row, col = torch.arange(t)[:, None] + past, torch.arange(s)[None]
    seen = torch.ones(t, s, dtype=torch.bool)
    if causal:
        seen &= col <= row
    if window:
        seen &= col > row - window
        if not causal:
            seen &= col < row + window
    if lengths:
        which = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        seen &= which[:, None] == which[None]
    return torch.einsum("hts,shd->thd", scores.masked_fill(~seen, -math.inf).softmax(-1), v)


for name, (t, h, kv, past), options in (
    ("attend", (7, 2, 2, 0), {}),
    ("attend_gqa", (9, 4, 2, 0), {}),
    ("attend_window", (11, 4, 2, 0), dict(window=4)),
    ("attend_softcap", (6, 2, 1, 0), dict(softcap=2.0)),
    ("attend_full", (6, 4, 2, 0), dict(causal=False)),
    ("attend_packed", (11, 4, 2, 0), dict(lengths=[4, 1, 6])),
    ("attend_packed_window", (11, 4, 2, 0), dict(lengths=[4, 7], window=3)),
    ("attend_past", (3, 4, 2, 5), {}),
    ("attend_past_window", (3, 4, 2, 9), dict(window=5)),
):
    options = dict(scale=8**-0.5, causal=True, window=None, softcap=None, lengths=None, past=past) | options
    inputs = {"q": rand(t, h, 8, scale=1.5), "k": rand(past + t, kv, 8), "v": rand(past + t, kv, 8)}
    case(name, "attend", lambda q, k, v: attend(q, k, v, **options), inputs, **options)

# ---- images ----
for name, (n, c, o, k, h, w), options in (
    ("conv2d_1x1", (1, 5, 4, 1, 3, 4), dict(stride=1, padding=0)),
    ("conv2d_3x3", (2, 3, 5, 3, 6, 7), dict(stride=1, padding=1)),
    ("conv2d_3x3_valid", (1, 3, 4, 3, 6, 5), dict(stride=1, padding=0)),
    ("conv2d_stride2", (1, 4, 3, 3, 8, 7), dict(stride=2, padding=1)),
    ("conv2d_4x4_stride4", (1, 3, 6, 4, 8, 12), dict(stride=4, padding=0)),
):
    inputs = {"x": rand(n, c, h, w), "w": rand(o, c, k, k, scale=0.5), "b": rand(o)}
    if name.endswith("stride2"):
        del inputs["b"]
    case(name, "conv2d", lambda x, w, b=None: F.conv2d(x, w, b, **options), inputs, kernel=k, **options)
case(
    "upsample2", "upsample", lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), {"x": rand(2, 3, 3, 4)}, factor=2
)

g.save(
    "ops",
    {
        "source": "torch, float64 on float32 inputs, rounded to float32",
        "versions": g.versions(),
        "ops": cases,
    },
    arrays,
)
print(len(cases), "cases")
