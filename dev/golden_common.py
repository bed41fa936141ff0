"""What the golden scripts share: writing a golden, and reading the two GGUFs into float32 transformers models.

The GGUF is dequantized by the `gguf` package, so the weights are independent of Hob's own decoding;
the mathematics is that of transformers in float32 with eager attention.
"""
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

ROOT = Path(__file__).resolve().parent.parent / "tests" / "golden"
THREADS = int(os.environ.get("GOLDEN_THREADS", "1"))
torch.set_num_threads(THREADS)
torch.use_deterministic_algorithms(True)


def versions(*packages):
    """The versions that made a golden, for its json."""
    out = {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
    return out | {p: version(p) for p in packages}


def save(folder, meta, arrays):
    """Write FOLDER/golden.json and, when there are arrays, FOLDER/golden.safetensors (all F32)."""
    folder = ROOT / folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "golden.json").write_text(dump(meta) + "\n", encoding="utf-8")
    if arrays:
        tensors = {}
        for name, value in arrays.items():
            value = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
            value = np.ascontiguousarray(value, dtype=np.float32)
            assert np.isfinite(value).all(), f"{folder}: {name} has a value that is not finite"
            tensors[name] = value
        save_file(tensors, folder / "golden.safetensors")
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{folder.relative_to(ROOT)}: {size / 1024:.0f} KiB")


def dump(value, indent=0):
    """JSON with a line per key, but lists of plain numbers on one line."""
    pad = "  " * (indent + 1)
    if isinstance(value, dict) and value:
        rows = [f"{pad}{json.dumps(k)}: {dump(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + "  " * indent + "}"
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        return "[\n" + ",\n".join(pad + dump(v, indent + 1) for v in value) + "\n" + "  " * indent + "]"
    return json.dumps(value, ensure_ascii=False)


# ---- from GGUF to transformers ----

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LLAMA_NAMES = LAYER_NAMES | {"ffn_norm": "post_attention_layernorm"}
GEMMA3_NAMES = LAYER_NAMES | {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def hf_name(name, layer_names):
    """The name in the original checkpoint of a GGUF tensor."""
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    if name == "output.weight":
        return "lm_head.weight"
    _, layer, part, weight = name.split(".")
    return f"model.layers.{layer}.{layer_names[part]}.{weight}"


def unpermute(w, heads):
    """Undo the converter's change of the rows of q and k: from interleaved pairs to two halves per head."""
    return w.reshape(heads, w.shape[0] // heads // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def metadata(path):
    reader = gguf.GGUFReader(path)
    return reader, {k: f.contents() for k, f in reader.fields.items()}


def load_model(path):
    """The GGUF's metadata, and its model in float32."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

    reader, meta = metadata(path)
    arch = meta["general.architecture"]
    get = lambda key: meta[f"{arch}.{key}"]
    heads, kv_heads = get("attention.head_count"), get("attention.head_count_kv")
    common = dict(
        vocab_size=len(meta["tokenizer.ggml.tokens"]),
        hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=get("context_length"),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=not any(t.name == "output.weight" for t in reader.tensors),
        attn_implementation="eager",
    )
    if arch == "llama":
        config = LlamaConfig(
            **common,
            head_dim=get("rope.dimension_count"),
            rope_parameters={"rope_type": "default", "rope_theta": get("rope.freq_base")},
        )
        build, names = LlamaForCausalLM, LLAMA_NAMES
    elif arch == "gemma3":
        # The 270M model: five layers in six look back over the window; scale = head_dim^-0.5.
        layers = get("block_count")
        config = Gemma3TextConfig(
            **common,
            head_dim=get("attention.key_length"),
            query_pre_attn_scalar=get("attention.key_length"),
            sliding_window=get("attention.sliding_window"),
            layer_types=[
                "full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers)
            ],
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": get("rope.freq_base")},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        )
        build, names = Gemma3ForCausalLM, GEMMA3_NAMES
    else:
        raise SystemExit(f"{path}: architecture {arch} is not known here")
    state = {}
    for t in reader.tensors:
        w = gguf.dequantize(t.data, t.tensor_type).astype(np.float32)
        w = w.reshape([int(n) for n in reversed(t.shape)])
        if arch == "llama" and ".attn_q." in t.name:
            w = unpermute(w, heads)
        if arch == "llama" and ".attn_k." in t.name:
            w = unpermute(w, kv_heads)
        if arch == "gemma3" and "norm" in t.name:
            w = w - np.float32(1)  # the converter stored 1 + w
        state[hf_name(t.name, names)] = torch.from_numpy(np.ascontiguousarray(w))
    with torch.device("meta"):
        model = build(config)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    # Buffers (inverse frequencies, the embedding's scale) are not in the file: build them for real.
    small = {"num_hidden_layers": 6, "vocab_size": 8, "layer_types": (config.to_dict().get("layer_types") or [])[:6] or None}
    fresh = build(type(config)(**(config.to_dict() | small)))
    model.load_state_dict(state, strict=True, assign=True)
    buffers = dict(fresh.named_buffers())
    for name, _ in list(model.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner).register_buffer(leaf, buffers[name].clone(), persistent=False)
    assert all(not p.is_meta for p in model.parameters())
    return meta, model.eval().float()


# ---- tokenizers, built from the GGUF's vocabulary ----


def load_tokenizer(meta):
    """The tokenizer of the GGUF: byte-level BPE (SmolLM's pre-tokenizer), or SentencePiece BPE (Gemma's)."""
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    vocab = {t: i for i, t in enumerate(tokens)}
    special = [AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == 3]
    if meta["tokenizer.ggml.model"] == "gpt2":
        assert meta["tokenizer.ggml.pre"] == "smollm"
        merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
        tok = Tokenizer(models.BPE(vocab, merges))
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
        tok.decoder = decoders.ByteLevel()
    else:
        assert meta["tokenizer.ggml.add_space_prefix"] is False
        # A pair of pieces merges when their joint text is a piece; the higher score goes first. Runs of
        # spaces and newlines and HTML tags are user-defined (type 4): cut out of the text beforehand.
        scores = meta["tokenizer.ggml.scores"]
        merges = []
        for piece, i in vocab.items():
            if types[i] != 1:
                continue
            for cut in range(1, len(piece)):
                a, b = piece[:cut], piece[cut:]
                if a in vocab and b in vocab:
                    merges.append((-scores[i], vocab[a], vocab[b], (a, b)))
        merges.sort()
        model = models.BPE(vocab, [m[3] for m in merges], byte_fallback=True, fuse_unk=True, unk_token="<unk>")
        tok = Tokenizer(model)
        tok.normalizer = normalizers.Replace(" ", "▁")
        tok.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    tok.add_special_tokens(special)
    tok.add_tokens([AddedToken(t, normalized=False) for t, k in zip(tokens, types) if k == 4])
    return tok


def encode(tok, meta, text):
    """Token ids of TEXT, with the model's BOS where the file asks for one; checks that they decode to TEXT."""
    ids = tok.encode(text, add_special_tokens=False).ids
    assert tok.decode(ids, skip_special_tokens=False) == text, text[:80]
    return [meta["tokenizer.ggml.bos_token_id"]] * bool(meta.get("tokenizer.ggml.add_bos_token")) + ids


def logits(model, ids):
    """(T, V) float32 logits of one sequence in one pass."""
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0]


def nll(rows, targets):
    """Negative log likelihood of each target under its row of logits, accumulated in float64."""
    rows = rows.double()
    return torch.logsumexp(rows, -1) - rows.gather(-1, torch.as_tensor(targets)[:, None])[:, 0]


# ---- every layer of a forward, in few numbers ----

SAMPLES = 16  # of each layer


def trace(model):
    """The outputs of all layers with weights, filled in by the next forward."""
    seen = {}

    def hook(name):
        return lambda _, __, out: seen.__setitem__(name, out.detach().clone())

    handles = [
        m.register_forward_hook(hook(n))
        for n, m in model.named_modules()
        if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear, torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.PReLU))
    ]
    return seen, handles


def digest(seen):
    """Of each layer the largest, the sum, and SAMPLES numbers from first to last."""
    rows = []
    for x in seen.values():
        x = x.flatten()
        at = torch.arange(SAMPLES) * (x.numel() - 1) // (SAMPLES - 1)
        rows.append(torch.cat([x.abs().max()[None], x.double().sum()[None].to(x.dtype), x[at]]))
    return torch.stack(rows)
