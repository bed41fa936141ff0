#!/usr/bin/env python3
"""Encoders: tiny random ones with what transformers computes in float32, vectors of a real one by sentence-transformers,
and WordPiece ids by Hugging Face's `tokenizers`.

usage: golden_encoder.py MINILM      (the folder of all-MiniLM-L6-v2, as `hob pull --to` lays it)
writes tests/golden/tiny/{bert,bert-rank,distilbert,roberta-rank}/ as golden_tiny.py does, tests/golden/embeddings/minilm/,
and in tests/golden/tokenizer/ wordpiece.json, minilm.json, pairs.json and small/wordpiece-*.json; the layout:
tests/golden/README.md
"""
import json
import shutil
import sys
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

import golden_common as g
from golden_common import ROOT

CORPUS = json.loads((ROOT / "tokenizer/corpus.json").read_text())
VOCAB = 96
BASE = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=80, type_vocab_size=2, pad_token_id=0, attn_implementation="eager",
)
MODELS = {
    "bert": (BertModel, BertConfig(**BASE)),
    "bert-rank": (BertForSequenceClassification, BertConfig(**BASE, num_labels=1)),
    "distilbert": (
        DistilBertModel,
        DistilBertConfig(
            vocab_size=VOCAB, dim=32, hidden_dim=64, n_layers=2, n_heads=4, max_position_embeddings=80,
            attn_implementation="eager",
        ),
    ),
    "roberta-rank": (
        XLMRobertaForSequenceClassification,
        XLMRobertaConfig(**(BASE | dict(type_vocab_size=1, pad_token_id=1, num_labels=1))),
    ),
}


def randomize(model, seed):
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=gen)
            if "norm" in name.lower() and name.endswith("weight"):
                p.copy_(1.0 + 0.2 * noise)
            elif p.dim() == 1:
                p.copy_(0.3 * noise)
            elif "embeddings" in name:
                p.copy_(0.5 * noise)
            else:
                p.copy_(noise * (2.0 / p.shape[-1] ** 0.5))


def tiny():
    for seed, (name, (build, config)) in enumerate(MODELS.items()):
        folder = ROOT / "tiny" / name
        shutil.rmtree(folder, ignore_errors=True)
        model = build(config).eval()
        randomize(model, 50 + seed)
        model.save_pretrained(folder)
        model = build.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        gen = torch.Generator().manual_seed(150 + seed)
        rank, sequences, arrays = name.endswith("rank"), [], {}
        for i, n in enumerate([24, 1, 7, 70]):
            ids = torch.randint(3, VOCAB, (1, n), generator=gen)
            second = n // 3 if rank and config.type_vocab_size > 1 else n
            types = (torch.arange(n) >= second).long()[None]
            given = {} if name == "distilbert" else {"token_type_ids": types}
            with torch.no_grad():
                out = model(input_ids=ids, attention_mask=torch.ones_like(ids), **given)
            sequences.append({"ids": ids[0].tolist(), "types": types[0].tolist()})
            arrays[f"{'scores' if rank else 'hidden'}.{i}"] = out.logits[0] if rank else out.last_hidden_state[0]
        source = "transformers in float32, attention eager, each sequence by itself"
        meta = {"source": source, "versions": g.versions("transformers"), "sequences": sequences}
        g.save(f"tiny/{name}", meta, arrays)


def rows(tokenizer):
    both = []
    for special in (False, True):
        tokenizer.encode_special_tokens = not special
        both.append([tokenizer.encode(text, add_special_tokens=False).ids for text in CORPUS])
    return [[plain] if plain == special else [plain, special] for plain, special in zip(*both)]


def write(name, value):
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in value)
    (ROOT / "tokenizer" / name).write_text(f"[\n{lines}\n]\n")


def wordpiece(lowercase):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(
        vocab_size=900, limit_alphabet=250, show_progress=False,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def tokenizers_of(minilm):
    named = {"wordpiece-uncased": wordpiece(True), "wordpiece-cased": wordpiece(False)}
    for name, tokenizer in named.items():
        (ROOT / f"tokenizer/small/{name}.json").write_text(tokenizer.to_str(pretty=False) + "\n")
    write("wordpiece.json", [[name, rows(tokenizer)] for name, tokenizer in named.items()])
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    write("minilm.json", rows(tokenizer))
    tokenizer.encode_special_tokens = True
    pairs = []
    for first, second in zip(TEXTS, TEXTS[1:]):
        encoding = tokenizer.encode(first, second)
        pairs.append([first, second, encoding.ids, encoding.type_ids])
    write("pairs.json", pairs)


LONG = "The tide came in slowly over the flats, and the children ran before it with their shoes in their hands. "
TEXTS = [
    "",
    "a",
    "   \t\n",
    "How do I reset my password?",
    "Passwords are reset on the account page, under Security.",
    "Wie setze ich mein Passwort zurück?",
    "La tour Eiffel mesure 330 mètres de haut.",
    "東京は日本の首都です。",
    "Привет, как дела?",
    "fn main() { println!(\"{}\", 1 + 1); } // ¯\\_(ツ)_/¯ 👍🏽",
    LONG * 6,
    LONG * 10 + "They reached the dunes out of breath and turned to look, but the sea had stopped",
]


def real(minilm):
    model = SentenceTransformer(str(minilm), device="cpu")
    vectors = model.encode(TEXTS, convert_to_numpy=True, batch_size=1)
    lengths = [len(model.tokenizer(text)["input_ids"]) for text in TEXTS]
    limit = model.max_seq_length
    assert max(lengths) <= limit, f"{lengths}: at most {limit}"
    print("tokens", lengths, "of", limit)
    source = "sentence-transformers in float32, a text at a time"
    versions = g.versions("sentence-transformers", "transformers")
    meta = {"source": source, "versions": versions, "tokens": lengths, "texts": TEXTS}
    g.save("embeddings/minilm", meta, {"vectors": vectors})


if __name__ == "__main__":
    tiny()
    tokenizers_of(Path(sys.argv[1]))
    real(Path(sys.argv[1]))
