#!/usr/bin/env python3
"""Whole pictures by diffusers' pipelines, over the tiny models in tests/golden/pipeline: from text, from a picture, and filled in.

usage: golden_pictures.py
writes tests/golden/pictures/{golden.json,golden.safetensors}; the layout: tests/golden/README.md
"""
import json

import torch
from diffusers import (
    AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler, FluxImg2ImgPipeline, FluxPipeline, FluxTransformer2DModel, HeunDiscreteScheduler,
    PNDMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline, UNet2DConditionModel, UniPCMultistepScheduler,
)

import golden_common as g

MODELS = g.ROOT / "pipeline"
F32 = dict(torch_dtype=torch.float32)
arrays, cases = {}, []
gen = torch.Generator().manual_seed(5)
randn = lambda *shape: torch.randn(shape, generator=gen)


def part(kind, family, name):
    return kind.from_pretrained(MODELS / family / name, **F32).eval()


def config(family):
    return json.loads((MODELS / family / "scheduler" / "scheduler_config.json").read_text())


def run(name, pipe, **given):
    pipe.set_progress_bar_config(disable=True)
    out = pipe(**given, generator=torch.Generator().manual_seed(given.pop("seed", 0)), output_type="pt").images[0]
    arrays[f"{name}.image"] = out.contiguous()
    print(name, tuple(out.shape), "mean", out.mean().item(), "std", out.std().item())


# A picture to begin with: waves and a square; and where to paint anew.
H, W = 24, 40
y, x = torch.meshgrid(torch.arange(float(H)), torch.arange(float(W)), indexing="ij")
init = (torch.stack([torch.sin(x / 3 + y / 5), torch.cos(x / 7 - y / 2), torch.sin(x * y / 90)]) * 0.4 + 0.5).clamp(0, 1)
init[:, 4:12, 20:30] = torch.tensor([1.0, 0.5, 0.0])[:, None, None]
mask = torch.zeros(1, H, W)
mask[:, 6:20, 8:28] = 1.0
arrays["init"], arrays["mask"] = init.contiguous(), mask.contiguous()

with torch.no_grad():
    unet, vae = part(UNet2DConditionModel, "sd15", "unet"), part(AutoencoderKL, "sd15", "vae")
    unet.register_to_config(sample_size=64)
    own = config("sd15") | {"clip_sample": False}
    text, against = randn(1, 7, 12), randn(1, 7, 12)
    arrays["sd15.text"], arrays["sd15.negative"] = text[0], against[0]
    common = dict(prompt_embeds=text, negative_prompt_embeds=against, num_inference_steps=4)
    parts = dict(vae=vae, text_encoder=None, tokenizer=None, unet=unet, safety_checker=None, feature_extractor=None,
                 requires_safety_checker=False)
    schedulers = {
        "plms": PNDMScheduler, "euler": EulerDiscreteScheduler, "euler_ancestral": EulerAncestralDiscreteScheduler,
        "heun": HeunDiscreteScheduler, "dpmpp_2m": DPMSolverMultistepScheduler, "uni_pc_bh2": UniPCMultistepScheduler,
        "ddim": DDIMScheduler,
    }
    for sampler, kind in schedulers.items():
        pipe = StableDiffusionPipeline(**parts, scheduler=kind.from_config(own))
        run(f"sd15.{sampler}", pipe, width=W, height=H, guidance_scale=7.5, **common)
    euler = EulerDiscreteScheduler.from_config(own)
    run("sd15.unguided", StableDiffusionPipeline(**parts, scheduler=euler), width=W, height=H, guidance_scale=1.0, **common)
    run("sd15.from", StableDiffusionImg2ImgPipeline(**parts, scheduler=euler), image=init[None], strength=0.75,
        guidance_scale=7.5, **common)
    run("sd15.filled", StableDiffusionInpaintPipeline(**parts, scheduler=euler), image=init[None], mask_image=mask[None],
        width=W, height=H, strength=0.75, guidance_scale=7.5, **common)

    unet, vae = part(UNet2DConditionModel, "sdxl", "unet"), part(AutoencoderKL, "sdxl", "vae")
    unet.register_to_config(sample_size=64)
    pooled_size = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    given = dict(prompt_embeds=randn(1, 7, 20), negative_prompt_embeds=randn(1, 7, 20),
                 pooled_prompt_embeds=randn(1, pooled_size), negative_pooled_prompt_embeds=randn(1, pooled_size))
    for name, key in dict(text="prompt_embeds", negative="negative_prompt_embeds", pooled="pooled_prompt_embeds",
                          negative_pooled="negative_pooled_prompt_embeds").items():
        arrays[f"sdxl.{name}"] = given[key][0]
    parts = dict(vae=vae, text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None, unet=unet,
                 scheduler=EulerDiscreteScheduler.from_config(config("sdxl")), add_watermarker=False)
    from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl as module  # its check of time ids asks an encoder
    for kind in (StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline):
        pipe = kind(**parts)
        pipe._get_add_time_ids = (lambda pipe: lambda original, crop, target, *rest, dtype=None, **more: ids(pipe, original, crop, target, dtype))(pipe)

        def ids(pipe, original, crop, target, dtype):
            if pipe.__class__ is StableDiffusionXLPipeline:
                return torch.tensor([[*original, *crop, *target]], dtype=dtype)
            one = torch.tensor([[H, W, 0, 0, H, W]], dtype=dtype)
            return one, one

        if kind is StableDiffusionXLPipeline:
            run("sdxl.euler", pipe, width=W, height=H, guidance_scale=5.0, num_inference_steps=4, **given)
        else:
            run("sdxl.from", pipe, image=init[None], strength=0.6, guidance_scale=5.0, num_inference_steps=5, **given)

    transformer, vae = part(FluxTransformer2DModel, "flux", "transformer"), part(AutoencoderKL, "flux", "vae")
    given = dict(prompt_embeds=randn(1, 9, 12), pooled_prompt_embeds=randn(1, 8))
    arrays["flux.text"], arrays["flux.pooled"] = given["prompt_embeds"][0], given["pooled_prompt_embeds"][0]
    parts = dict(scheduler=FlowMatchEulerDiscreteScheduler.from_config(config("flux")), vae=vae, text_encoder=None,
                 tokenizer=None, text_encoder_2=None, tokenizer_2=None, transformer=transformer)
    pipe = FluxPipeline(**parts)
    run("flux.euler", pipe, width=W, height=H, guidance_scale=3.5, num_inference_steps=4, **given)
    pipe = FluxImg2ImgPipeline(**parts)
    run("flux.from", pipe, image=init[None], width=W, height=H, strength=0.75, guidance_scale=3.5, num_inference_steps=4, **given)

g.save(
    "pictures",
    {
        "source": "diffusers' pipelines in float32, seed 0 of torch's generator on the CPU",
        "versions": g.versions("diffusers"),
        "tensors": {"init": "(3, H, W) in 0..1", "mask": "1 where painted anew", "FAMILY.text": "prompt_embeds (T, C)",
                    "FAMILY.CASE.image": "(3, H, W) in 0..1"},
        "steps": "4; sdxl.from 5. Guidance: sd15 7.5 (unguided: 1), sdxl 5, flux is told 3.5. Strength: 0.75, sdxl 0.6",
    },
    arrays,
)
