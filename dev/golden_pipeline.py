#!/usr/bin/env python3
"""Random tiny picture models as diffusers folders, with the names that their tensors have in single files and GGUFs.

usage: golden_pipeline.py
writes tests/golden/pipeline/{sd15,sdxl,flux}/: the folders, and names.json; the layout: tests/golden/README.md

The names in single files are written here by rule, and then held against diffusers' own converters: a single file made by
these names must come out of them as the folder's tensors. T5's names in a GGUF are those of the gguf package.
"""
import json
import shutil

import diffusers.loaders.single_file_utils as sf
import gguf
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

import golden_common as g

ROOT = g.ROOT / "pipeline"
gen = torch.Generator().manual_seed(6)


def fill(model):
    """Random weights of order 1, in f16: no two tensors are alike."""
    with torch.no_grad():
        for _, p in sorted(model.named_parameters()):
            p.copy_(torch.randn(p.shape, generator=gen) * 0.5)
    return model.half().eval()


def clip(width, act, cls=CLIPTextModel, **more):
    return fill(cls(CLIPTextConfig(
        hidden_size=width, intermediate_size=3 * width, num_hidden_layers=3, num_attention_heads=1, vocab_size=60,
        max_position_embeddings=20, hidden_act=act, bos_token_id=58, eos_token_id=59, pad_token_id=59, **more)))


def vae(latents, **more):
    return fill(AutoencoderKL(
        block_out_channels=(4, 8), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1, latent_channels=latents, norm_num_groups=4, **more))


# ---- names in single files: canonical name -> [stored name, how it lies there] ----


def ldm_unet(state, layers):
    """LDM counts all layers of a half in one row; what scales comes last in its level."""
    resnet = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
              "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    top = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
           "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
           "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    names = {}
    for name in state:
        stem, kind = name.rsplit(".", 1)
        p = name.split(".")
        if stem in top:
            new = f"{top[stem]}.{kind}"
        elif p[0] == "mid_block":
            at = {"attentions": 1, "resnets": 2 * int(p[2])}[p[1]]
            rest = p[3:] if p[1] == "attentions" else [resnet[p[3]]] + p[4:]
            new = f"middle_block.{at}." + ".".join(rest)
        else:
            half, level, part, j = p[0], int(p[1]), p[2], int(p[3])
            if half == "down_blocks":
                at = 1 + level * (layers + 1)
                new = {"resnets": lambda: f"input_blocks.{at + j}.0.{resnet[p[4]]}.{kind}",
                       "attentions": lambda: f"input_blocks.{at + j}.1." + ".".join(p[4:]),
                       "downsamplers": lambda: f"input_blocks.{at + layers}.0.op.{kind}"}[part]()
            else:
                at = level * (layers + 1)
                attended = f"up_blocks.{level}.attentions.0.norm.weight" in state
                new = {"resnets": lambda: f"output_blocks.{at + j}.0.{resnet[p[4]]}.{kind}",
                       "attentions": lambda: f"output_blocks.{at + j}.1." + ".".join(p[4:]),
                       "upsamplers": lambda: f"output_blocks.{at + layers}.{1 + attended}.conv.{kind}"}[part]()
        names[name] = [new, None]
    return names


def ldm_vae(state, levels):
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
    names = {}
    for name in state:
        p = name.split(".")
        how = None
        if p[1] == "mid_block":
            if p[2] == "resnets":
                rest = ["mid", f"block_{int(p[3]) + 1}"] + p[4:]
            else:
                rest = ["mid", "attn_1", attention[p[4]], p[-1]]
                how = "conv" if p[4] != "group_norm" and p[-1] == "weight" else None
        elif p[1] == "down_blocks":
            rest = ["down", p[2]]
            rest += ["block", p[4]] + p[5:] if p[3] == "resnets" else ["downsample"] + p[5:]
        elif p[1] == "up_blocks":
            rest = ["up", str(levels - 1 - int(p[2]))]
            rest += ["block", p[4]] + p[5:] if p[3] == "resnets" else ["upsample"] + p[5:]
        else:
            rest = ["norm_out" if x == "conv_norm_out" else x for x in p[1:]]
        rest = ["nin_shortcut" if x == "conv_shortcut" else x for x in rest]
        names[name] = [".".join(p[:1] + rest), how]
    return names


def hf_clip(state):
    return {name: [name, None] for name in state}


def open_clip(state, width):
    top = {"text_model.embeddings.token_embedding.weight": "token_embedding.weight",
           "text_model.embeddings.position_embedding.weight": "positional_embedding"}
    words = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "fc1": "c_fc", "fc2": "c_proj", "self_attn": "attn"}
    names = {}
    for name in state:
        kind = name.rsplit(".", 1)[1]
        if name in top:
            names[name] = [top[name], None]
        elif name == "text_projection.weight":
            names[name] = ["text_projection", "turned"]
        elif "final_layer_norm" in name:
            names[name] = [f"ln_final.{kind}", None]
        else:
            p = [words.get(x, x) for x in name.split(".")[3:]]
            at = f"transformer.resblocks.{p[0]}."
            if p[2] in ("q_proj", "k_proj", "v_proj"):
                i = "qkv".index(p[2][0])
                names[name] = [f"{at}attn.in_proj_{kind}", [i * width, (i + 1) * width]]
            else:
                names[name] = [at + ".".join(p[1:]), None]
    return names


def bfl_flux(state, width, mlp):
    embed = {"timestep_embedder": "time_in", "text_embedder": "vector_in", "guidance_embedder": "guidance_in"}
    layer = {"linear_1": "in_layer", "linear_2": "out_layer"}
    double = {"norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin", "attn.to_out.0": "img_attn.proj",
              "attn.to_add_out": "txt_attn.proj", "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
              "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2"}
    norms = {"attn.norm_q": "img_attn.norm.query_norm.scale", "attn.norm_k": "img_attn.norm.key_norm.scale",
             "attn.norm_added_q": "txt_attn.norm.query_norm.scale", "attn.norm_added_k": "txt_attn.norm.key_norm.scale"}
    names = {}
    for name in state:
        stem, kind = name.rsplit(".", 1)
        p = stem.split(".")
        how = None
        if p[0] == "time_text_embed":
            new = f"{embed[p[1]]}.{layer[p[2]]}.{kind}"
        elif p[0] == "transformer_blocks":
            rest = ".".join(p[2:])
            at = f"double_blocks.{p[1]}."
            if rest in double:
                new = f"{at}{double[rest]}.{kind}"
            elif rest in norms:
                new = at + norms[rest]
            else:
                side = "txt" if rest.startswith("attn.add_") else "img"
                i = "qkv".index(rest.replace("attn.add_", "").replace("attn.to_", "")[0])
                new, how = f"{at}{side}_attn.qkv.{kind}", [i * width, (i + 1) * width]
        elif p[0] == "single_transformer_blocks":
            rest = ".".join(p[2:])
            at = f"single_blocks.{p[1]}."
            plain = {"norm.linear": f"modulation.lin.{kind}", "proj_out": f"linear2.{kind}",
                     "attn.norm_q": "norm.query_norm.scale", "attn.norm_k": "norm.key_norm.scale"}
            if rest in plain:
                new = at + plain[rest]
            elif rest == "proj_mlp":
                new, how = f"{at}linear1.{kind}", [3 * width, 3 * width + mlp]
            else:
                i = "qkv".index(rest[-1])
                new, how = f"{at}linear1.{kind}", [i * width, (i + 1) * width]
        else:
            new = {"x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
                   "norm_out.linear": "final_layer.adaLN_modulation.1"}[stem] + f".{kind}"
            how = "swapped" if p[0] == "norm_out" else None
        names[name] = [new, how]
    return names


def single(parts):
    """The tensors of a single file."""
    cut, out = {}, {}
    for part in parts.values():
        for name, (stored, how) in part["names"].items():
            x = part["state"][name]
            stored = part["prefix"] + stored
            if isinstance(how, list):
                cut.setdefault(stored, []).append((how, x))
            else:
                assert stored not in out
                halves = lambda: torch.cat(x.chunk(2)[::-1])
                shaped = {None: lambda: x, "turned": lambda: x.T, "swapped": halves, "conv": lambda: x[:, :, None, None]}
                out[stored] = shaped[how]().contiguous()
    for stored, rows in cut.items():
        rows.sort(key=lambda r: r[0])
        assert all(a[0][1] == b[0][0] for a, b in zip(rows, rows[1:])) and rows[0][0][0] == 0
        out[stored] = torch.cat([x for _, x in rows])
    return out


def same(converted, state, what):
    converted = {k: v for k, v in converted.items() if v is not None and "position_ids" not in k}
    assert converted.keys() == state.keys(), (what, converted.keys() ^ state.keys())
    for name, x in state.items():
        assert converted[name].shape == x.shape and torch.equal(converted[name], x), (what, name)


def texts(model):
    """The state with transformers' prefix, which its newest releases leave out of CLIPTextModel."""
    state = model.state_dict()
    bare = not any(k.startswith("text_model.") for k in state) and isinstance(model, CLIPTextModel)
    return {("text_model." if bare else "") + k: v for k, v in state.items() if "position_ids" not in k}


def part(model, prefix, names, state=None):
    return {"model": model, "prefix": prefix, "names": names, "state": state or model.state_dict()}


def write(family, parts, index, scheduler, more=None):
    folder = ROOT / family
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, p in parts.items():
        p["model"].save_pretrained(folder / name)
    index = {"_class_name": index, "_diffusers_version": "0.42.1", "scheduler": ["diffusers", scheduler["_class_name"]]} | {
        n: ["transformers" if "text" in n else "diffusers", type(p["model"]).__name__] for n, p in parts.items()}
    (folder / "model_index.json").write_text(g.dump(index) + "\n")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(g.dump(scheduler) + "\n")
    names = {n: {"prefix": p["prefix"], "names": p["names"]} for n, p in parts.items()} | (more or {})
    rows = [f' {json.dumps(k)}: {json.dumps(v, separators=(",", ":"))}' for k, v in names.items()]
    (folder / "names.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
    print(family, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) // 1024, "KiB")


BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
         "prediction_type": "epsilon", "steps_offset": 1}


def sd15():
    unet = fill(UNet2DConditionModel(
        block_out_channels=(8, 8), layers_per_block=2, cross_attention_dim=12, norm_num_groups=8, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")))
    auto, text = vae(4), clip(12, "quick_gelu")
    state = texts(text)
    parts = {
        "unet": part(unet, "model.diffusion_model.", ldm_unet(unet.state_dict(), 2)),
        "vae": part(auto, "first_stage_model.", ldm_vae(auto.state_dict(), 2)),
        "text_encoder": part(text, "cond_stage_model.transformer.", hf_clip(state), state),
    }
    ckpt = single(parts)
    same(sf.convert_ldm_unet_checkpoint(dict(ckpt), unet.config), unet.state_dict(), "unet")
    same(sf.convert_ldm_vae_checkpoint(dict(ckpt), auto.config), auto.state_dict(), "vae")
    same(sf.convert_ldm_clip_checkpoint(dict(ckpt)), state, "text")
    write("sd15", parts, "StableDiffusionPipeline", {"_class_name": "PNDMScheduler", "skip_prk_steps": True} | BETAS)


def sdxl():
    unet = fill(UNet2DConditionModel(
        block_out_channels=(4, 4, 8), layers_per_block=1, cross_attention_dim=20, norm_num_groups=4,
        attention_head_dim=(1, 1, 1), transformer_layers_per_block=(1, 1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=10 + 6 * 8))
    auto, one = vae(4, scaling_factor=0.13025), clip(8, "quick_gelu")
    two = clip(12, "gelu", CLIPTextModelWithProjection, projection_dim=10)
    states = texts(one), texts(two)
    parts = {
        "unet": part(unet, "model.diffusion_model.", ldm_unet(unet.state_dict(), 1)),
        "vae": part(auto, "first_stage_model.", ldm_vae(auto.state_dict(), 2)),
        "text_encoder": part(one, "conditioner.embedders.0.transformer.", hf_clip(states[0]), states[0]),
        "text_encoder_2": part(two, "conditioner.embedders.1.model.", open_clip(states[1], 12), states[1]),
    }
    ckpt = single(parts)
    same(sf.convert_ldm_unet_checkpoint(dict(ckpt), unet.config), unet.state_dict(), "unet")
    same(sf.convert_ldm_vae_checkpoint(dict(ckpt), auto.config), auto.state_dict(), "vae")
    same(sf.convert_ldm_clip_checkpoint(dict(ckpt)), states[0], "text 1")
    # The converter cuts queries, keys and values by the projection's size, which is the width in every published model.
    at = "conditioner.embedders.1.model."
    turned = {k: torch.zeros(12, 1) if k == at + "text_projection" else v for k, v in ckpt.items()}
    converted = sf.convert_open_clip_checkpoint(two, turned, at)
    converted["text_projection.weight"] = ckpt[at + "text_projection"].T
    same(converted, states[1], "text 2")
    write("sdxl", parts, "StableDiffusionXLPipeline", {"_class_name": "EulerDiscreteScheduler"} | BETAS)


def flux():
    width, heads, mlp = 24, 2, 96
    net = fill(FluxTransformer2DModel(
        patch_size=1, in_channels=8, num_layers=2, num_single_layers=2, attention_head_dim=12, num_attention_heads=heads,
        joint_attention_dim=12, pooled_projection_dim=8, guidance_embeds=True, axes_dims_rope=(0, 6, 6)))
    auto = vae(2, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159)
    one = clip(8, "quick_gelu")
    two = fill(T5EncoderModel(T5Config(
        d_model=12, d_kv=4, d_ff=20, num_layers=2, num_heads=3, vocab_size=70, feed_forward_proj="gated-gelu")))
    state = texts(one)
    t5 = {k: v for k, v in two.state_dict().items() if k != "encoder.embed_tokens.weight"}
    parts = {
        "transformer": part(net, "model.diffusion_model.", bfl_flux(net.state_dict(), width, mlp)),
        "vae": part(auto, "vae.", ldm_vae(auto.state_dict(), 2)),
        "text_encoder": part(one, "text_encoders.clip_l.transformer.", hf_clip(state), state),
        "text_encoder_2": part(two, "text_encoders.t5xxl.transformer.", {k: [k, None] for k in t5}, t5),
    }
    ckpt = single(parts)
    same(sf.convert_ldm_vae_checkpoint(dict(ckpt), auto.config), auto.state_dict(), "vae")
    only = {k: v for k, v in ckpt.items() if k.startswith("model.diffusion_model.")}
    # The converter knows the full width alone.
    source = __import__("inspect").getsource(sf.convert_flux_transformer_checkpoint_to_diffusers)
    scope = vars(sf).copy()
    exec(source.replace("inner_dim = 3072", f"inner_dim = {width}"), scope)
    same(scope["convert_flux_transformer_checkpoint_to_diffusers"](only), net.state_dict(), "flux")
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 2)
    ggml = {k: [table.get_name(k, try_suffixes=(".weight",)), None] for k in t5}
    assert all(v[0] for v in ggml.values()), ggml
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0,
                 "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
                 "max_image_seq_len": 4096}
    write("flux", parts, "FluxPipeline", scheduler, {"text_encoder_2.gguf": {"prefix": "", "names": ggml}})


sd15()
sdxl()
flux()
