#!/usr/bin/env python3
"""Random valid blocks of every number format with their decoded values, by the `gguf` package (pip install gguf numpy).

Writes tests/golden/blocks/NAME.bin (block bytes, then the values as little-endian f32), NAME.encode.bin (f32 values,
then their block bytes) for the formats that Hob also writes, and crates/dtype/src/decode/iq_tables.rs.
"""
import pathlib

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests/golden/blocks"
rng = np.random.default_rng(7)

# Byte offsets of the f16 scales within a block.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q8_1": [0, 2],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ1_S": [0], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0],
    "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64], "MXFP4": [],
}


def scales(n):
    """f16 scales of either sign; the first is subnormal."""
    d = (rng.normal(size=n) * 0.02).astype(np.float16)
    d[0] = np.float16(3e-6)
    return d.view(np.uint8).reshape(n, 2)


def random_blocks(name, n):
    size = 36 if name == "Q8_1" else GGML_QUANT_SIZES[T[name]][1]  # ggml stores two f16 in Q8_1
    blocks = rng.integers(0, 256, size=(n, size), dtype=np.uint8)
    for at in SCALES.get(name, []):
        blocks[:, at:at + 2] = scales(n)
    if name == "IQ1_M":  # its f16 scale is spread over the top nibbles of four u16
        d = scales(n).copy().view(np.uint16).reshape(n)
        words = blocks[:, 48:].copy().view(np.uint16)
        for i in range(4):
            words[:, i] = (words[:, i] & 0x0FFF) | (((d >> (4 * i)) & 0xF) << 12)
        blocks[:, 48:] = words.view(np.uint8)
    if name == "MXFP4":
        blocks[0, 0], blocks[1, 0], blocks[2, 0] = 0, 1, 2  # subnormal scales
        blocks[3:, 0] = rng.integers(110, 140, size=n - 3)
    if name == "Q8_K":
        blocks[:, :4] = rng.normal(size=n).astype(np.float32).view(np.uint8).reshape(n, 4)
    return blocks


def decoded(name, blocks):
    if name == "Q8_1":
        return blocks[:, :2].copy().view(np.float16).astype(np.float32) * blocks[:, 4:].view(np.int8).astype(np.float32)
    if name == "Q8_K":
        return blocks[:, :4].copy().view(np.float32) * blocks[:, 4:260].copy().view(np.int8).astype(np.float32)
    return quants.dequantize(blocks, T[name])


def plain():
    """(name, stored values, values as f32) of the formats without blocks."""
    x = rng.normal(size=64).astype(np.float32)
    x[:6] = [0.0, -0.0, 6e-8, np.inf, -np.inf, 65504.0]
    yield "F32", x, x
    yield "F16", x.astype(np.float16), x.astype(np.float16).astype(np.float32)
    bf16 = quants.quantize(x, T.BF16).view(np.uint16)
    yield "BF16", bf16, (bf16.astype(np.uint32) << 16).view(np.float32)
    f64 = x.astype(np.float64) * np.pi
    yield "F64", f64, f64.astype(np.float32)
    for name, t in [("I8", np.int8), ("I16", np.int16), ("I32", np.int32), ("I64", np.int64)]:
        info = np.iinfo(t)
        i = rng.integers(info.min, info.max, size=32, dtype=t)
        yield name, i, i.astype(np.float32)


def iq_tables():
    lines = [
        "//! Codebooks of the IQ formats: data, made by dev/golden_blocks.py.",
        "//!",
        "//! Entries of the IQ1 and IQ2 grids hold 8 indices of 2 bits, those of the IQ3 grids 4 of 4 bits, low bits first.",
    ]
    for cls in [quants.IQ2_XXS, quants.IQ2_XS, quants.IQ2_S, quants.IQ3_XXS, quants.IQ3_S, quants.IQ1_S]:
        packed = np.frombuffer(bytes.fromhex(cls.grid_hex.decode()), dtype="<u2")
        assert len(packed) == cls.grid_shape[0]
        lines += ["", f"pub(super) const {cls.qtype.name}: [u16; {len(packed)}] = ["]
        for row in packed.reshape(-1, 16):
            lines.append("    " + " ".join(f"{v}," for v in row))
        lines.append("];")
    (ROOT / "crates/dtype/src/decode/iq_tables.rs").write_text("\n".join(lines) + "\n")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, stored, values in plain():
        (OUT / f"{name}.bin").write_bytes(stored.tobytes() + values.astype("<f4").tobytes())
    for name in [*SCALES, "IQ1_M", "Q8_K"]:
        blocks = random_blocks(name, 8 if GGML_QUANT_SIZES[T[name]][0] == 32 else 4)
        values = decoded(name, blocks).astype("<f4")
        assert np.isfinite(values).all(), name
        (OUT / f"{name}.bin").write_bytes(blocks.tobytes() + values.tobytes())
    x = (rng.normal(size=(8, 32)) * rng.lognormal(size=(8, 1))).astype(np.float32)
    x[1], x[2], x[3] = 0, 1.5, np.arange(-16, 16)
    for name in ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]:
        (OUT / f"{name}.encode.bin").write_bytes(x.tobytes() + quants.quantize(x, T[name]).tobytes())
    iq_tables()


main()
