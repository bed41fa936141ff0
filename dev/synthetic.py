#!/usr/bin/env python3
"""Writes a GGUF of a real model's shapes with random weights, to measure speed and memory where no real one is at hand.

  dev/synthetic.py 1b q4_k_m out.gguf --tokenizer SmolLM2-135M-Instruct.Q4_1.gguf

The shapes are those of SmolLM2 135M (whose widths suit q8_0), Llama 3.2 1B and Llama 3.1 8B, and, as moe-a, six layers
of Qwen3 30B-A3B with fewer tokens (2.2 GB in q4_k_m, of which a token reads 0.2), all with a context of 131,072 tokens;
which tensors of Q4_K_M have more bits is as llama.cpp's recipe has it. The tokenizer is another
GGUF's, filled up with unused tokens. Weights have a deviation of about 0.02 and repeat from a store of random blocks:
speed does not depend on them, and no more memory is used than twice the largest tensor. Needs pip's gguf.
"""
import argparse

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

SHAPES = {  # width, inner width, heads, heads of keys and values, layers, tokens, whether the output is the embedding
    "135m": (576, 1536, 9, 3, 30, 49152, True),
    "1b": (2048, 8192, 32, 8, 16, 128256, True),
    "8b": (4096, 14336, 32, 8, 32, 128256, False),
    "moe-a": (2048, 768, 32, 4, 6, 49152, False),
}
MOE = {"moe-a": (128, 128, 8)}  # width of a head, experts, how many a token takes
# of a kind: the format of most tensors, that of the output matrix, the number GGUF has for the kind
KINDS = {"q4_k_m": (T.Q4_K, T.Q6_K, 15), "q4_0": (T.Q4_0, T.Q6_K, 2), "q8_0": (T.Q8_0, T.Q8_0, 7)}
BLOCKS = 1 << 16  # in a store

rng = np.random.default_rng(0)


def f16(x):
    return (rng.uniform(0.5, 1.5, (BLOCKS, 1)) * x).astype("<f2").view(np.uint8)


def bits(n):
    return rng.integers(0, 256, (BLOCKS, n), dtype=np.uint8)


def store(t, deviation=0.02):
    """Random blocks of a format, each as ggml lays it out; the factors give the deviation."""
    x = deviation / 0.02
    match t:
        case T.Q4_0:
            return np.hstack([f16(0.0043 * x), bits(16)])
        case T.Q8_0:
            return np.hstack([f16(0.00027 * x), bits(32)])
        case T.Q4_K:
            return np.hstack([f16(0.00014 * x), f16(0.00105 * x), bits(12), bits(128)])
        case T.Q6_K:
            scales = rng.integers(-16, 17, (BLOCKS, 16), dtype=np.int8).view(np.uint8)
            return np.hstack([bits(128), bits(64), scales, f16(0.00011 * x)])
        case T.F16:
            return (rng.standard_normal((BLOCKS, 32), np.float32) * deviation).astype("<f2").view(np.uint8)


def tensors(shape, kind):
    """Name, format and dimensions of each tensor."""
    width, inner, heads, kv_heads, layers, vocab, tied = SHAPES[shape]
    most, output, _ = KINDS[kind]
    head, experts, _ = MOE.get(shape, (width // heads, 0, 0))
    keys, queries = kv_heads * head, heads * head
    yield "token_embd.weight", output if tied else most, (vocab, width)
    if not tied:
        yield "output.weight", output, (vocab, width)
    yield "output_norm.weight", T.F32, (width,)
    if not experts:
        yield "rope_freqs.weight", T.F32, (head // 2,)
    for i in range(layers):
        finer = kind == "q4_k_m" and (i < layers // 8 or i >= layers * 7 // 8 or (i - layers // 8) % 3 == 2)
        more = T.Q6_K if finer else most
        yield f"blk.{i}.attn_norm.weight", T.F32, (width,)
        yield f"blk.{i}.attn_q.weight", most, (queries, width)
        yield f"blk.{i}.attn_k.weight", most, (keys, width)
        yield f"blk.{i}.attn_v.weight", more, (keys, width)
        yield f"blk.{i}.attn_output.weight", most, (width, queries)
        yield f"blk.{i}.ffn_norm.weight", T.F32, (width,)
        if experts:
            yield f"blk.{i}.attn_q_norm.weight", T.F32, (head,)
            yield f"blk.{i}.attn_k_norm.weight", T.F32, (head,)
            yield f"blk.{i}.ffn_gate_inp.weight", T.F32, (experts, width)
            yield f"blk.{i}.ffn_gate_exps.weight", most, (experts, inner, width)
            yield f"blk.{i}.ffn_up_exps.weight", most, (experts, inner, width)
            yield f"blk.{i}.ffn_down_exps.weight", more, (experts, width, inner)
            continue
        yield f"blk.{i}.ffn_gate.weight", most, (inner, width)
        yield f"blk.{i}.ffn_up.weight", most, (inner, width)
        yield f"blk.{i}.ffn_down.weight", more, (width, inner)


def packed(t, dims):
    """Dimensions and type of the array that holds a tensor."""
    if t == T.F32:
        return dims, np.dtype("<f4")
    block, size = gguf.GGML_QUANT_SIZES[t]
    if dims[-1] % block:
        raise SystemExit(f"rows of {dims[-1]} are no whole blocks of {t.name}")
    return (*dims[:-1], dims[-1] // block * size), np.dtype(np.uint8)


def write(shape, kind, out, tokenizer):
    width, inner, heads, kv_heads, layers, vocab, _ = SHAPES[shape]
    head, experts, used = MOE.get(shape, (width // heads, 0, 0))
    w = gguf.GGUFWriter(out, "qwen3moe" if experts else "llama")
    w.add_name(f"Synthetic {'Qwen' if experts else 'Llama'} {shape} {kind}")
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(used)
        w.add_expert_feed_forward_length(inner)
        w.add_key_length(head)
        w.add_value_length(head)
    w.add_vocab_size(vocab)
    w.add_context_length(131072)
    w.add_embedding_length(width)
    w.add_feed_forward_length(inner)
    w.add_block_count(layers)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_rope_dimension_count(head)
    w.add_rope_freq_base(500000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_quantization_version(2)
    w.add_file_type(KINDS[kind][2])
    fields = gguf.GGUFReader(tokenizer).fields

    def of(name):
        return fields[f"tokenizer.ggml.{name}"].contents()

    unused = vocab - len(of("tokens"))
    w.add_tokenizer_model(of("model"))
    w.add_tokenizer_pre(of("pre"))
    w.add_token_list(of("tokens") + [f"<unused{i}>" for i in range(unused)])
    w.add_token_types(of("token_type") + [gguf.TokenType.UNUSED] * unused)
    w.add_token_merges(of("merges"))
    w.add_bos_token_id(of("bos_token_id"))
    w.add_eos_token_id(of("eos_token_id"))
    w.add_add_bos_token(False)
    for name, t, dims in tensors(shape, kind):
        lies, dtype = packed(t, dims)
        w.add_tensor_info(name, lies, dtype, int(np.prod(lies)) * dtype.itemsize, raw_dtype=t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    stores = {}
    for name, t, dims in tensors(shape, kind):
        lies, dtype = packed(t, dims)
        if t == T.F32:
            # Tokens choose their experts differently; all else are norms.
            chooses = "gate_inp" in name
            w.write_tensor_data(rng.standard_normal(lies, dtype) if chooses else np.ones(lies, dtype))
            continue
        if t not in stores:
            stores[t] = store(t)
        turned = np.roll(stores[t], int(rng.integers(BLOCKS)), axis=0)
        w.write_tensor_data(np.resize(turned.reshape(-1), lies))
    w.close()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("shape", choices=SHAPES)
    p.add_argument("kind", choices=KINDS)
    p.add_argument("out")
    p.add_argument("--tokenizer", required=True, metavar="GGUF")
    a = p.parse_args()
    write(a.shape, a.kind, a.out, a.tokenizer)


if __name__ == "__main__":
    main()
