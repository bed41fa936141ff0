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
    block_out_channels=(4, 6, 8),
    layers_per_block=1,
    norm_num_groups=2,
    cross_attention_dim=10,
)
SD15 = ATTEND | dict(attention_head_dim=2)
SD21 = ATTEND | dict(attention_head_dim=(1, 2, 4), use_linear_projection=True, upcast_attention=True)
SDXL = dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    block_out_channels=(4, 6, 8),
    layers_per_block=1,
    norm_num_groups=2,
    cross_attention_dim=10,
    attention_head_dim=(1, 2, 4),
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
    block_out_channels=(4, 6, 8),
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
                gain = 6.0 if "to_q" in name or "to_k" in name else 1.3
                p.copy_(noise * (gain / p[0].numel()) ** 0.5)
            else:
                p.copy_(0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


def write(name, model, meta, arrays, seen):
    for k, v in arrays.items():
        print(f"{name}.{k}", tuple(v.shape), f"std {v.std():.3f} max {v.abs().max():.3f}")
    g.save(
        f"unet/{name}",
        {"source": f"diffusers {type(model).__name__} in float32", "versions": g.versions("diffusers")}
        | meta
        | {"layers": list(seen)},
        arrays | {"layers": g.digest(seen)},
    )


def main(name):
    kind, config = MODELS[name]
    gen = torch.Generator().manual_seed(sum(map(ord, name)))
    normal = lambda *shape: torch.randn(shape, generator=gen)
    folder = g.ROOT / "unet" / name
    shutil.rmtree(folder, ignore_errors=True)
    model = kind(**config).eval()
    randomize(model, gen)
    if name == "kl4":  # past the bounds of the logarithm of the variance
        model.quant_conv.bias += torch.tensor([0.0] * 4 + [20, -30, 0, 0])
    model.save_pretrained(folder)
    model = kind.from_pretrained(folder).eval()
    seen, handles = g.trace(model)
    if kind is AutoencoderKL:
        image, latents = normal(N, 3, 27, 22).clamp(-1, 1), normal(N, model.config.latent_channels, 5, 7)
        posterior = model.encode(image).latent_dist
        decoded = model.decode(latents).sample
        arrays = dict(image=image, mean=posterior.mean, logvar=posterior.logvar, latents=latents, decoded=decoded)
        return write(name, model, {}, arrays, seen)

    arrays = dict(
        latents=normal(N, model.config.in_channels, HEIGHT, WIDTH),
        timesteps=torch.tensor([961.0, 37.5]),
        context=normal(N, TOKENS, 10),
    )
    more = {}
    if model.config.addition_embed_type:
        arrays |= dict(
            pooled=normal(N, 7), time_ids=torch.tensor([[64.0, 56, 3, 0, 64, 56], [30.0, 1024, 0, 5, 32, 48]])
        )
        more["added_cond_kwargs"] = dict(text_embeds=arrays["pooled"], time_ids=arrays["time_ids"])
    context = arrays["context"]
    if kind is ControlNetModel:
        by = 2 ** (len(model.config.conditioning_embedding_out_channels) - 1)
        latents = arrays["latents"] = arrays["latents"][:, :, :5, : 24 // by].contiguous()
        image = arrays["image"] = normal(N, 3, by * latents.shape[2], by * latents.shape[3]).sigmoid()

        def run(prefix, **how):
            out = model(latents, arrays["timesteps"], context, image, **how, **more)
            residuals = [*out.down_block_res_samples, out.mid_block_res_sample]
            names = [*map(str, range(len(residuals) - 1)), "mid"]
            arrays.update({f"{prefix}.{n}": r for n, r in zip(names, residuals)})

        run("residual", conditioning_scale=0.7)
        run("guess", conditioning_scale=0.7, guess_mode=True)
        if name == "control-sd15":
            model.register_to_config(global_pool_conditions=True)
            run("pool", conditioning_scale=0.7)
        return write(name, model, {"conditioning_scale": 0.7}, arrays, seen)
    if model.config.time_cond_proj_dim:
        arrays["guidance"] = torch.tensor([7.5, 1.2])
        more["timestep_cond"] = StableDiffusionPipeline.get_guidance_scale_embedding(
            None, arrays["guidance"] - 1, embedding_dim=model.config.time_cond_proj_dim
        )
    arrays["prediction"] = model(arrays["latents"], arrays["timesteps"], context, **more).sample
    for h in handles:
        h.remove()
    # Once more at another odd size, and with what a ControlNet adds.
    small = arrays["latents"][:, :, :6, :5].contiguous()
    arrays["prediction.small"] = model(small, arrays["timesteps"], context, **more).sample
    if model.mid_block is not None:
        shapes = []
        with torch.no_grad():
            grab = lambda m, args, kwargs: shapes.extend(x.shape for x in kwargs["res_hidden_states_tuple"])
            hooks = [b.register_forward_pre_hook(grab, with_kwargs=True) for b in reversed(model.up_blocks)]
            model(arrays["latents"], arrays["timesteps"], context, **more)
            for h in hooks:
                h.remove()
        # The blocks on the way up were called from the deepest on; each has its own in order.
        per = [len(b.resnets) for b in model.up_blocks]
        groups = []
        for n in per:
            groups.insert(0, shapes[:n])
            shapes = shapes[n:]
        residuals = [0.5 * normal(*s) for group in groups for s in group]
        mid = 0.5 * normal(*residuals[-1].shape)
        arrays |= {f"residual.{i}": r for i, r in enumerate(residuals)} | {"residual.mid": mid}
        arrays["prediction.controlled"] = model(
            arrays["latents"],
            arrays["timesteps"],
            context,
            down_block_additional_residuals=residuals,
            mid_block_additional_residual=mid,
            **more,
        ).sample
    write(name, model, {}, arrays, seen)


with torch.no_grad():
    for name in sys.argv[1:] or MODELS:
        main(name)
