#!/usr/bin/env python3
"""Which format llama.cpp gives each weight of small random models in its mixes (pip install llama-cpp-python gguf).

Writes tests/golden/quants/golden.json: by model the configuration's fields that decide, the weights' dimensions by
their names in the original checkpoint with `{}` for the layer, and by mix and name the formats from the first layer to
the last, equal runs as `format*count`.
"""
import itertools
import json
import pathlib
import re
import tempfile

import gguf
import llama_cpp
import numpy as np

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/quants/golden.json"
MIXES = {
    "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13,
    "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18,
}
VOCAB = 64
# architecture, model_type; width, inner width, layers, heads, key heads, width of a head; experts; tied
MODELS = {
    "llama": ("llama", "llama", 256, 512, 20, 8, 2, 32, 0, False),
    "odd": ("llama", "llama", 96, 288, 17, 3, 3, 32, 0, True),
    "70b": ("llama", "llama", 256, 256, 80, 8, 1, 32, 0, False),
    "qwen2-70b": ("qwen2", "qwen2", 256, 256, 80, 8, 1, 32, 0, False),
    "mixtral": ("llama", "mixtral", 256, 512, 24, 8, 2, 32, 8, False),
    "qwen3-moe": ("qwen3moe", "qwen3_moe", 256, 512, 25, 8, 4, 32, 16, False),
    "gemma3": ("gemma3", "gemma3_text", 320, 512, 18, 4, 1, 256, 0, True),
}
rng = np.random.default_rng(3)


def tensors(model):
    """GGUF's name, the original name, dimensions; a vector's are one number."""
    arch, kind, width, inner, layers, heads, keys, d, experts, tied = MODELS[model]
    yield "token_embd.weight", "model.embed_tokens.weight", (VOCAB, width)
    if not tied:
        yield "output.weight", "lm_head.weight", (VOCAB, width)
    yield "output_norm.weight", "model.norm.weight", (width,)
    for i in range(layers):
        a, b = f"blk.{i}.", f"model.layers.{i}."
        yield a + "attn_norm.weight", b + "input_layernorm.weight", (width,)
        yield a + "attn_q.weight", b + "self_attn.q_proj.weight", (heads * d, width)
        yield a + "attn_k.weight", b + "self_attn.k_proj.weight", (keys * d, width)
        yield a + "attn_v.weight", b + "self_attn.v_proj.weight", (keys * d, width)
        yield a + "attn_output.weight", b + "self_attn.o_proj.weight", (width, heads * d)
        if kind == "qwen2":
            yield a + "attn_q.bias", b + "self_attn.q_proj.bias", (heads * d,)
            yield a + "attn_k.bias", b + "self_attn.k_proj.bias", (keys * d,)
            yield a + "attn_v.bias", b + "self_attn.v_proj.bias", (keys * d,)
        if kind in ("qwen3_moe", "gemma3_text"):
            yield a + "attn_q_norm.weight", b + "self_attn.q_norm.weight", (d,)
            yield a + "attn_k_norm.weight", b + "self_attn.k_norm.weight", (d,)
        if kind == "gemma3_text":
            yield a + "post_attention_norm.weight", b + "post_attention_layernorm.weight", (width,)
            yield a + "post_ffw_norm.weight", b + "post_feedforward_layernorm.weight", (width,)
            yield a + "ffn_norm.weight", b + "pre_feedforward_layernorm.weight", (width,)
        else:
            yield a + "ffn_norm.weight", b + "post_attention_layernorm.weight", (width,)
        if experts:
            m = b + ("block_sparse_moe" if kind == "mixtral" else "mlp")
            yield a + "ffn_gate_inp.weight", m + ".gate.weight", (experts, width)
            w = ("w1", "w3", "w2") if kind == "mixtral" else ("gate_proj", "up_proj", "down_proj")
            yield a + "ffn_gate_exps.weight", f"{m}.experts.{w[0]}.weight", (experts, inner, width)
            yield a + "ffn_up_exps.weight", f"{m}.experts.{w[1]}.weight", (experts, inner, width)
            yield a + "ffn_down_exps.weight", f"{m}.experts.{w[2]}.weight", (experts, width, inner)
        else:
            yield a + "ffn_gate.weight", b + "mlp.gate_proj.weight", (inner, width)
            yield a + "ffn_up.weight", b + "mlp.up_proj.weight", (inner, width)
            yield a + "ffn_down.weight", b + "mlp.down_proj.weight", (width, inner)


def pattern(name):
    return re.sub(r"layers\.\d+", "layers.{}", name)


def write(model, path):
    arch, _, width, inner, layers, heads, keys, d, experts, _ = MODELS[model]
    w = gguf.GGUFWriter(path, arch)
    w.add_vocab_size(VOCAB)
    w.add_context_length(4096)
    w.add_embedding_length(width)
    w.add_feed_forward_length(inner)
    w.add_block_count(layers)
    w.add_head_count(heads)
    w.add_head_count_kv(keys)
    w.add_key_length(d)
    w.add_value_length(d)
    w.add_rope_dimension_count(d)
    w.add_layer_norm_rms_eps(1e-5)
    if arch == "gemma3":
        w.add_sliding_window(512)
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(2)
        w.add_expert_feed_forward_length(inner)
    w.add_tokenizer_model("llama")
    w.add_token_list([f"t{i}" for i in range(VOCAB)])
    w.add_token_scores([0.0] * VOCAB)
    w.add_token_types([1] * VOCAB)
    for name, _, dims in tensors(model):
        # The converter keeps vectors and what chooses among experts in F32, and so does llama.cpp after it.
        wide = len(dims) == 1 or "ffn_gate_inp" in name
        w.add_tensor(name, (rng.standard_normal(dims) * 0.02).astype(np.float32 if wide else np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    golden = {"llama_cpp_python": llama_cpp.__version__, "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        for model, (_, kind, _, _, layers, heads, keys, _, experts, tied) in MODELS.items():
            source, out = f"{folder}/source.gguf", f"{folder}/out.gguf"
            write(model, source)
            config = {
                "model_type": kind, "num_hidden_layers": layers, "num_attention_heads": heads,
                "num_key_value_heads": keys, "tie_word_embeddings": tied,
            }
            if experts:
                config["num_local_experts" if kind == "mixtral" else "num_experts"] = experts
            mixes = {}
            for mix, number in MIXES.items():
                params = llama_cpp.llama_model_quantize_default_params()
                params.ftype, params.nthread = number, 2
                if llama_cpp.llama_model_quantize(source.encode(), out.encode(), params):
                    raise SystemExit(f"{model} in {mix}: llama.cpp refused")
                formats = {t.name: t.tensor_type.name for t in gguf.GGUFReader(out).tensors}
                mixes[mix] = {}
                for stored, name, _ in tensors(model):
                    mixes[mix].setdefault(pattern(name), []).append(formats[stored])
                for name, layers_of in mixes[mix].items():
                    runs = itertools.groupby(layers_of)
                    mixes[mix][name] = " ".join(f"{f}*{len(list(run))}" for f, run in runs)
            weights = {pattern(name): dims for _, name, dims in tensors(model)}
            golden["models"][model] = {"config": config, "weights": weights, "mixes": mixes}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(golden, separators=(",", ":"))
    OUT.write_text(text.replace('},"', '},\n"').replace('],"', '],\n"') + "\n")


if __name__ == "__main__":
    main()
