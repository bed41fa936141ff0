#!/usr/bin/env python3
"""Random tiny UNets, ControlNets and autoencoders as diffusers folders, each with one forward and what every layer of it gave.

usage: golden_unet.py [NAME...]
writes tests/golden/unet/NAME/{config.json,diffusion_pytorch_model.safetensors,golden.json,golden.safetensors}; the
layout: tests/golden/README.md
"""
import shutil
import sys

import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel

import golden_common as g

N, HEIGHT, WIDTH, TOKENS = 2, 9, 7, 5

ATTEND = dict(
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    block_out_channels=(8, 6, 6),
    layers_per_block=1,
    norm_num_groups=2,
    cross_attention_dim=10,
)
SD15 = ATTEND | dict(attention_head_dim=2)
SD21 = ATTEND | dict(attention_head_dim=(1, 2, 3), use_linear_projection=True, upcast_attention=True)
SDXL = dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    block_out_channels=(8, 6, 6),
    layers_per_block=1,
    norm_num_groups=2,
    cross_attention_dim=10,
    attention_head_dim=(1, 2, 3),
    transformer_layers_per_block=(1, 1, 2),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=31,  # 7 of text, 6 times 4
)
CONTROL = dict(conditioning_embedding_out_channels=(3, 5, 4, 6))
SMALL = dict(conditioning_embedding_out_channels=(3, 5))  # the image is twice the latents' size


def ups(config):
    """The blocks that mirror those on the way down."""
    return config | dict(up_block_types=tuple(b.replace("Down", "Up") for b in reversed(config["down_block_types"])))


KL = dict(
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    block_out_channels=(4, 6, 6),
    layers_per_block=1,
    norm_num_groups=2,
)

MODELS = {
    "sd15": (UNet2DConditionModel, ups(SD15)),
    "sd21": (UNet2DConditionModel, ups(SD21)),
    "sdxl": (UNet2DConditionModel, ups(SDXL)),
    # And no middle, as BK-SDM has none.
    "inpaint": (UNet2DConditionModel, ups(SD15 | dict(in_channels=9, mid_block_type=None))),
    # A distilled one: the guidance as an embedding, no transformers in the middle, other depths on the way up.
    "distilled": (
        UNet2DConditionModel,
        ups(SD21)
        | dict(
            layers_per_block=(1, 2, 1),
            time_cond_proj_dim=6,
            mid_block_type="UNetMidBlock2D",
            transformer_layers_per_block=[1, [2, 0], 1],
            reverse_transformer_layers_per_block=[1, [1, 2, 1], [0, 1]],
        ),
    ),
    "control-sd15": (ControlNetModel, SD15 | CONTROL),
    "control-sdxl": (ControlNetModel, SDXL | SMALL | dict(controlnet_conditioning_channel_order="bgr")),
    "kl4": (AutoencoderKL, KL),
    "kl16": (AutoencoderKL, KL | dict(norm_num_groups=1, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)),
}


def randomize(model, gen):
    """Weights that keep numbers of order 1, and by which attention looks at some tokens more than at others."""
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=gen)
            if p.dim() > 1:
                gain = 3.0 if "to_q" in name or "to_k" in name else 1.3
                p.copy_(noise * (gain / p[0].numel()) ** 0.5)
            else:
                p.copy_(0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


def given(name, model, gen):
    """What a model is given."""
    normal = lambda *shape: torch.randn(shape, generator=gen)
    c = model.config
    if isinstance(model, AutoencoderKL):
        return dict(image=normal(N, 3, 27, 22).clamp(-1, 1), latents=normal(N, c.latent_channels, 5, 7))
    height, width, by = HEIGHT, WIDTH, 1
    if isinstance(model, ControlNetModel):
        by = 2 ** (len(c.conditioning_embedding_out_channels) - 1)
        height, width = 5, 24 // by if by > 2 else WIDTH
    arrays = dict(
        latents=normal(N, c.in_channels, height, width),
        timestep=torch.tensor([961.0, 37.5]),
        text=normal(N, TOKENS, 10),
    )
    if c.addition_embed_type:
        arrays["pooled"] = normal(N, 7)
        arrays["time_ids"] = torch.tensor([[64.0, 56, 3, 0, 64, 56], [30.0, 1024, 0, 5, 32, 48]])
    if isinstance(model, ControlNetModel):
        return arrays | dict(image=normal(N, 3, by * height, by * width).sigmoid())
    if c.time_cond_proj_dim:
        arrays["guidance"] = torch.tensor([7.5, 1.2])
    if model.mid_block is not None:
        # What a ControlNet adds: to the first convolution, and to each layer and halving.
        size, shapes = (height, width), [(c.block_out_channels[0], height, width)]
        for i, block in enumerate(model.down_blocks):
            shapes += [(c.block_out_channels[i], *size)] * len(block.resnets)
            if block.downsamplers:
                size = tuple((n + 1) // 2 for n in size)
                shapes.append((c.block_out_channels[i], *size))
        arrays |= {f"residual.{i}": 0.5 * normal(N, *s) for i, s in enumerate(shapes)}
        arrays["residual.mid"] = 0.5 * normal(N, *shapes[-1])
    return arrays


def outputs(name, model, x):
    """What it gives of it, and what each layer gave of it at the first."""
    seen, handles = g.trace(model)

    def stop():
        for h in handles:
            h.remove()

    if isinstance(model, AutoencoderKL):
        posterior = model.encode(x["image"]).latent_dist
        out = dict(mean=posterior.mean, logvar=posterior.logvar, decoded=model.decode(x["latents"]).sample)
        stop()
        return out, seen
    more = {}
    if "pooled" in x:
        more["added_cond_kwargs"] = dict(text_embeds=x["pooled"], time_ids=x["time_ids"])
    if "guidance" in x:
        dim = model.config.time_cond_proj_dim
        w = StableDiffusionPipeline.get_guidance_scale_embedding(None, x["guidance"].float() - 1, embedding_dim=dim)
        more["timestep_cond"] = w.to(x["latents"].dtype)

    def run(latents, *args, **how):
        return model(latents, x["timestep"], x["text"], *args, **how, **more)

    if isinstance(model, ControlNetModel):
        out = {}

        def add(prefix, **how):
            res = run(x["latents"], x["image"], conditioning_scale=0.7, **how)
            names = [*map(str, range(len(res.down_block_res_samples))), "mid"]
            out.update(
                {f"{prefix}.{n}": r for n, r in zip(names, [*res.down_block_res_samples, res.mid_block_res_sample])}
            )
            stop()

        add("residual")
        add("guess", guess_mode=True)
        if name == "control-sd15":
            model.register_to_config(global_pool_conditions=True)
            add("pool")
            model.register_to_config(global_pool_conditions=False)
        return out, seen
    out = dict(sample=run(x["latents"]).sample)
    stop()
    out["sample.small"] = run(x["latents"][:, :, :6, :5].contiguous()).sample
    if "residual.mid" in x:
        residuals = [v for k, v in x.items() if k.startswith("residual.") and k != "residual.mid"]
        how = dict(down_block_additional_residuals=residuals, mid_block_additional_residual=x["residual.mid"])
        out["sample.controlled"] = run(x["latents"], **how).sample
    return out, seen


def worst(a, b):
    return max(((a[k] - b[k]).abs().max() / b[k].abs().max()).item() for k in b)


def main(name):
    kind, config = MODELS[name]
    folder = g.ROOT / "unet" / name
    # The first seed of which float32 tells as much as float64: a norm over few channels may blow up what is rounded.
    for seed in range(100):
        gen = torch.Generator().manual_seed(1000 * seed + sum(map(ord, name)))
        model = kind(**config).eval()
        randomize(model, gen)
        if name == "kl4":  # past the bounds of the logarithm of the variance
            model.quant_conv.bias += torch.tensor([0.0] * 4 + [20, -30, 0, 0])
        arrays = given(name, model, gen)
        out32, seen32 = outputs(name, model, arrays)
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        out, seen = outputs(name, model.double(), {k: v.double() for k, v in arrays.items()})
        error = max(worst(out32, out), worst(seen32, seen))
        if error < 1e-5:
            break
    else:
        raise SystemExit(f"{name}: no seed does")
    for k, v in out.items():
        print(f"{name}.{k}", tuple(v.shape), f"std {v.std():.3f} max {v.abs().max():.3f}")
    print(f"{name}: seed {seed}, float32 differs from float64 by {error:.1e}")
    facts = {"source": f"diffusers {kind.__name__} in float64", "versions": g.versions("diffusers"), "seed": seed}
    g.save(f"unet/{name}", facts | {"layers": list(seen)}, arrays | out | {"layers": g.digest(seen)})


with torch.no_grad():
    for name in sys.argv[1:] or MODELS:
        main(name)
