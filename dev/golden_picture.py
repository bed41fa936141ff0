#!/usr/bin/env python3
"""Pictures in files as PIL reads, turns, resizes and writes them, and A1111's texts as its expression reads them.

usage: golden_picture.py
writes tests/golden/picture/: the files, what PIL makes of them as raw PNG, golden.json; the layout: tests/golden/README.md
"""
import json
import re
import shutil

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin

import golden_common as g

ROOT = g.ROOT / "picture"
shutil.rmtree(ROOT, ignore_errors=True)
ROOT.mkdir(parents=True)

W, H = 23, 17
y, x = np.mgrid[0:H, 0:W].astype(np.float64)
rgb = np.stack([127 + 120 * np.sin(x / 3 + y / 5), 255 * ((x // 4 + y // 3) % 2), 11 * x], -1).clip(0, 255).astype(np.uint8)
alpha = (15 * y).clip(0, 255).astype(np.uint8)
image = Image.fromarray(rgb)
rgba = Image.fromarray(np.dstack([rgb, alpha]))
smooth = Image.fromarray(np.stack([127 + 100 * np.sin(x / 9), 127 + 100 * np.cos(y / 8), 8 * x], -1).astype(np.uint8))


def exif(orientation, comment=None):
    e = Image.Exif()
    e[0x0112] = orientation
    if comment:
        e.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + comment.encode("utf-16-be")
    return e


TEXT = "a café, ☕ <lora:ink:0.6>\nNegative prompt: blurry\nSteps: 9, Sampler: Euler a, CFG scale: 6.5, Seed: 77, Size: 23x17"
info = PngImagePlugin.PngInfo()
info.add_text("parameters", TEXT)
info.add_text("zipped", "z" * 3000, zip=True)
grey16 = Image.fromarray((256 * (11 * x).clip(0, 255)).astype(np.uint16))
files = {
    "rgb.png": lambda p: image.save(p, pnginfo=info),
    "rgba.png": lambda p: rgba.save(p),
    "palette.png": lambda p: image.quantize(16).save(p, transparency=3),
    "grey-alpha.png": lambda p: rgba.convert("LA").save(p),
    "grey16.png": lambda p: grey16.save(p),
    "bits.png": lambda p: image.convert("1").save(p),
    "upright.jpg": lambda p: smooth.save(p, quality=95, subsampling=0, exif=exif(1, TEXT)),
    "grey.jpg": lambda p: smooth.convert("L").save(p, quality=95),
    "progressive.jpg": lambda p: smooth.save(p, quality=92, progressive=True),
    "lossless.webp": lambda p: rgba.save(p, lossless=True, exact=True, exif=exif(6)),
    "lossy.webp": lambda p: smooth.save(p, quality=95),
} | {f"turned-{i}.jpg": (lambda p, i=i: smooth.save(p, quality=95, subsampling=0, exif=exif(i))) for i in (2, 3, 4, 5, 6, 7, 8)}
for name, save in files.items():
    save(ROOT / name)
    with Image.open(ROOT / name) as read:
        read = ImageOps.exif_transpose(read)
        has_alpha = "A" in read.mode or "transparency" in read.info
        if read.mode.startswith("I"):
            read = Image.fromarray((np.asarray(read) // 256).astype(np.uint8))
        read = read.convert("RGBA" if has_alpha else "RGB")
        (ROOT / f"{name}.raw").write_bytes(bytes([read.width, read.height, len(read.mode)]) + read.tobytes())

filters = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4}
sizes = [(8, 5), (23, 9), (31, 40), (1, 1), (64, 17)]
resized = {}
for f, number in filters.items():
    for w, h in sizes:
        resized[f"{f}-{w}x{h}"] = torch.from_numpy(np.asarray(image.resize((w, h), number)).astype(np.float32))
mask = torch.rand(1, 1, 20, 14, generator=torch.Generator().manual_seed(3))
planes = {
    "mask": mask[0, 0],
    "mask.nearest": torch.nn.functional.interpolate(mask, size=(5, 6))[0, 0],
    "mask.area": torch.nn.functional.interpolate(mask, size=(5, 6), mode="area")[0, 0],
    "grey": torch.from_numpy(np.asarray(image.convert("L")).astype(np.float32)),
}

# modules/infotext_utils.py
SETTING = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
texts = [
    TEXT,
    'one line\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1, Size: 512x768, Model hash: 45dee52b, Model: a-b_c v1.5',
    'two\nlines, and: colons\nNegative prompt: ugly,\n((bad))\nSteps: 4, Sampler: LCM, Schedule type: SGM Uniform, CFG scale: 1.5, '
    'Seed: 18446744073709551615, Size: 64x64, Lora hashes: "x y: 0123abc, z: fff", TI hashes: "e: 1", Denoising strength: 0.35, '
    'Init image hash: abc, Clip skip: 2, ControlNet 0: "Module: canny, Model: a [b], Weight: 1.0", RNG: CPU, Version: v1.10.1',
    "no settings here, Steps: 3",
    "",
    'hires\nSteps: 8, Sampler: Heun, CFG scale: 5, Seed: 5, Size: 8x8, Denoising strength: 0.7, Hires upscale: 2, Note: "a \\"b\\", c"',
]
cases = []
for t in texts:
    *lines, last = t.strip().split("\n")
    found = SETTING.findall(last)
    unquote = lambda v: json.loads(v) if v[:1] == '"' and v[-1:] == '"' else v
    cases.append({"text": t, "settings": {k: unquote(v) for k, v in found} if len(found) >= 3 else {}})
g.save("picture", {
    "source": "PIL, torch, and the expression of A1111's infotext_utils.py",
    "versions": g.versions("pillow"),
    "files": "NAME.raw: width, height, channels (a byte each), then the pixels of NAME as PIL reads and turns it",
    "resized": {"filters": list(filters), "sizes": [list(s) for s in sizes]},
    "texts": cases,
}, resized | planes)
