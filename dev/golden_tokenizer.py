"""Makes tests/golden/tokenizer: token ids by Hugging Face's `tokenizers`, an implementation independent of Hob's.

    python dev/golden_tokenizer.py MODELS

MODELS is a folder with SmolLM2-135M-Instruct.Q4_1.gguf and gemma-3-270m-q4_k_m.gguf. Needs `tokenizers` 0.23,
`sentencepiece`, `protobuf` and `gguf`. Reads corpus.json there; writes
  smollm2.json, gemma3.json   ids of the corpus with the two models' vocabularies: [[plain, with special tokens], …]
  small/NAME.json             a vocabulary trained on the corpus, as tokenizer.json, with one family's pre-tokenizer
  small.json                  {NAME: [[plain, with special tokens], …]}
"""

import json
import sys
from pathlib import Path

import sentencepiece
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

OUT = Path(__file__).parent.parent / "tests/golden/tokenizer"
CORPUS = json.loads((OUT / "corpus.json").read_text())
CONTROL, USER, BYTE = 3, 4, 6


def ids(tokenizer):
    """For each text of the corpus: special tokens taken as plain text, and recognised."""
    both = []
    for special in (False, True):
        tokenizer.encode_special_tokens = not special
        both.append([tokenizer.encode(text, add_special_tokens=False).ids for text in CORPUS])
    # Most texts name no special token: then the second list is left out.
    return [[plain] if plain == special else [plain, special] for plain, special in zip(*both)]


def write(name, value):
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in value)
    (OUT / name).write_text(f"[\n{lines}\n]\n")


def field(reader, key):
    return reader.fields[f"tokenizer.ggml.{key}"].contents()


def added(tokens, types):
    return [
        AddedToken(text, normalized=False, special=kind == CONTROL)
        for text, kind in zip(tokens, types)
        if kind in (CONTROL, USER)
    ]


def smollm2(path):
    reader = GGUFReader(path)
    tokens = field(reader, "tokens")
    merges = [tuple(merge.split(" ")) for merge in field(reader, "merges")]
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.add_tokens(added(tokens, field(reader, "token_type")))
    return tokenizer


def merges_by_score(vocab, scores, skip):
    """Every way to make a token of two others, best token first: as transformers' converter from SentencePiece."""
    merges = []
    for text, score in scores.items():
        if text in skip:
            continue
        halves = [(text[:i], text[i:]) for i in range(1, len(text))]
        halves = [(l, r) for l, r in halves if l in vocab and r in vocab and l not in skip and r not in skip]
        halves.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        merges += [(score, l, r) for l, r in halves]
    merges.sort(key=lambda m: (m[0], len(m[1]), len(m[2])), reverse=True)
    return [(l, r) for _, l, r in merges]


def gemma3(path):
    reader = GGUFReader(path)
    types = field(reader, "token_type")
    # GGUF writes runs of spaces as such; the model's own file has SentencePiece's mark.
    tokens = [t.replace(" ", "▁") if kind == USER else t for t, kind in zip(field(reader, "tokens"), types)]
    vocab = {text: i for i, text in enumerate(tokens)}
    # In the model's own file all but the ordinary tokens score zero.
    scores = {t: s if kind == 1 else 0.0 for t, s, kind in zip(tokens, field(reader, "scores"), types)}
    skip = {t for t, kind in zip(tokens, types) if kind in (CONTROL, BYTE)}
    merges = merges_by_score(vocab, scores, skip)
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.add_tokens(added(tokens, types))
    return tokenizer


def gemma3_by_sentencepiece(path):
    """The model's own kind of tokenizer, which takes no special tokens from text."""
    reader = GGUFReader(path)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.trainer_spec.model_type = 2  # BPE
    proto.trainer_spec.byte_fallback = True
    for key, name in (("pad_id", 0), ("eos_id", 1), ("bos_id", 2), ("unk_id", 3)):
        setattr(proto.trainer_spec, key, name)
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    for text, score, kind in zip(*(field(reader, key) for key in ("tokens", "scores", "token_type"))):
        piece = proto.pieces.add(piece=text.replace(" ", "▁") if kind == USER else text, score=score, type=kind)
        if text == "<unk>":
            piece.type = 2
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def gemma3_rows(path):
    """Hugging Face's ids, and SentencePiece's where text has its mark ▁▁ in it: Hugging Face looks for the runs of
    spaces before it makes marks of spaces, SentencePiece after. They agree on all the rest of the corpus."""
    rows = ids(gemma3(path))
    sp = gemma3_by_sentencepiece(path)
    for i, text in enumerate(CORPUS):
        if "\0" in text:
            continue  # SentencePiece's Python binding ends a text there
        plain = sp.encode(text)
        if "▁▁" in text:
            rows[i] = [plain]
        assert rows[i][0] == plain, (text, rows[i][0], plain)
    return rows


def split(*patterns):
    parts = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return pre_tokenizers.Sequence(parts + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt2(*before):
    parts = list(before) + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    return parts[0] if len(parts) == 1 else pre_tokenizers.Sequence(parts)


DIGITS = pre_tokenizers.Digits(individual_digits=True)
FOLD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PREFIX = r"[^\r\n\p{L}\p{N}]?"
QWEN2 = rf"{FOLD}|{PREFIX}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}"


def cased(tail, digits):
    words = rf"{PREFIX}{UPPER}*{LOWER}+{tail}|{PREFIX}{UPPER}+{LOWER}*{tail}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}"


# By GGUF's name of the pre-tokenizer: the definition in the family's published tokenizer.json.
SMALL = {
    "gpt-2": (None, gpt2()),
    "smollm": (None, gpt2(DIGITS)),
    "command-r": (normalizers.NFC(), gpt2(DIGITS)),
    "llama-bpe": (None, split(QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|"))),
    "qwen2": (normalizers.NFC(), split(QWEN2)),
    "qwen35": (
        normalizers.NFC(),
        split(rf"{FOLD}|{PREFIX}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{TAIL}"),
    ),
    "gpt-4o": (None, split(cased(f"{FOLD}?", r"\p{N}{1,3}"))),
    "tekken": (None, split(cased("", r"\p{N}"))),
    "falcon": (
        None,
        pre_tokenizers.Sequence([
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
        ]),
    ),
    "bloom": (None, split(r" ?[^(\s|[.,!?…。，、।۔،])]+")),
    "deepseek-coder": (
        None,
        pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(p), "isolated")
            for p in (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+")
        ] + [DIGITS, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
    ),
    "deepseek-v3": (
        None,
        split(
            r"\p{N}{1,3}",
            "[一-龥\u3040-ゟ゠-ヿ]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
            rf"""| ?[\p{{P}}\p{{S}}]+[\r\n]*|{TAIL}""",
        ),
    ),
}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]


def small(normalizer, pre_tokenizer):
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("    ", normalized=False), AddedToken("<h1>", normalized=False)])
    return tokenizer


def small_sentencepiece(normalizer, decoder):
    """Merges over characters with bytes for the rest, as the converters from SentencePiece write them."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizer
    # As SentencePiece does, no piece goes on over a space.
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("▁+[^▁]*"), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=900, limit_alphabet=250, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    model = json.loads(trained.to_str())["model"]
    vocab = model["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoder
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")])
    return tokenizer


FALLBACK = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def gemma_like():
    tokenizer = small_sentencepiece(normalizers.Replace(" ", "▁"), decoders.Sequence(FALLBACK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("<h1>", normalized=False)])
    return tokenizer


def llama_like():
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return small_sentencepiece(normalizer, decoders.Sequence(FALLBACK + [decoders.Strip(content=" ", left=1)]))


def main():
    folder = Path(sys.argv[1])
    write("smollm2.json", ids(smollm2(folder / "SmolLM2-135M-Instruct.Q4_1.gguf")))
    write("gemma3.json", gemma3_rows(folder / "gemma-3-270m-q4_k_m.gguf"))
    (OUT / "small").mkdir(exist_ok=True)
    rows = []
    tokenizers = {name: small(*definition) for name, definition in SMALL.items()}
    tokenizers |= {"sentencepiece-gemma": gemma_like(), "sentencepiece-llama": llama_like()}
    for name, tokenizer in tokenizers.items():
        (OUT / f"small/{name}.json").write_text(tokenizer.to_str(pretty=False) + "\n")
        rows.append([name, ids(tokenizer)])
    write("small.json", rows)


if __name__ == "__main__":
    main()
