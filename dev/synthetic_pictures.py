#!/usr/bin/env python3
"""Writes picture models of full size with random weights, to measure speed and memory where no real ones are at hand.

  dev/synthetic_pictures.py sd15 f16 OUT     2.1 GB  one safetensors in LDM's names
  dev/synthetic_pictures.py sdxl q8_0 OUT    4.3 GB  the UNet as GGUF, its text encoders and VAE beside it
  dev/synthetic_pictures.py flux q4_0 OUT    9.8 GB  Flux.1 schnell: the transformer and T5 as GGUF, CLIP-L and VAE beside

OUT becomes a folder. Names are those of single files, which Hob and stable-diffusion.cpp both read; shapes are those of the
published models. GGUFs keep vectors in F32 and convolutions in F16, as stable-diffusion.cpp's converter does; with --rows
convolutions are quantized too, in rows of 256 as city96's does, which stable-diffusion.cpp does not read. Weights have the
deviation that keeps numbers of order 1 and repeat from stores of random blocks, so no more memory is used than twice
the largest tensor. Needs pip's gguf.
"""
import argparse
import json
import math
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

from synthetic import BLOCKS, packed, rng, store

KINDS = {"f16": (T.F16, 1), "q4_0": (T.Q4_0, 2), "q4_k": (T.Q4_K, 14), "q8_0": (T.Q8_0, 7)}  # and GGUF's number of a file
FLUX_FINE = ("img_in.", "txt_in.", "time_in.", "vector_in.", "final_layer.")  # city96 leaves these as they were

# ---- names and dimensions


def layer(name, out, inner, *window):
    """A linear layer or a convolution, with its bias."""
    yield f"{name}.weight", (out, inner, *window)
    yield f"{name}.bias", (out,)


def norm(name, width):
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def resnet(at, inner, out, time):
    yield from norm(f"{at}.in_layers.0", inner)
    yield from layer(f"{at}.in_layers.2", out, inner, 3, 3)
    yield from layer(f"{at}.emb_layers.1", out, time)
    yield from norm(f"{at}.out_layers.0", out)
    yield from layer(f"{at}.out_layers.3", out, out, 3, 3)
    if inner != out:
        yield from layer(f"{at}.skip_connection", out, inner, 1, 1)


def attention(at, width, depth, text, linear):
    window = () if linear else (1, 1)
    yield from norm(f"{at}.norm", width)
    yield from layer(f"{at}.proj_in", width, width, *window)
    for i in range(depth):
        block = f"{at}.transformer_blocks.{i}"
        for name, keys in (("attn1", width), ("attn2", text)):
            yield f"{block}.{name}.to_q.weight", (width, width)
            yield f"{block}.{name}.to_k.weight", (width, keys)
            yield f"{block}.{name}.to_v.weight", (width, keys)
            yield from layer(f"{block}.{name}.to_out.0", width, width)
        yield from layer(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from layer(f"{block}.ff.net.2", width, 4 * width)
        for n in "123":
            yield from norm(f"{block}.norm{n}", width)
    yield from layer(f"{at}.proj_out", width, width, *window)


def unet(widths, depths, text, linear, added=0):
    """LDM's UNet: two layers a level, `depths` blocks in each of its attentions, `added` numbers beside the time."""
    first, time = widths[0], 4 * widths[0]
    yield from layer("time_embed.0", time, first)
    yield from layer("time_embed.2", time, time)
    if added:
        yield from layer("label_emb.0.0", time, added)
        yield from layer("label_emb.0.2", time, time)
    yield from layer("input_blocks.0.0", first, 4, 3, 3)
    width, at, kept = first, 0, [first]
    for level, (out, depth) in enumerate(zip(widths, depths)):
        for _ in range(2):
            at += 1
            yield from resnet(f"input_blocks.{at}.0", width, out, time)
            if depth:
                yield from attention(f"input_blocks.{at}.1", out, depth, text, linear)
            width = out
            kept.append(width)
        if level + 1 < len(widths):
            at += 1
            yield from layer(f"input_blocks.{at}.0.op", width, width, 3, 3)
            kept.append(width)
    yield from resnet("middle_block.0", width, width, time)
    yield from attention("middle_block.1", width, max(1, depths[-1]), text, linear)
    yield from resnet("middle_block.2", width, width, time)
    at = 0
    for level, (out, depth) in reversed(list(enumerate(zip(widths, depths)))):
        for last in (False, False, True):
            yield from resnet(f"output_blocks.{at}.0", width + kept.pop(), out, time)
            if depth:
                yield from attention(f"output_blocks.{at}.1", out, depth, text, linear)
            if last and level:
                yield from layer(f"output_blocks.{at}.{2 if depth else 1}.conv", out, out, 3, 3)
            width = out
            at += 1
    yield from norm("out.0", first)
    yield from layer("out.2", 4, first, 3, 3)


def autoencoder(latents, moments=True):
    """The KL autoencoder of 8 pixels a latent, `moments` with the convolutions between it and the latents."""
    widths = (128, 256, 512, 512)

    def block(at, inner, out):
        yield from norm(f"{at}.norm1", inner)
        yield from layer(f"{at}.conv1", out, inner, 3, 3)
        yield from norm(f"{at}.norm2", out)
        yield from layer(f"{at}.conv2", out, out, 3, 3)
        if inner != out:
            yield from layer(f"{at}.nin_shortcut", out, inner, 1, 1)

    for half in ("encoder", "decoder"):
        down = half == "encoder"
        width = widths[0] if down else widths[-1]
        yield from layer(f"{half}.conv_in", width, 3 if down else latents, 3, 3)
        for level, out in list(enumerate(widths))[:: 1 if down else -1]:
            for i in range(2 if down else 3):
                yield from block(f"{half}.{'down' if down else 'up'}.{level}.block.{i}", width, out)
                width = out
            if down and level + 1 < len(widths):
                yield from layer(f"encoder.down.{level}.downsample.conv", out, out, 3, 3)
            if not down and level:
                yield from layer(f"decoder.up.{level}.upsample.conv", out, out, 3, 3)
        for n in "12":
            yield from block(f"{half}.mid.block_{n}", widths[-1], widths[-1])
        yield from norm(f"{half}.mid.attn_1.norm", widths[-1])
        for name in ("q", "k", "v", "proj_out"):
            yield from layer(f"{half}.mid.attn_1.{name}", widths[-1], widths[-1], 1, 1)
        yield from norm(f"{half}.norm_out", width)
        yield from layer(f"{half}.conv_out", 2 * latents if down else 3, width, 3, 3)
    if moments:
        yield from layer("quant_conv", 2 * latents, 2 * latents, 1, 1)
        yield from layer("post_quant_conv", latents, latents, 1, 1)


def clip(width, layers, projected=False):
    yield "text_model.embeddings.token_embedding.weight", (49408, width)
    yield "text_model.embeddings.position_embedding.weight", (77, width)
    for i in range(layers):
        at = f"text_model.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from layer(f"{at}.self_attn.{name}", width, width)
        yield from norm(f"{at}.layer_norm1", width)
        yield from norm(f"{at}.layer_norm2", width)
        yield from layer(f"{at}.mlp.fc1", 4 * width, width)
        yield from layer(f"{at}.mlp.fc2", width, 4 * width)
    yield from norm("text_model.final_layer_norm", width)
    if projected:
        yield "text_projection.weight", (width, width)


def t5():
    """The encoder of T5 v1.1 XXL, in llama.cpp's names."""
    yield "token_embd.weight", (32128, 4096)
    yield "enc.blk.0.attn_rel_b.weight", (32, 64)
    for i in range(24):
        at = f"enc.blk.{i}"
        yield f"{at}.attn_norm.weight", (4096,)
        for name in "qkvo":
            yield f"{at}.attn_{name}.weight", (4096, 4096)
        yield f"{at}.ffn_norm.weight", (4096,)
        yield f"{at}.ffn_gate.weight", (10240, 4096)
        yield f"{at}.ffn_up.weight", (10240, 4096)
        yield f"{at}.ffn_down.weight", (4096, 10240)
    yield "enc.output_norm.weight", (4096,)


def flux():
    """Flux.1 schnell's transformer, in Black Forest Labs' names."""
    width = 3072
    yield from layer("img_in", width, 64)
    yield from layer("txt_in", width, 4096)
    for name, inner in (("time_in", 256), ("vector_in", 768)):
        yield from layer(f"{name}.in_layer", width, inner)
        yield from layer(f"{name}.out_layer", width, width)
    for i in range(19):
        for side in ("img", "txt"):
            at = f"double_blocks.{i}.{side}"
            yield from layer(f"{at}_mod.lin", 6 * width, width)
            yield from layer(f"{at}_attn.qkv", 3 * width, width)
            yield f"{at}_attn.norm.query_norm.scale", (128,)
            yield f"{at}_attn.norm.key_norm.scale", (128,)
            yield from layer(f"{at}_attn.proj", width, width)
            yield from layer(f"{at}_mlp.0", 4 * width, width)
            yield from layer(f"{at}_mlp.2", width, 4 * width)
    for i in range(38):
        at = f"single_blocks.{i}"
        yield from layer(f"{at}.modulation.lin", 3 * width, width)
        yield from layer(f"{at}.linear1", 7 * width, width)
        yield from layer(f"{at}.linear2", width, 5 * width)
        yield f"{at}.norm.query_norm.scale", (128,)
        yield f"{at}.norm.key_norm.scale", (128,)
    yield from layer("final_layer.linear", 64, width)
    yield from layer("final_layer.adaLN_modulation.1", 2 * width, width)


# ---- weights


class Stores:
    """Random weights, from one store of blocks for each format and deviation."""

    def __init__(self):
        self.stores = {}

    def of(self, name, t, dims):
        """The bytes of a tensor: norms near 1, biases near 0, the rest so that a layer's results are of order 1."""
        if len(dims) == 1:
            middle = 0.0 if name.endswith("bias") else 1.0
            return (middle + 0.02 * rng.standard_normal(dims, np.float32)).astype("<f4")
        inner = math.prod(dims[1:])
        key = t, 2.0 ** round(-math.log2(inner) / 2)
        if key not in self.stores:
            self.stores[key] = store(*key).reshape(-1)
        size = math.prod(dims) // gguf.GGML_QUANT_SIZES[t][0] * gguf.GGML_QUANT_SIZES[t][1]
        block = self.stores[key].size // BLOCKS
        return np.resize(np.roll(self.stores[key], block * int(rng.integers(BLOCKS))), size)


def safetensors(out, tensors):
    """One file in F16, with vectors too, as published."""
    tensors, header, at = list(tensors), {}, 0
    for name, dims in tensors:
        size = 2 * math.prod(dims)
        header[name] = {"dtype": "F16", "shape": dims, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stores = Stores()
    with open(out, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name, dims in tensors:
            x = stores.of(name, T.F16, dims)
            f.write((x.astype("<f2") if len(dims) == 1 else x).tobytes())


def gguf_file(out, architecture, kind, tensors, fine=(), rows=False):
    w = gguf.GGUFWriter(out, architecture)
    w.add_quantization_version(2)
    w.add_file_type(KINDS[kind][1])
    listed = []
    for name, dims in tensors:
        t = T.F32 if len(dims) == 1 else KINDS[kind][0]
        flat, count = dims, math.prod(dims)
        if len(dims) == 4 and rows and count % 256 == 0 and count >= 512:
            flat = (count // 256, 256)
            w.add_array(f"comfy.gguf.orig_shape.{name}", list(dims))
        if len(dims) > 1 and (name.startswith(fine) or len(flat) == 4 or flat[-1] % gguf.GGML_QUANT_SIZES[t][0]):
            t = T.F16
        listed.append((name, t, dims, flat))
    for name, t, dims, flat in listed:
        lies, dtype = (flat, np.dtype("<f2")) if t == T.F16 else packed(t, flat)
        w.add_tensor_info(name, lies, dtype, math.prod(lies) * dtype.itemsize, raw_dtype=t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    stores = Stores()
    for name, t, dims, _ in listed:
        w.write_tensor_data(stores.of(name, t, dims))
    w.close()


def prefixed(prefix, tensors):
    return ((prefix + name, dims) for name, dims in tensors)


def write(family, kind, out, rows):
    sdxl = ((320, 640, 1280), (0, 2, 10), 2048, True, 2816)
    match family:
        case "sd15":
            if kind != "f16":
                raise SystemExit("sd15 is written in f16")
            safetensors(out / "sd15-f16.safetensors", [
                *prefixed("model.diffusion_model.", unet((320, 640, 1280, 1280), (1, 1, 1, 0), 768, False)),
                *prefixed("first_stage_model.", autoencoder(4)),
                *prefixed("cond_stage_model.transformer.", clip(768, 12)),
            ])
        case "sdxl":
            gguf_file(out / f"sdxl-{kind}.gguf", "sdxl", kind, unet(*sdxl), rows=rows)
            gguf_file(out / f"clip_g-{kind}.gguf", "clip", kind, clip(1280, 32, True), fine=("text_model.embeddings.",))
            safetensors(out / "clip_l.safetensors", clip(768, 12))
            safetensors(out / "vae.safetensors", autoencoder(4))
        case "flux":
            gguf_file(out / f"flux1-schnell-{kind}.gguf", "flux", kind, flux(), FLUX_FINE)
            gguf_file(out / f"t5xxl-{kind}.gguf", "t5encoder", kind, t5(), ("enc.blk.0.attn_rel_b.",))
            safetensors(out / "clip_l.safetensors", clip(768, 12))
            safetensors(out / "vae.safetensors", autoencoder(16, moments=False))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("family", choices=["sd15", "sdxl", "flux"])
    p.add_argument("kind", choices=KINDS)
    p.add_argument("out", type=Path)
    p.add_argument("--rows", action="store_true", help="quantize SDXL's convolutions too, in rows of 256")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    write(a.family, a.kind, a.out, a.rows)


if __name__ == "__main__":
    main()
