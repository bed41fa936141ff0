#!/usr/bin/env python3
"""Two random tiny Flux transformers as diffusers folders, with every block's output, at odd sizes and a batch of two.

usage: golden_flux.py
writes tests/golden/flux/{schnell,dev}/{config.json,diffusion_pytorch_model.safetensors,golden.json,golden.safetensors};
the layout: tests/golden/README.md
"""
import shutil

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

import golden_common as g

# The first is the dummy of diffusers' own pipeline tests; the second has an odd number of heads and more blocks.
CONFIGS = {
    "schnell": dict(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=False,
    ),
    "dev": dict(
        patch_size=1, in_channels=12, num_layers=2, num_single_layers=2, attention_head_dim=6, num_attention_heads=3,
        joint_attention_dim=20, pooled_projection_dim=9, axes_dims_rope=(2, 2, 2), guidance_embeds=True,
    ),
}
BATCH, TEXT, HEIGHT, WIDTH = 2, 7, 6, 10  # height and width of the latents; tokens are 2x2 of them

for number, (name, config) in enumerate(CONFIGS.items()):
    folder = g.ROOT / "flux" / name
    shutil.rmtree(folder, ignore_errors=True)
    model = FluxTransformer2DModel(**config).eval()
    gen = torch.Generator().manual_seed(21 + number)
    with torch.no_grad():
        for path, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=gen)
            if path.split(".")[-2].startswith("norm_"):
                p.copy_(1 + 0.3 * noise)  # of queries and keys
            elif p.dim() == 1:
                p.copy_(0.2 * noise)
            else:
                p.copy_(noise * (1.5 / p.shape[1]) ** 0.5)
    model.save_pretrained(folder)
    model = FluxTransformer2DModel.from_pretrained(folder).eval()

    channels = config["in_channels"] // 4
    latents = torch.randn(BATCH, channels, HEIGHT, WIDTH, generator=gen)
    packed = FluxPipeline._pack_latents(latents, BATCH, channels, HEIGHT, WIDTH)
    image_ids = FluxPipeline._prepare_latent_image_ids(BATCH, HEIGHT // 2, WIDTH // 2, "cpu", torch.float32)
    text = torch.randn(BATCH, TEXT, config["joint_attention_dim"], generator=gen)
    pooled = torch.randn(BATCH, config["pooled_projection_dim"], generator=gen)
    timestep = torch.tensor([0.7312, 0.25])
    guidance = torch.tensor([3.5, 1.25]) if config["guidance_embeds"] else None

    seen = {}
    def keep(path, pair):
        def hook(_, __, out):
            seen[path] = torch.cat(out, dim=1) if pair else out
        return hook
    model.time_text_embed.register_forward_hook(keep("time_text_embed", False))
    model.norm_out.register_forward_hook(keep("norm_out", False))
    for i, block in enumerate(model.transformer_blocks):
        block.register_forward_hook(keep(f"transformer_blocks.{i}", True))
    for i, block in enumerate(model.single_transformer_blocks):
        block.register_forward_hook(keep(f"single_transformer_blocks.{i}", True))
    def run(**changed):
        inputs = dict(hidden_states=packed, encoder_hidden_states=text, pooled_projections=pooled, timestep=timestep,
                      guidance=guidance, img_ids=image_ids, txt_ids=torch.zeros(TEXT, 3)) | changed
        with torch.no_grad():
            return model(**inputs, return_dict=False)[0]
    # Whatever is given matters: each change of it moves the result by much more than the tolerance.
    whole = run()
    arrays = dict(seen) | {"sample": whole}
    changes = dict(encoder_hidden_states=text.flip(1), pooled_projections=pooled.flip(0), timestep=timestep.flip(0),
                   img_ids=image_ids[:, [0, 2, 1]])
    if guidance is not None:
        changes["guidance"] = guidance.flip(0)
    for what, value in changes.items():
        moved = (run(**{what: value}) - whole).abs().max().item()
        print(name, what, "moves by", moved)
        # A text's rows may be in any order: all of them are at position 0.
        assert moved < 1e-5 if what == "encoder_hidden_states" else moved > 0.02, what
    unpacked = FluxPipeline._unpack_latents(whole, HEIGHT * 8, WIDTH * 8, 8)
    for path, v in arrays.items():
        print(name, path, tuple(v.shape), "std", v.std().item(), "max", v.abs().max().item())
    arrays |= {"latents": latents, "packed": packed, "text": text, "pooled": pooled, "timestep": timestep,
               "unpacked": unpacked}
    if guidance is not None:
        arrays["guidance"] = guidance
    g.save(
        f"flux/{name}",
        {
            "source": "diffusers FluxTransformer2DModel in float32",
            "versions": g.versions("diffusers"),
            "batch": BATCH, "text": TEXT, "height": HEIGHT // 2, "width": WIDTH // 2,
        },
        arrays,
    )
