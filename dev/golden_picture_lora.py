#!/usr/bin/env python3
"""LoRA files of tiny picture models in every form they are passed around in, with what diffusers and peft make of them.

usage: golden_picture_lora.py (after golden_flux.py)
writes tests/golden/picture-lora: golden.json, golden.safetensors and a file for each form; the layout:
tests/golden/README.md
"""
import json
import shutil

import torch
import transformers.integrations.peft
from diffusers import FluxPipeline, FluxTransformer2DModel, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers import UNet2DConditionModel
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import golden_common as g

# transformers asks for a newer peft than there is on some machines; what is done here is the same in both.
transformers.integrations.peft.check_peft_version = lambda **_: None

folder = g.ROOT / "picture-lora"
shutil.rmtree(folder, ignore_errors=True)
folder.mkdir()
gen = torch.Generator().manual_seed(31)
DTYPES = {"kohya": torch.float16, "flux-kohya": torch.bfloat16}


def noise(*shape, scale=0.5):
    return torch.randn(shape, generator=gen) * scale


UNET = dict(
    sample_size=8, block_out_channels=(4, 8), norm_num_groups=2, cross_attention_dim=6, attention_head_dim=2,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)
XL = UNET | dict(
    layers_per_block=2, use_linear_projection=True, transformer_layers_per_block=(2, 1), cross_attention_dim=10,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    addition_embed_type="text_time", addition_time_embed_dim=2, projection_class_embeddings_input_dim=18,
)
CLIP = dict(vocab_size=10, intermediate_size=9, num_hidden_layers=2, max_position_embeddings=7, num_attention_heads=2,
            bos_token_id=0, eos_token_id=9, pad_token_id=1)


def fresh(model):
    torch.manual_seed(5)
    return {
        "unet": lambda: UNet2DConditionModel(layers_per_block=1, **UNET),
        "xl": lambda: UNet2DConditionModel(**XL),
        "flux": lambda: FluxTransformer2DModel.from_pretrained(g.ROOT / "flux" / "dev"),
        "text": lambda: CLIPTextModel(CLIPTextConfig(hidden_size=6, **CLIP)),
        "text2": lambda: CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=4, projection_dim=6, **CLIP)),
    }[model]().eval()


def own_name(model, name):
    """As published checkpoints have it: transformers 5 leaves out the text model's own name in memory."""
    return f"text_model.{name}" if model == "text" and not name.startswith("text_model.") else name


def deltas(model, net):
    """What each adapted layer of NET has got added to its weight."""
    out = {}
    for name, module in net.named_modules():
        name = name.removeprefix("base_model.model.")
        if isinstance(module, BaseTunerLayer):
            for adapter in module.active_adapters:
                out[own_name(model, name) + ".weight"] = module.get_delta_weight(adapter).detach()
    assert out
    return out


golden, arrays, kept = {}, {}, {}


def probe(delta):
    """The difference as a matrix, by a vector that is easily made again."""
    rows = delta.reshape(delta.shape[0], -1)
    j = torch.arange(rows.shape[1])
    return rows.double() @ (((j * 37) % 101).double() / 101 - 0.5)


def record(file, expected, models, unmatched=()):
    """EXPECTED: for each of MODELS (in the order: denoiser, first and second text encoder) a delta for each weight."""
    golden[file] = {"models": models, "weights": [sorted(e) for e in expected], "unmatched": list(unmatched)}
    for i, e in enumerate(expected):
        for name, delta in e.items():
            assert delta.abs().max() > 1e-3, (file, name)
            arrays[f"{file}/{i}/{name}"] = probe(delta)
    kept[file] = expected
    print(file, [len(e) for e in expected])


def write(name, state):
    dtype = DTYPES.get(name, torch.float32)
    save_file({k: v.to(dtype).contiguous() for k, v in state.items()}, folder / f"{name}.safetensors")
    return {k: v.to(dtype).float() for k, v in state.items()}


def adapted(model, targets, rank, alpha, **more):
    """MODEL with a random LoRA of peft's on the modules whose names end with one of TARGETS."""
    net = fresh(model)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights=False, **more)
    net.add_adapter(config)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_" in name:
                p.copy_(noise(*p.shape))
    return net, config


def text_state(model, net):
    state = get_peft_model_state_dict(net)
    return {own_name(model, k): v for k, v in state.items()}


def pair(module, rank, bare=None):
    """Random factors for MODULE, a linear layer or a convolution."""
    w = module.weight
    return noise(rank, *w.shape[1:]), noise(w.shape[0], rank, *[1] * (w.dim() - 2))


# ---- what diffusers writes itself, scaled by what it puts into the header, for all three parts ----
attention = ["to_q", "to_k", "to_v", "to_out.0"]
unet, c0 = adapted("xl", attention + ["conv1", "proj_in", "ff.net.0.proj"], 3, 6, rank_pattern={"conv1": 2})
text, c1 = adapted("text", ["q_proj", "out_proj", "fc1"], 2, 3)
text2, c2 = adapted("text2", ["k_proj", "fc2", "text_projection"], 2, 2)
meta = [c.to_dict() for c in (c0, c1, c2)]
for m in meta:
    m["target_modules"] = sorted(m["target_modules"])
StableDiffusionXLPipeline.save_lora_weights(
    folder, unet_lora_layers=get_peft_model_state_dict(unet),
    text_encoder_lora_layers=text_state("text", text), text_encoder_2_lora_layers=text_state("text2", text2),
    weight_name="diffusers.safetensors", unet_lora_adapter_metadata=meta[0],
    text_encoder_lora_adapter_metadata=meta[1], text_encoder_2_lora_adapter_metadata=meta[2],
)
record("diffusers", [deltas("xl", unet), deltas("text", text), deltas("text2", text2)], ["xl", "text", "text2"])

# ---- PEFT's own folder ----
net = get_peft_model(fresh("text"), LoraConfig(r=4, lora_alpha=6, target_modules=["v_proj", "fc2"],
                                               init_lora_weights=False, use_rslora=True))
net.save_pretrained(folder / "peft")
(folder / "peft" / "README.md").unlink(missing_ok=True)
record("peft", [{}, deltas("text", net)], ["unet", "text"])

# ---- kohya's: SD with LoCon, and SDXL in the names of the original checkpoint ----
def kohya(model, modules, rename, prefix):
    """One rank and alpha: with several, diffusers 0.42 gives some modules those of others."""
    net, state = fresh(model), {}
    for name in modules:
        key = prefix + rename(own_name(model, name)).replace(".", "_")
        state[f"{key}.lora_down.weight"], state[f"{key}.lora_up.weight"] = pair(net.get_submodule(name), 3)
        state[f"{key}.alpha"] = torch.tensor(1.25)
    return state


same = lambda name: name
first = "down_blocks.0.attentions.0.transformer_blocks.0"
sd_modules = [f"{first}.attn1.to_q", f"{first}.attn2.to_k", f"{first}.attn1.to_out.0", f"{first}.ff.net.0.proj",
              f"{first}.ff.net.2", "down_blocks.0.attentions.0.proj_in", "down_blocks.0.resnets.0.conv1",
              "down_blocks.0.downsamplers.0.conv", "up_blocks.1.resnets.1.conv_shortcut", "mid_block.resnets.0.time_emb_proj"]
te_modules = ["encoder.layers.0.self_attn.q_proj", "encoder.layers.1.self_attn.out_proj", "encoder.layers.1.mlp.fc2"]
state = write("kohya", kohya("unet", sd_modules, same, "lora_unet_") | kohya("text", te_modules, same, "lora_te_"))
loaded, alphas = StableDiffusionPipeline.lora_state_dict(dict(state))
net, te = fresh("unet"), fresh("text")
StableDiffusionPipeline.load_lora_into_unet(loaded, alphas, net)
StableDiffusionPipeline.load_lora_into_text_encoder(loaded, alphas, te, prefix="text_encoder")
record("kohya", [deltas("unet", net), deltas("text", te)], ["unet", "text"])
assert len(deltas("unet", net)) == len(sd_modules) and len(deltas("text", te)) == len(te_modules)

LDM = {
    "down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_v": "input_blocks.5.1.transformer_blocks.0.attn2.to_v",
    "down_blocks.1.attentions.0.proj_in": "input_blocks.4.1.proj_in",
    "down_blocks.0.resnets.1.conv1": "input_blocks.2.0.in_layers.2",
    "down_blocks.1.resnets.0.time_emb_proj": "input_blocks.4.0.emb_layers.1",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_k": "middle_block.1.transformer_blocks.0.attn1.to_k",
    "mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
    "up_blocks.0.attentions.2.transformer_blocks.0.ff.net.2": "output_blocks.2.1.transformer_blocks.0.ff.net.2",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
    "up_blocks.1.resnets.2.conv1": "output_blocks.5.0.in_layers.2",
    "time_embedding.linear_1": "time_embed.0",
}
te2_modules = ["text_model.encoder.layers.0.self_attn.out_proj", "text_model.encoder.layers.1.mlp.fc1", "text_projection"]
unet_state = kohya("xl", list(LDM), LDM.get, "lora_unet_")
text_states = kohya("text", te_modules, same, "lora_te1_") | kohya("text2", te2_modules, same, "lora_te2_")
stray = {"lora_unet_input_blocks_9_1_proj_in.lora_down.weight": noise(2, 8), "lora_unet_input_blocks_9_1_proj_in.lora_up.weight": noise(8, 2)}
state = write("kohya-xl", unet_state | text_states | stray)
state = {k: v for k, v in state.items() if k not in stray}
loaded, alphas = StableDiffusionXLPipeline.lora_state_dict(dict(state), unet_config=fresh("xl").config)
net, te, te2 = fresh("xl"), fresh("text"), fresh("text2")
StableDiffusionXLPipeline.load_lora_into_unet(loaded, alphas, net)
StableDiffusionXLPipeline.load_lora_into_text_encoder(loaded, alphas, te, prefix="text_encoder")
StableDiffusionXLPipeline.load_lora_into_text_encoder(loaded, alphas, te2, prefix="text_encoder_2")
record("kohya-xl", [deltas("xl", net), deltas("text", te), deltas("text2", te2)], ["xl", "text", "text2"],
       ["lora_unet_input_blocks_9_1_proj_in"])
assert [len(deltas("xl", net)), len(deltas("text", te)), len(deltas("text2", te2))] == [len(LDM), 3, 3]

# ---- diffusers' old one: attention processors ----
state, net = {}, fresh("unet")
for name, old in [("attn1.to_q", "attn1.processor.to_q_lora"), ("attn2.to_v", "attn2.processor.to_v_lora"),
                  ("attn1.to_out.0", "attn1.processor.to_out_lora")]:
    down, up = pair(net.get_submodule(f"{first}.{name}"), 3)
    state |= {f"unet.{first}.{old}.down.weight": down, f"unet.{first}.{old}.up.weight": up}
te = fresh("text")
for name, old in [("q_proj", "to_q_lora"), ("out_proj", "to_out_lora")]:
    down, up = pair(te.get_submodule(f"encoder.layers.1.self_attn.{name}"), 2)
    path = f"text_encoder.text_model.encoder.layers.1.self_attn.{old}"
    state |= {f"{path}.down.weight": down, f"{path}.up.weight": up}
down, up = pair(te.get_submodule("encoder.layers.0.mlp.fc1"), 2)
path = "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer"
state |= {f"{path}.down.weight": down, f"{path}.up.weight": up}
write("diffusers-old", state)
StableDiffusionPipeline.load_lora_into_unet(dict(state), None, net)
StableDiffusionPipeline.load_lora_into_text_encoder(dict(state), None, te, prefix="text_encoder")
record("diffusers-old", [deltas("unet", net), deltas("text", te)], ["unet", "text"])
assert [len(deltas("unet", net)), len(deltas("text", te))] == [3, 3]

# ---- LyCORIS: a core for the kernel, LoHa, LoKr, whole differences ----
conv, point, line = "down_blocks.1.resnets.0.conv1", "down_blocks.0.attentions.0.proj_out", f"{first}.attn1.to_v"
net = fresh("unet")
out, inner = net.get_submodule(conv).weight.shape[:2]
down, mid, up = noise(2, inner, 1, 1), noise(3, 2, 3, 3), noise(out, 3, 1, 1)
key = "lora_unet_" + conv.replace(".", "_")
state = {f"{key}.lora_down.weight": down, f"{key}.lora_mid.weight": mid, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1.0)}
# LyCORIS' rebuild_tucker, as it stands in lycoris/functional/general.py
locon = torch.einsum("n m k l, i n, m j -> i j k l", mid, up.flatten(1), down.flatten(1)) * (1 / 2)
diff = noise(*net.get_submodule(line).weight.shape)
key = "lora_unet_" + line.replace(".", "_")
state[f"{key}.diff"] = diff
key = "lora_unet_" + point.replace(".", "_")
state |= {f"{key}.diff_b": torch.zeros(4), f"{key}.lora_down.weight": noise(2, 4), f"{key}.lora_up.weight": noise(4, 2)}
low = state[f"{key}.lora_up.weight"] @ state[f"{key}.lora_down.weight"]
write("locon", state)
record("locon", [{conv + ".weight": locon, line + ".weight": diff, point + ".weight": low}], ["unet"])

for kind, config in [("loha", LoHaConfig), ("lokr", LoKrConfig)]:
    expected, state = {}, {}
    for i, (modules, effective) in enumerate([([conv, line, point], False), (["mid_block.resnets.0.conv2"], True),
                                              ([f"{first}.ff.net.0.proj", "mid_block.attentions.0.transformer_blocks.0.ff.net.2"], False)]):
        # Ranks so small that each factor comes as a product, with and without a core.
        rank = [1, 2, 3][i] if kind == "loha" else 1
        more = dict(decompose_factor=[2, 2, -1][i], decompose_both=i == 2) if kind == "lokr" else {}
        net = get_peft_model(fresh("unet"), config(r=rank, alpha=rank * 0.75, target_modules=modules, init_weights=False,
                                                   use_effective_conv2d=effective, **more))
        with torch.no_grad():
            for name, p in net.named_parameters():
                if "hada_" in name or "lokr_" in name:
                    p.copy_(noise(*p.shape))
                    path, slot = name.removeprefix("base_model.model.").rsplit(f".{kind.replace('loha', 'hada')}_", 1)
                    key = "lora_unet_" + path.replace(".", "_")
                    state[f"{key}.{kind.replace('loha', 'hada')}_{slot.removesuffix('.default')}"] = p.detach().clone()
                    state[f"{key}.alpha"] = torch.tensor(rank * 0.75)
        for name, delta in deltas("unet", net).items():
            # Where both factors are whole, LyCORIS has no scale: peft's does.
            key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            whole = f"{key}.lokr_w1" in state and f"{key}.lokr_w2" in state
            expected[name] = delta / 0.75 if whole else delta
    print(kind, sorted({k.rsplit(".", 1)[1] for k in state}))
    write(kind, state)
    record(kind, [expected], ["unet"])

# ---- Flux: diffusers', and the names of Black Forest Labs, where several modules are one ----
transformer, config = adapted("flux", ["attn.to_q", "attn.add_v_proj", "attn.to_out.0", "proj_mlp", "proj_out", "norm1.linear",
                                       "ff_context.net.2", "context_embedder"], 2, 2)
FluxPipeline.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(transformer), weight_name="flux-diffusers.safetensors")
record("flux-diffusers", [deltas("flux", transformer)], ["flux"])

C = 18
FUSED = {  # by Black Forest Labs' name: the modules, outputs and inputs
    "double_blocks.0.img_attn.qkv": ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k", "transformer_blocks.0.attn.to_v"],
    "double_blocks.1.txt_attn.qkv": ["transformer_blocks.1.attn.add_q_proj", "transformer_blocks.1.attn.add_k_proj", "transformer_blocks.1.attn.add_v_proj"],
    "double_blocks.1.img_attn.proj": ["transformer_blocks.1.attn.to_out.0"],
    "double_blocks.0.txt_mlp.2": ["transformer_blocks.0.ff_context.net.2"],
    "double_blocks.0.img_mod.lin": ["transformer_blocks.0.norm1.linear"],
    "single_blocks.1.linear1": [f"single_transformer_blocks.1.{m}" for m in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")],
    "single_blocks.0.linear2": ["single_transformer_blocks.0.proj_out"],
    "single_blocks.0.modulation.lin": ["single_transformer_blocks.0.norm.linear"],
    "final_layer.adaLN_modulation.1": ["norm_out.linear"],
    "final_layer.linear": ["proj_out"],
    "img_in": ["x_embedder"],
    "vector_in.in_layer": ["time_text_embed.text_embedder.linear_1"],
    "guidance_in.out_layer": ["time_text_embed.guidance_embedder.linear_2"],
}


def flux_fused(names, form):
    """A file in the names of Black Forest Labs, and what it adds to each weight: B A of all rows, then cut."""
    net, state, expected = fresh("flux"), {}, {}
    for i, (bfl, modules) in enumerate(names.items()):
        weights = [net.get_submodule(m).weight for m in modules]
        a, b = noise(2, weights[0].shape[1]), noise(sum(w.shape[0] for w in weights), 2)
        scale = form(state, bfl, a, b, i)
        dtype = DTYPES["flux-kohya"] if form is as_kohya else torch.float32
        whole = b.to(dtype).float() @ a.to(dtype).float() * scale
        if bfl == "final_layer.adaLN_modulation.1":
            whole = torch.cat(whole.chunk(2)[::-1])
        for module, rows in zip(modules, whole.split([w.shape[0] for w in weights])):
            expected[f"{module}.weight"] = rows
    return state, expected


def as_kohya(state, bfl, a, b, i):
    key = "lora_unet_" + bfl.replace(".", "_")
    state |= {f"{key}.lora_down.weight": a, f"{key}.lora_up.weight": b}
    if i % 3 and "final_layer" not in bfl:  # diffusers leaves those alphas out
        state[f"{key}.alpha"] = torch.tensor(3.0)
        return 1.5
    return 1.0


def as_comfy(state, bfl, a, b, i):
    state |= {f"diffusion_model.{bfl}.lora_A.weight": a, f"diffusion_model.{bfl}.lora_B.weight": b}
    return 1.0


state, expected = flux_fused(FUSED, as_kohya)
state |= kohya("text", te_modules, same, "lora_te1_")
write("flux-kohya", state)
# diffusers knows the sizes of the real model alone for linear1; the rest goes through it.
loaded = {k: v.to(DTYPES["flux-kohya"]).float() for k, v in state.items() if "linear1" not in k}
loaded = FluxPipeline.lora_state_dict(loaded)
net, te = fresh("flux"), fresh("text")
net.load_lora_adapter({k if k.startswith(("transformer.", "text_encoder.")) else f"transformer.{k}": v for k, v in loaded.items()},
                      prefix="transformer", network_alphas=None)
for name, delta in deltas("flux", net).items():
    # diffusers drops the alphas of what is outside of blocks, except for guidance.
    assert torch.allclose(delta, expected[name], atol=1e-5), name
assert len(deltas("flux", net)) == len(expected) - 4
FluxPipeline.load_lora_into_text_encoder(loaded, None, te, prefix="text_encoder")
record("flux-kohya", [expected, deltas("text", te)], ["flux", "text"])
assert len(deltas("text", te)) == len(te_modules)

state, expected = flux_fused(FUSED, as_comfy)
write("flux-comfy", state)
record("flux-comfy", [expected], ["flux"])

# XLabs' attention processors
state, net = {}, fresh("flux")
for key, modules in {
    "double_blocks.0.processor.qkv_lora1": ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k", "transformer_blocks.0.attn.to_v"],
    "double_blocks.1.processor.qkv_lora2": ["transformer_blocks.1.attn.add_q_proj", "transformer_blocks.1.attn.add_k_proj", "transformer_blocks.1.attn.add_v_proj"],
    "double_blocks.0.processor.proj_lora1": ["transformer_blocks.0.attn.to_out.0"],
    "double_blocks.0.processor.proj_lora2": ["transformer_blocks.0.attn.to_add_out"],
}.items():
    weights = [net.get_submodule(m).weight for m in modules]
    state |= {f"{key}.down.weight": noise(2, weights[0].shape[1]), f"{key}.up.weight": noise(sum(w.shape[0] for w in weights), 2)}
write("flux-xlabs", state)
net.load_lora_adapter(FluxPipeline.lora_state_dict(dict(state)), prefix="transformer")
record("flux-xlabs", [deltas("flux", net)], ["flux"])
assert len(deltas("flux", net)) == 8

# ---- what comes out of Flux with two of them, at strengths ----
net, strengths = fresh("flux"), {"flux-kohya": 0.4, "flux-diffusers": -0.25}
names, inputs = dict(net.named_parameters()), load_file(g.ROOT / "flux" / "dev" / "golden.safetensors")
batch = len(inputs["timestep"])
ids = FluxPipeline._prepare_latent_image_ids(batch, 3, 5, "cpu", torch.float32)
with torch.no_grad():
    for file, strength in strengths.items():
        for name, delta in kept[file][0].items():
            names[name] += strength * delta
    sample = net(
        hidden_states=inputs["packed"], encoder_hidden_states=inputs["text"], pooled_projections=inputs["pooled"],
        timestep=inputs["timestep"], guidance=inputs["guidance"], img_ids=ids, txt_ids=torch.zeros(7, 3), return_dict=False,
    )[0]
print("moved by", (sample - inputs["sample"]).abs().max().item(), "of", sample.abs().max().item())
arrays["sample"] = sample
shapes = {m: {own_name(m, k): list(v.shape) for k, v in fresh(m).state_dict().items() if k.endswith(".weight")}
          for m in ("unet", "xl", "text", "text2", "flux")}
g.save(
    "picture-lora",
    {"source": "diffusers and peft in float32", "versions": g.versions("diffusers", "peft", "transformers"),
     "strengths": strengths, "files": golden},
    arrays,
)
(folder / "shapes.json").write_text(json.dumps(shapes, separators=(",", ":")) + "\n")
