#!/usr/bin/env python3
"""Whole pictures by diffusers' pipelines that edit one or are held to one: InstructPix2Pix, Flux.1 Fill, Kontext, Depth and
Canny, and Flux's ControlNets, over tiny random models.

usage: golden_edit.py
writes tests/golden/edit/{golden.json,golden.safetensors} and, in folders beside, the denoisers, a VAE and the ControlNets; all
else is of tests/golden/pipeline. The layout: tests/golden/README.md
"""
import json
import shutil

import torch
from diffusers import (
    AutoencoderKL, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, FluxControlNetModel, FluxControlNetPipeline,
    FluxControlPipeline, FluxFillPipeline, FluxKontextPipeline, FluxTransformer2DModel,
    StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel,
)

import golden_common as g

MODELS, OUT = g.ROOT / "pipeline", g.ROOT / "edit"
F32 = dict(torch_dtype=torch.float32)
H, W = 24, 40
FEW = 3  # steps
arrays = {}
gen = torch.Generator().manual_seed(17)
randn = lambda *shape: torch.randn(shape, generator=gen)


def kept(model, name, scale):
    """The model with random weights, saved in f16 and read again. `scale`: of a matrix, by its inputs."""
    for path, p in sorted(model.named_parameters()):
        noise = randn(*p.shape)
        if ".norm_" in path and p.dim() == 1 or "norm" in path and path.endswith("weight") and p.dim() == 1:
            p.copy_(1 + 0.2 * noise)
        elif p.dim() == 1:
            p.copy_(0.1 * noise)
        else:
            p.copy_(noise * scale / p[0].numel() ** 0.5)
    shutil.rmtree(OUT / name, ignore_errors=True)
    model.half().save_pretrained(OUT / name)
    return type(model).from_pretrained(OUT / name, **F32).eval()


def part(kind, family, name):
    return kind.from_pretrained(MODELS / family / name, **F32).eval()


def config(family):
    return json.loads((MODELS / family / "scheduler" / "scheduler_config.json").read_text())


def run(name, pipe, **given):
    pipe.set_progress_bar_config(disable=True)
    out = pipe(**given, num_inference_steps=FEW, generator=torch.Generator().manual_seed(0), output_type="pt").images[0]
    arrays[f"{name}.image"] = out.contiguous()
    print(f"{name}: {tuple(out.shape)} mean {out.mean():.3f} std {out.std():.3f}")


def differ(*names, drop=()):
    """That the pictures are far from one another: what sets them apart matters. Some are not kept."""
    for i, a in enumerate(names):
        for b in names[:i]:
            far = (arrays[f"{a}.image"] - arrays[f"{b}.image"]).abs().max().item()
            assert far > 4 / 255, (a, b, far)
    for name in drop:
        del arrays[f"{name}.image"]


# A ring and two lines, each in a colour of its own; a smooth picture; a mask.
y, x = torch.meshgrid(torch.arange(float(H)), torch.arange(float(W)), indexing="ij")
ring = ((((x - 25) ** 2 + (y - 11) ** 2).sqrt() - 8).abs() < 1).float()
edges = torch.stack([ring, ((x - y).abs() < 1).float(), ((x + y - 40).abs() < 2).float() * 0.7])
init = torch.stack([(torch.sin(x / 5) + 1) / 2, (torch.cos(y / 4) + 1) / 2, ((x * y) % 37) / 37])
arrays |= {"edges": edges, "init": init}

with torch.no_grad():
    # InstructPix2Pix.
    unet = kept(UNet2DConditionModel(
        in_channels=8, block_out_channels=(4, 8), layers_per_block=1, cross_attention_dim=12, norm_num_groups=4,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), sample_size=64), "pix2pix", 1.6)
    text = dict(prompt_embeds=randn(1, 7, 12), negative_prompt_embeds=randn(1, 7, 12))
    arrays["sd15.text"], arrays["sd15.negative"] = text["prompt_embeds"][0], text["negative_prompt_embeds"][0]
    pipe = StableDiffusionInstructPix2PixPipeline(
        unet=unet, vae=part(AutoencoderKL, "sd15", "vae"), scheduler=EulerDiscreteScheduler.from_config(config("sd15")),
        text_encoder=None, tokenizer=None, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    run("pix2pix", pipe, image=init[None], guidance_scale=7.5, image_guidance_scale=1.5, **text)
    run("pix2pix.text", pipe, image=init[None], guidance_scale=7.5, image_guidance_scale=1.0, **text)
    run("pix2pix.unguided", pipe, image=init[None], guidance_scale=1.0, image_guidance_scale=1.5, **text)
    run("pix2pix.other", pipe, image=edges[None], guidance_scale=7.5, image_guidance_scale=1.5, **text)
    differ("pix2pix", "pix2pix.text", "pix2pix.unguided", "pix2pix.other", drop=["pix2pix.other"])

    # Flux.1: texts and parts that all share.
    text = dict(prompt_embeds=randn(1, 9, 12), pooled_prompt_embeds=randn(1, 8))
    arrays["flux.text"], arrays["flux.pooled"] = text["prompt_embeds"][0], text["pooled_prompt_embeds"][0]

    def flux(name, cls=FluxTransformer2DModel, **changed):
        return kept(cls(**dict(
            patch_size=1, in_channels=8, num_layers=3, num_single_layers=2, attention_head_dim=6, num_attention_heads=2,
            joint_attention_dim=12, pooled_projection_dim=8, guidance_embeds=True, axes_dims_rope=(2, 2, 2)) | changed), name, 1.2)

    def parts(transformer, vae):
        return dict(scheduler=FlowMatchEulerDiscreteScheduler.from_config(config("flux")), vae=vae, text_encoder=None,
                    tokenizer=None, text_encoder_2=None, tokenizer_2=None, transformer=transformer)

    small = part(AutoencoderKL, "flux", "vae")

    # Fill sees masks of 8 x 8 pixels for a latent, so its VAE must halve sides three times.
    wide = dict(width=48, height=32)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    arrays["wide"] = torch.stack([(torch.sin(x / 9) + 1) / 2, (torch.cos(y / 7) + 1) / 2, ((x + 2 * y) % 31) / 31])
    arrays["hole"] = (((x - 29) ** 2 / 2 + (y - 14) ** 2) < 90).float()
    vae = kept(AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=1, latent_channels=2, norm_num_groups=2, use_quant_conv=False, use_post_quant_conv=False,
        scaling_factor=0.3611, shift_factor=0.1159), "vae8", 1.4)
    pipe = FluxFillPipeline(**parts(flux("fill", in_channels=4 * (2 + 2 + 64), out_channels=8, num_layers=1, num_single_layers=1), vae))
    fill = dict(image=arrays["wide"][None], mask_image=arrays["hole"][None, None], **wide, **text)
    run("fill", pipe, guidance_scale=30.0, **fill)
    run("fill.from", pipe, guidance_scale=30.0, strength=0.4, **fill)
    run("fill.all", pipe, guidance_scale=30.0, **fill | dict(mask_image=torch.ones(1, 1, 32, 48)))
    differ("fill", "fill.from", "fill.all", drop=["fill.all"])

    # Kontext has the tensors of dev; the reference may be of another size.
    dev = flux("dev")
    pipe = FluxKontextPipeline(**parts(dev, small))
    ask = dict(width=W, height=H, max_area=W * H, guidance_scale=2.5, _auto_resize=False, **text)
    run("kontext", pipe, image=init[None], **ask)
    run("kontext.tall", pipe, image=init[None, :, :, 6:26].contiguous(), **ask)
    run("kontext.words", pipe, **ask)
    differ("kontext", "kontext.tall", "kontext.words")

    # Depth and Canny.
    pipe = FluxControlPipeline(**parts(flux("depth", in_channels=16, out_channels=8, num_layers=1, num_single_layers=1), small))
    for name, image in (("depth", edges), ("depth.other", init)):
        run(name, pipe, control_image=2 * image[None] - 1, width=W, height=H, guidance_scale=10.0, **text)
    differ("depth", "depth.other", drop=["depth.other"])

    # ControlNets: XLabs' sees pixels, and its blocks are repeated; InstantX's sees latents and is told of what kind.
    xlabs = flux("xlabs", FluxControlNetModel, patch_size=2, num_layers=2, num_single_layers=0, conditioning_embedding_channels=2)
    union = flux("union", FluxControlNetModel, num_layers=2, num_single_layers=1, num_mode=3, guidance_embeds=False)
    given = dict(control_image=2 * edges[None] - 1, width=W, height=H, guidance_scale=3.5, **text)
    # XLabs' halves sides three times, and so needs the VAE that does.
    pipe = FluxControlNetPipeline(**parts(dev, vae), controlnet=xlabs)
    ask = given | wide | dict(control_image=2 * arrays["wide"][None] - 1)
    run("xlabs", pipe, controlnet_conditioning_scale=0.7, **ask)
    run("xlabs.free", pipe, controlnet_conditioning_scale=0.0, **ask)
    pipe = FluxControlNetPipeline(**parts(dev, small), controlnet=union)
    run("union", pipe, controlnet_conditioning_scale=0.7, control_mode=1, **given)
    run("union.other", pipe, controlnet_conditioning_scale=0.7, control_mode=2, **given)
    run("union.free", pipe, controlnet_conditioning_scale=0.0, control_mode=1, **given)
    differ("xlabs", "xlabs.free", drop=["xlabs.free"])
    differ("union", "union.other", "union.free", drop=["union.other", "union.free"])

    # What the networks themselves say, of one step.
    ids = lambda height, width, first: torch.stack([torch.full((height, width), float(first)),
        *torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")], -1).reshape(-1, 3)
    step = dict(encoder_hidden_states=text["prompt_embeds"], pooled_projections=text["pooled_prompt_embeds"],
                timestep=torch.tensor([0.61]), txt_ids=torch.zeros(9, 3), return_dict=False)
    tokens, beside, control = randn(1, 6, 8), randn(1, 4, 8), randn(1, 6, 8)
    arrays |= {"step.latents": torch.cat([tokens, beside], 1), "step.control": control, "step.pixels": randn(1, 3, 32, 48)}
    guidance = dict(guidance=torch.tensor([2.5]))
    arrays["step.kontext"] = dev(hidden_states=arrays["step.latents"], img_ids=torch.cat([ids(2, 3, 0), ids(2, 2, 1)]),
                                 **guidance, **step)[0][:, :6]
    for name, net, more in (
        ("xlabs", xlabs, dict(controlnet_cond=arrays["step.pixels"]) | guidance),
        ("union", union, dict(controlnet_cond=control, controlnet_mode=torch.tensor([[2]]))),
    ):
        doubles, singles = net(hidden_states=tokens, img_ids=ids(2, 3, 0), conditioning_scale=0.7, **more, **step)
        for i, x in enumerate(doubles):
            arrays[f"step.{name}.residual.{i}"] = x
        for i, x in enumerate(singles or ()):
            arrays[f"step.{name}.single.{i}"] = x
        arrays[f"step.{name}"] = dev(hidden_states=tokens, img_ids=ids(2, 3, 0), controlnet_block_samples=doubles,
                                     controlnet_single_block_samples=singles, controlnet_blocks_repeat=name == "xlabs", **guidance, **step)[0]

g.save(
    "edit",
    {
        "source": "diffusers' pipelines in float32, seed 0 of torch's generator on the CPU",
        "versions": g.versions("diffusers"),
        "steps": FEW,
        "tensors": {"edges": "(3, H, W) in 0..1", "init": "(3, H, W) in 0..1", "FAMILY.text": "prompt_embeds (T, C)",
                    "CASE.image": "(3, H, W) in 0..1"},
    },
    arrays,
)
