#!/usr/bin/env python3
"""What prompts become: token ids of CLIP and T5, and the text encoders' outputs for tiny random models.

usage: golden_prompts.py [WEBUI]
With WEBUI, a checkout of A1111's web UI (only its modules/prompt_parser.py and modules/sd_hijack_clip.py are run), writes
tests/golden/tokenizer/chunks.json; else writes tests/golden/tokenizer/{clip,t5}.json, small tokenizers of both kinds under small/ with small_prompts.json, and
tests/golden/text/{clip,clip-projection,t5,umt5}; the layout: tests/golden/README.md. Reads the vocabularies in
crates/io/data (dev/vocabularies.py) and tokenizer/corpus.json. Needs `sentencepiece` and `protobuf`.
"""
import io
import json
import random
import shutil
import struct
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer,
    UMT5Config, UMT5EncoderModel,
)

import golden_common as g

OUT = g.ROOT / "tokenizer"
DATA = g.ROOT.parent.parent / "crates/io/data"
# No control tokens here: prompts are plain text.
HARD = [
    "a photo of an astronaut riding a horse on mars, 8k, (masterpiece:1.2), [blurry] <lora:x:0.8>",
    "it's 'quoted' we'll they'VE I'M don't 'twas rock'n'roll 's 't'd",
    "ΑΣ ΣΑΣ İstanbul DŽ ǅ ẞ ſ Ω Å ﬁ Ⅷ ²³ ½ ①② １２３ ＡＢＣ",
    "!!!???... --- ,,, ;;; :::: ((())) [[]] {{}} <<>> @#$%^&* ~~~ `` \"\" '' \\\\ //",
    "日本語の文章、中文句子。한국어 문장! ไทย हिन्दी עברית العربية",
    "e\u0301 a\u030a\u0323 q\u0307\u0323 o\u0308\u0304 각 क्‍ष",
    "a\u00a0b\u2003c\u3000d\u2028e\u1680f\u200bg\ufeffh",
    "multi\nline\r\nprompt\twith\ttabs \n\n and   runs   of    spaces   ",
    "word " * 120,
    "1girl, 2boys, 1990s, 35mm, f/1.8, 4k, 16:9, 3.14159, 1,000,000",
    "<|startoftext|> <|endoftext|>! a<|endoftext|>b '<|endoftext|>'s <|ENDOFTEXT|>",
    "▁ ▁▁a a▁b <unk> <pad> </s> <extra_id_0>",
    "supercalifragilisticexpialidocious" * 3,
    "👩‍🎨👨🏽‍🚀 🏳️‍🌈 🇯🇵 ❤️ ☕️ 🫠",
]
CORPUS = json.loads((OUT / "corpus.json").read_text()) + HARD


def write(path, value):
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in value)
    path.write_text(f"[\n{lines}\n]\n")


def plain(tokenizer, text):
    tokenizer.encode_special_tokens = True
    return tokenizer.encode(text, add_special_tokens=False).ids


def clip_vocabulary():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(c) for c in printable + [0x100 + i for i in range(256 - len(printable))]]
    tokens = letters + [letter + "</w>" for letter in letters]
    merges = []
    for left, right in struct.iter_unpack("<HH", (DATA / "clip_merges.bin").read_bytes()):
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, merges


def by_sentencepiece(proto, rows, exceptions):
    """SentencePiece has the last word; `exceptions` tells where it is another than `rows`."""
    model = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    for i, text in enumerate(CORPUS):
        if "\0" in text:
            continue  # SentencePiece's Python binding ends a text there
        ids = model.encode(text)
        if ids != rows[i]:
            exceptions.append((text, rows[i], ids))
            rows[i] = ids
    return rows


def real():
    vocab, merges = clip_vocabulary()
    clip = CLIPTokenizer(vocab=vocab, merges=merges)
    write(OUT / "clip.json", [plain(clip.backend_tokenizer, text) for text in CORPUS])
    print("clip as the pipelines call it:", clip("hello!!! World's 123")["input_ids"])

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((DATA / "t5.spiece.model").read_bytes())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    t5 = T5Tokenizer(vocab=pieces, _spm_precompiled_charsmap=proto.normalizer_spec.precompiled_charsmap)
    names = [name for name, _ in pieces[:3]]
    rows = []
    for text in CORPUS:
        # transformers finds the names of control tokens whatever it is told, as they are pieces too.
        rows.append(None if any(name in text for name in names) else plain(t5.backend_tokenizer, text))
    exceptions = []
    rows = by_sentencepiece(proto, rows, exceptions)
    exceptions = [e for e in exceptions if e[1] is not None]
    print(f"t5: {len(CORPUS)} texts, {len(exceptions)} where transformers is not SentencePiece:")
    for text, hf, sp in exceptions:
        print("  ", ascii(text)[:120], "\n     ", hf[:24], "\n     ", sp[:24])
    write(OUT / "t5.json", rows)


def small_clip():
    """A vocabulary trained on the corpus, as transformers 5 writes it, as before, and as CLIP's two files."""
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    cut = lambda pattern: pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    tokenizer.pre_tokenizer = cut(pattern)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, end_of_word_suffix="</w>", special_tokens=["<|startoftext|>", "<|endoftext|>"],
        limit_alphabet=150, show_progress=False,  # so that some bytes have no token
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    rows = [["clip-4", [plain(tokenizer, text) for text in CORPUS]]]
    (OUT / "small/clip-4.json").write_text(tokenizer.to_str(pretty=False) + "\n")
    tokenizer.pre_tokenizer = cut(r"<\|startoftext\|>|<\|endoftext\|>|" + pattern)
    rows.append(["clip-5", [plain(tokenizer, text) for text in CORPUS]])
    return rows


def small_t5():
    """Vocabularies trained on the corpus with a few rules of normalization: SentencePiece's own files, and the kinds of
    tokenizer.json that were made of T5's."""
    rules = {"ﬁ": "fi", "½": "1/2", "e\u0301": "é", "a\u030a\u0323": "ạ̊", "\u3000": " ", "\u00a0": " ", "\t": " ", "\n": " ",
             "\r": " ", "\u200b": "", "Ａ": "A", "…": "...", "한": "HAN"}
    table = "\n".join(
        " ".join(f"{ord(c):04X}" for c in a) + "\t" + " ".join(f"{ord(c):04X}" for c in b) for a, b in rules.items()
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        rule_file = Path(folder) / "rules.tsv"
        rule_file.write_text(table + "\n")
        texts = [line for text in CORPUS for line in text.split("\n") if line.strip() and "\0" not in line]
        for name, options in {
            "t5": dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, vocab_size=900),
            "t5-bytes": dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, vocab_size=1200, byte_fallback=True,
                             user_defined_symbols=["<cat>", "ight"], remove_extra_whitespaces=False),
        }.items():
            model = io.BytesIO()
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=model, model_type="unigram", character_coverage=0.98,
                normalization_rule_tsv=str(rule_file), hard_vocab_limit=False, num_threads=1, minloglevel=2, **options,
            )
            proto = sentencepiece_model_pb2.ModelProto()
            proto.ParseFromString(model.getvalue())
            proto.trainer_spec.ClearField("input")
            (OUT / f"small/{name}.spiece.model").write_bytes(proto.SerializeToString())
            rows.append([f"{name}.spiece.model", by_sentencepiece(proto, [None] * len(CORPUS), [])])
            if name == "t5":
                kept = proto
    pieces = [(piece.piece, piece.score) for piece in kept.pieces]
    rules = normalizers.Precompiled(kept.normalizer_spec.precompiled_charsmap)
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    for name, normalizer, cut in [
        ("t5-2020", rules, pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])),
        ("t5-2022", normalizers.Sequence([rules, normalizers.Replace(Regex(" {2,}"), " ")]), metaspace),
        ("t5-2024", normalizers.Sequence(
            [rules, normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]), metaspace),
    ]:
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, cut
        tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
        tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
        (OUT / f"small/{name}.json").write_text(tokenizer.to_str(pretty=False) + "\n")
        names = ["<pad>", "</s>", "<unk>"]
        rows.append([name, [None if any(n in t for n in names) else plain(tokenizer, t) for t in CORPUS]])
    return rows


def randomize(model, seed, large=()):
    """Weights that keep outputs near 1 and let every branch matter."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=gen)
            if p.dim() == 1:
                p.copy_(0.2 * noise + (1.0 if "norm" in name and "bias" not in name else 0.0))
            elif "embed" in name or "shared" in name or "relative" in name:
                p.copy_(noise)
            else:
                p.copy_(noise * (1.5 / p.shape[1]) ** 0.5)
    return model.eval()


def named(folder, rename):
    """The checkpoint with the names that all published ones have."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    state = {rename(k): v.clone() for k, v in load_file(path).items()}
    save_file({k: v for k, v in state.items() if k}, path, metadata={"format": "pt"})


def clip_models():
    for name, cls, config in [
        ("clip", CLIPTextModel, dict(hidden_size=30, intermediate_size=37, num_hidden_layers=3, num_attention_heads=5,
                                     hidden_act="quick_gelu", eos_token_id=2, projection_dim=30)),
        ("clip-projection", CLIPTextModelWithProjection,
         dict(hidden_size=28, intermediate_size=41, num_hidden_layers=4, num_attention_heads=4, hidden_act="gelu",
              eos_token_id=88, projection_dim=20)),
    ]:
        folder = g.ROOT / "text" / name
        shutil.rmtree(folder, ignore_errors=True)
        config = CLIPTextConfig(vocab_size=90, bos_token_id=87, pad_token_id=0, max_position_embeddings=77, **config)
        model = randomize(cls._from_config(config, attn_implementation="eager"), 5)
        model.save_pretrained(folder)
        named(folder, lambda k: k if k.startswith(("text_model.", "text_projection")) else "text_model." + k)
        gen = torch.Generator().manual_seed(6)
        ids = torch.randint(1, 86, (2, 77), generator=gen)
        ids[:, 0] = 87
        if name == "clip":
            # The end is the largest id, and pads; the first one counts.
            ids[0, 31:], ids[1, 76] = 89, 89
        else:
            # The end is no largest id, and 0 pads.
            ids[0, 20], ids[0, 21:], ids[1, 9], ids[1, 76] = 88, 0, 89, 88
        with torch.no_grad():
            out = model(ids, output_hidden_states=True)
            text = model.text_model if hasattr(model, "text_model") else model
            arrays = {"pooled": out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output}
            for layer in (1, 2):
                hidden = out.hidden_states[-layer]
                arrays |= {f"layer{layer}": hidden, f"layer{layer}.norm": text.final_layer_norm(hidden)}
            assert torch.equal(arrays["layer1.norm"], out.last_hidden_state)
            # Textual inversion: two tokens of the first prompt are vectors of their own.
            vectors = torch.randn(2, config.hidden_size, generator=gen)
            embed = text.embeddings.token_embedding
            hook = embed.register_forward_hook(lambda m, i, o: torch.cat([o[:1].index_copy(1, torch.tensor([4, 5]), vectors[None]), o[1:]]))
            arrays |= {"vectors": vectors, "inverted": model(ids).last_hidden_state[0] if name == "clip"
                       else model.text_model(ids).last_hidden_state[0]}
            hook.remove()
        for k, v in arrays.items():
            print(name, k, tuple(v.shape), "std", v.std().item())
        g.save(f"text/{name}", {"source": "transformers in float32, eager", "versions": g.versions("transformers"),
                                "ids": ids.tolist(), "inverted_at": [4, 5]}, arrays)


def t5_models():
    for name, cls, config_of, more in [
        ("t5", T5EncoderModel, T5Config, dict(feed_forward_proj="gated-gelu")),
        ("umt5", UMT5EncoderModel, UMT5Config, dict(feed_forward_proj="gated-gelu", num_layers=2)),
        ("t5-relu", T5EncoderModel, T5Config, dict(feed_forward_proj="relu", num_layers=2)),
    ]:
        folder = g.ROOT / "text" / name
        shutil.rmtree(folder, ignore_errors=True)
        config = config_of(**(dict(vocab_size=70, d_model=28, d_kv=6, d_ff=37, num_layers=3, num_heads=3,
                                   relative_attention_num_buckets=32, relative_attention_max_distance=128) | more))
        model = randomize(cls._from_config(config, attn_implementation="eager"), 7)
        model.save_pretrained(folder)
        named(folder, lambda k: None if k == "encoder.embed_tokens.weight" else k)
        gen = torch.Generator().manual_seed(8)
        tokens = 150 if name == "t5" else 21
        ids = torch.randint(0, 70, (2, tokens), generator=gen)
        with torch.no_grad():
            hidden = model(ids).last_hidden_state
            if name == "t5":
                model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()
                print("t5: the bias matters by", (model(ids).last_hidden_state - hidden).abs().max().item())
        print(name, tuple(hidden.shape), "std", hidden.std().item())
        g.save(f"text/{name}", {"source": "transformers in float32, eager", "versions": g.versions("transformers"),
                                "ids": ids.tolist()}, {"hidden": hidden})


def chunks(webui):
    """Random prompts as the web UI cuts them: of each chunk its tokens without padding, and their weights. Weights that
    break BREAK there (`(a BREAK b:1.2)`) are left out, and a name of three vectors is in some."""
    sys.path.insert(0, str(webui))
    embedding = SimpleNamespace(vectors=3, name="my-style")
    vocab, merges = clip_vocabulary()
    clip = CLIPTokenizer(vocab=vocab, merges=merges).backend_tokenizer
    name = plain(clip, embedding.name)
    find = lambda tokens, at: (embedding, len(name)) if tokens[at : at + len(name)] == name else (None, None)
    for module in ("devices", "sd_hijack", "sd_emphasis", "shared"):
        sys.modules[f"modules.{module}"] = SimpleNamespace()
    sys.modules["modules.shared"].opts = SimpleNamespace(emphasis="Original", comma_padding_backtrack=20)
    sys.modules["modules.sd_hijack"].StableDiffusionModelHijack = object
    import importlib

    package = importlib.import_module("modules")
    for module in ("devices", "sd_hijack", "sd_emphasis"):
        setattr(package, module, sys.modules[f"modules.{module}"])
    base = importlib.import_module("modules.sd_hijack_clip").FrozenCLIPEmbedderWithCustomWordsBase
    ui = base(SimpleNamespace(), SimpleNamespace(embedding_db=SimpleNamespace(find_embedding_at_position=find)))
    ui.tokenize = lambda texts: [plain(clip, text) for text in texts]
    ui.comma_token, ui.id_start, ui.id_end = vocab[",</w>"], 49406, 49407
    words = ["cat", "a", "photorealistic", "8k", "masterpiece", ", ", ", ", ". ", "(red", ")", ":1.3)", "[", "]", "(", ": 0.7 )",
             "it's", "é", "\\(", ":", "my-style", "trending on artstation"]
    random.seed(9)
    rows = []
    for _ in range(60):
        text = " ".join(random.choices(words, k=random.choice([3, 20, 60, 110, 200])))
        if random.random() < 0.3:
            text = text.replace("(", "").replace("[", "").replace("photorealistic", "BREAK")
        out = []
        for chunk in ui.tokenize_line(text)[0]:
            length = chunk.tokens.index(49407, 1) - 1
            out.append([chunk.tokens[1 : 1 + length], [round(w, 5) for w in chunk.multipliers[1 : 1 + length]]])
        rows.append([text, out])
    write(OUT / "chunks.json", rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        chunks(Path(sys.argv[1]))
        raise SystemExit
    real()
    write(OUT / "small_prompts.json", small_clip() + small_t5())
    clip_models()
    t5_models()
    write(OUT / "prompts.json", HARD)
