#!/usr/bin/env python3
"""Whole pictures held to another one by a ControlNet, by diffusers' pipelines, over the tiny models in tests/golden/pipeline.

usage: golden_control.py
writes tests/golden/control/{golden.json,golden.safetensors} and tests/golden/control/{sd15,sdxl}, the ControlNets; the
layout: tests/golden/README.md
"""
import json

import torch
from diffusers import (
    AutoencoderKL, ControlNetModel, EulerDiscreteScheduler, StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline, UNet2DConditionModel,
)

import golden_common as g

MODELS = g.ROOT / "pipeline"
F32 = dict(torch_dtype=torch.float32)
H, W = 24, 40
arrays = {}
gen = torch.Generator().manual_seed(11)
randn = lambda *shape: torch.randn(shape, generator=gen)


def control_of(unet, family):
    """A ControlNet of a UNet's form, saved; what training begins with zeros has values, so that it matters."""
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8)).eval()
    zeros = [net.controlnet_cond_embedding.conv_out, net.controlnet_mid_block, *net.controlnet_down_blocks]
    for layer in zeros:
        layer.weight.copy_(randn(*layer.weight.shape) * 0.5)
        layer.bias.copy_(randn(*layer.bias.shape) * 0.1)
    net.save_pretrained(g.ROOT / "control" / family)
    return net


def parts(family):
    part = lambda kind, name: kind.from_pretrained(MODELS / family / name, **F32).eval()
    unet, vae = part(UNet2DConditionModel, "unet"), part(AutoencoderKL, "vae")
    unet.register_to_config(sample_size=64)
    config = json.loads((MODELS / family / "scheduler" / "scheduler_config.json").read_text())
    return dict(unet=unet, vae=vae, scheduler=EulerDiscreteScheduler.from_config(config), controlnet=control_of(unet, family))


def run(name, pipe, scale, cfg, **given):
    pipe.set_progress_bar_config(disable=True)
    out = pipe(image=edges[None], width=W, height=H, num_inference_steps=4, guidance_scale=cfg, output_type="pt",
               controlnet_conditioning_scale=scale, generator=torch.Generator().manual_seed(0), **given).images[0]
    arrays[f"{name}.image"] = out.contiguous()
    print(name, tuple(out.shape), "mean", out.mean().item(), "std", out.std().item())


# Two lines and a ring, as an edge detector gives them, each in a colour of its own.
y, x = torch.meshgrid(torch.arange(float(H)), torch.arange(float(W)), indexing="ij")
ring = ((((x - 25) ** 2 + (y - 11) ** 2).sqrt() - 8).abs() < 1).float()
edges = torch.stack([ring, ((x - y).abs() < 1).float(), ((x + y - 40).abs() < 2).float() * 0.7])
arrays["edges"] = edges

with torch.no_grad():
    sd = parts("sd15")
    text = dict(prompt_embeds=randn(1, 7, 12), negative_prompt_embeds=randn(1, 7, 12))
    arrays["sd15.text"], arrays["sd15.negative"] = text["prompt_embeds"][0], text["negative_prompt_embeds"][0]
    pipe = StableDiffusionControlNetPipeline(**sd, text_encoder=None, tokenizer=None, safety_checker=None,
                                             feature_extractor=None, requires_safety_checker=False)
    run("sd15.held", pipe, 0.7, 7.5, **text)
    run("sd15.unguided", pipe, 1.0, 1.0, **text)
    run("sd15.free", pipe, 0.0, 7.5, **text)
    sd["controlnet"].register_to_config(global_pool_conditions=True)
    run("sd15.pooled", pipe, 1.3, 7.5, **text)

    xl = parts("sdxl")
    pooled = xl["unet"].config.projection_class_embeddings_input_dim - 6 * xl["unet"].config.addition_time_embed_dim
    text = dict(prompt_embeds=randn(1, 7, 20), negative_prompt_embeds=randn(1, 7, 20),
                pooled_prompt_embeds=randn(1, pooled), negative_pooled_prompt_embeds=randn(1, pooled))
    for name, key in dict(text="prompt_embeds", negative="negative_prompt_embeds", pooled="pooled_prompt_embeds",
                          negative_pooled="negative_pooled_prompt_embeds").items():
        arrays[f"sdxl.{name}"] = text[key][0]
    pipe = StableDiffusionXLControlNetPipeline(**xl, text_encoder=None, text_encoder_2=None, tokenizer=None,
                                               tokenizer_2=None, add_watermarker=False)
    # Its check of time ids asks an encoder, which is not there.
    pipe._get_add_time_ids = lambda original, crop, target, dtype, **_: torch.tensor([[*original, *crop, *target]], dtype=dtype)
    run("sdxl.held", pipe, 0.7, 5.0, **text)

g.save(
    "control",
    {
        "source": "diffusers' ControlNet pipelines in float32, Euler, 4 steps, seed 0 of torch's generator on the CPU",
        "versions": g.versions("diffusers"),
        "tensors": {"edges": "(3, H, W) in 0..1", "FAMILY.text": "prompt_embeds (T, C)",
                    "FAMILY.CASE.image": "(3, H, W) in 0..1"},
        "strength": "held 0.7, unguided 1 (guidance 1), free 0, pooled 1.3 (global_pool_conditions). Guidance: sd15 7.5, sdxl 5",
    },
    arrays,
)
