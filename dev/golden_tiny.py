#!/usr/bin/env python3
"""Random tiny models as Hugging Face folders, with the logits that transformers computes in float32.

usage: golden_tiny.py [NAME…]      (all, where none is named)
writes tests/golden/tiny/NAME/{config.json,model.safetensors,golden.json,golden.safetensors}; the layout:
tests/golden/README.md
"""
import json
import shutil
import sys

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import golden_common as g

VOCAB, TOKENS = 96, 24
BASE = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
    attn_implementation="eager",
)
THETA = 10000.0


def llama(rope=None, **other):
    rope = {"rope_type": "default", "rope_theta": THETA} | (rope or {})
    return LlamaForCausalLM, LlamaConfig(**(BASE | other), rope_parameters=rope)


def mistral():
    rope = {"rope_type": "default", "rope_theta": THETA}
    return MistralForCausalLM, MistralConfig(**BASE, sliding_window=8, rope_parameters=rope)


def gemma3(layer_types, full_rope=None):
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": 1000000.0} | (full_rope or {}),
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
    sizes = dict(
        num_hidden_layers=len(layer_types), intermediate_size=32, tie_word_embeddings=True, rms_norm_eps=1e-6,
        bos_token_id=2, eos_token_id=1, pad_token_id=0,
    )
    return Gemma3ForCausalLM, Gemma3TextConfig(
        **(BASE | sizes), layer_types=layer_types, sliding_window=8, query_pre_attn_scalar=24, rope_parameters=rope
    )


def of(build, settings, **other):
    rope = {"rope_type": "default", "rope_theta": THETA}
    return build, settings(**(BASE | other), rope_parameters=rope)


S, F = "sliding_attention", "full_attention"
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)
MOE = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=16)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
MODELS = {
    "llama": llama(),
    "llama3-rope": llama(LLAMA3, max_position_embeddings=512),
    "llama-linear-rope": llama(dict(rope_type="linear", factor=4.0)),
    "llama-yarn": llama(YARN),
    "llama-bias": llama(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama-bf16-sharded": llama(),
    "mistral": mistral(),
    "gemma3": gemma3([S, S, S, S, S, F, S]),
    "gemma3-linear-rope": gemma3([S, F], dict(rope_type="linear", factor=8.0)),
    "qwen2": of(Qwen2ForCausalLM, Qwen2Config, tie_word_embeddings=True),
    "qwen2-window": of(
        Qwen2ForCausalLM, Qwen2Config, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "qwen3": of(Qwen3ForCausalLM, Qwen3Config),
    "qwen3-moe": of(Qwen3MoeForCausalLM, Qwen3MoeConfig, norm_topk_prob=True, **MOE),
    "qwen3-moe-mixed": of(Qwen3MoeForCausalLM, Qwen3MoeConfig, norm_topk_prob=False, decoder_sparse_step=2, **MOE),
    "mixtral": of(MixtralForCausalLM, MixtralConfig, num_local_experts=4, num_experts_per_tok=2),
}


def randomize(model, seed):
    """Weights large enough that every part of the model moves the logits, norms and biases included."""
    gen = torch.Generator().manual_seed(seed)
    one = 0.0 if model.config.model_type.startswith("gemma") else 1.0
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=gen)
            if "norm" in name:
                p.copy_(one + 0.2 * noise)
            elif p.dim() == 1:
                p.copy_(0.3 * noise)
            elif "embed" in name:
                p.copy_(0.5 * noise)
            else:
                p.copy_(noise * (2.0 / p.shape[-1] ** 0.5))


def old_config(config):
    """The same settings under the keys that transformers 4 wrote, as most checkpoints still have them."""
    config = dict(config)
    rope = config.pop("rope_parameters")
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    config["rope_theta"] = rope["rope_theta"]
    scaling = {k: v for k, v in rope.items() if k != "rope_theta"}
    config["rope_scaling"] = None if rope["rope_type"] == "default" else scaling
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.50.0"
    return config


PLAIN = {  # what each model's logits must differ from: the same weights without its speciality
    "llama3-rope": dict(rope_parameters={"rope_type": "default", "rope_theta": THETA}),
    "llama-linear-rope": dict(rope_parameters={"rope_type": "default", "rope_theta": THETA}),
    "llama-yarn": dict(rope_parameters={"rope_type": "default", "rope_theta": THETA}),
    "mistral": dict(sliding_window=None),
    "gemma3": dict(sliding_window=64),
    "qwen2-window": dict(sliding_window=64),
    "qwen3-moe": dict(norm_topk_prob=False),
    "qwen3-moe-mixed": dict(norm_topk_prob=True),
    "mixtral": dict(num_experts_per_tok=3),
    "gemma3-linear-rope": dict(
        rope_parameters={k: {"rope_type": "default", "rope_theta": v} for k, v in ((F, 1e6), (S, 1e4))}
    ),
}


def effect(build, config, change, model, ids, rows):
    """The largest change of a logit when the speciality is taken away."""
    plain = build(type(config)(**(config.to_dict() | change), attn_implementation="eager")).eval()
    plain.load_state_dict(model.state_dict())
    return (g.logits(plain, ids) - rows).abs().max().item()


def choices(model, ids):
    """The least margin by which an expert was chosen: another rounding must not choose another."""
    least, hooks = [], []
    for module in model.modules():
        if type(module).__name__.endswith("TopKRouter"):
            k = module.top_k
            def hook(_, __, out, k=k):
                top = out[0].sort(-1, descending=True).values
                least.append((top[:, k - 1] - top[:, k]).min().item())
            hooks.append(module.register_forward_hook(hook))
    g.logits(model, ids)
    for hook in hooks:
        hook.remove()
    return min(least, default=None)


for seed, (name, (build, config)) in enumerate(MODELS.items()):
    if sys.argv[1:] and name not in sys.argv[1:]:
        continue
    folder = g.ROOT / "tiny" / name
    shutil.rmtree(folder, ignore_errors=True)
    sharded = name == "llama-bf16-sharded"
    model = build(config).eval()
    randomize(model, 0 if sharded else seed)
    if sharded:
        model = model.to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="40KB" if sharded else "1GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) == (2 if sharded else 1), shards
    written = json.loads((folder / "config.json").read_text())
    (folder / "config-transformers4.json").write_text(json.dumps(old_config(written), indent=2) + "\n")
    # Read it back, so that the golden is of what lies on disk.
    model = build.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(3, VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(100 + seed)).tolist()
    rows = g.logits(model, ids)
    margin = choices(model, ids)
    if margin is not None:
        assert margin > 5e-3, f"{name}: experts are chosen by {margin}"
        print(name, "chooses experts by", margin)
    change = PLAIN.get(name)
    if change:
        difference = effect(build, config, change, model, ids, rows)
        assert difference > 0.1, f"{name}: nothing special in it"
        print(name, "differs from the plain model by", difference)
    g.save(
        f"tiny/{name}",
        {
            "source": "transformers in float32, attention eager, one pass with an empty cache",
            "versions": g.versions("transformers"),
            "vocab": VOCAB,
            "ids": ids,
            "argmax": rows.argmax(-1).tolist(),
        },
        {"logits": rows},
    )
    print("   spread of the logits", rows.std().item(), "parameters", sum(p.numel() for p in model.parameters()))
