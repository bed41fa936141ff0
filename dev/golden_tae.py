#!/usr/bin/env python3
"""A random tiny autoencoder in TAESD's layout as a diffusers folder, with an image through both halves.

usage: golden_tae.py
writes tests/golden/tae/{config.json,diffusion_pytorch_model.safetensors,golden.json,golden.safetensors}; the
layout: tests/golden/README.md
"""
import shutil

import torch
from diffusers import AutoencoderTiny

import golden_common as g

folder = g.ROOT / "tae"
shutil.rmtree(folder, ignore_errors=True)
channels = (12, 12, 12, 12)
model = AutoencoderTiny(
    encoder_block_out_channels=channels,
    decoder_block_out_channels=channels,
    latent_channels=4,
    num_encoder_blocks=(1, 2, 1, 1),
    num_decoder_blocks=(1, 1, 2, 1),
).eval()
gen = torch.Generator().manual_seed(11)
with torch.no_grad():
    for name, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=gen)
        gain = 2.0 if name.startswith("encoder") else 1.3
        p.copy_(0.2 * noise if p.dim() == 1 else noise * (gain / p[0].numel()) ** 0.5)
model.save_pretrained(folder)
model = AutoencoderTiny.from_pretrained(folder).eval()

# An image with structure: waves of three lengths, and a bright square.
y, x = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
image = torch.stack([torch.sin(x / 3 + y / 5), torch.cos(x / 7 - y / 2), torch.sin(x * y / 90)])[None] * 0.8
image[:, :, 8:16, 20:30] = torch.tensor([1.0, 0.5, -1.0])[None, :, None, None]
image = image.contiguous()
with torch.no_grad():
    latents = model.encode(image).latents
    decoded = model.decode(latents).sample
    # Larger latents, so that the squashing before the decoder shows.
    large = 4 * torch.randn(latents.shape, generator=gen)
    decoded_large = model.decode(large).sample
for name, v in dict(latents=latents, decoded=decoded, decoded_large=decoded_large).items():
    print(name, tuple(v.shape), "mean", v.mean().item(), "std", v.std().item(), "max", v.abs().max().item())
g.save(
    "tae",
    {
        "source": "diffusers AutoencoderTiny in float32",
        "versions": g.versions("diffusers"),
        "encode": "image in -1..1, (N, 3, H, W); (image + 1) / 2 first, then encoder.layers; latents (N, 4, H/8, W/8) "
        "as they come: scaling_factor, latent_magnitude and latent_shift are not applied",
        "decode": "3 * tanh(latents / 3) first, then decoder.layers; times 2 minus 1 last; not clamped to -1..1; "
        "scaling_factor, latent_magnitude and latent_shift are not applied",
        "block": "relu(conv3(relu(conv2(relu(conv1(x))))) + x), 3x3 convolutions with bias",
        "tensors": {"image": "encode's input", "latents": "encode's output and decode's input", "decoded": "output",
                    "latents_large": "a second input of decode", "decoded_large": "its output"},
    },
    {"image": image, "latents": latents, "decoded": decoded, "latents_large": large, "decoded_large": decoded_large},
)
