#!/usr/bin/env python3
"""The vocabularies in the binary, crates/io/data, from packages that carry them.

usage: vocabularies.py CLIP T5
CLIP is `bpe_simple_vocab_16e6.txt.gz` of the package `clip-anytorch` (or `open_clip_torch`, the same file); T5 is a
`tokenizer.json` of T5 v1.1, or the file `clip_t5.hpp` in the sources of `stable-diffusion-cpp-python`, which has it as
numbers. Needs `sentencepiece` and `protobuf`. Licences: crates/io/data/NOTICE.
"""
import base64
import gzip
import json
import re
import struct
import sys
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2

OUT = Path(__file__).resolve().parent.parent / "crates/io/data"


def clip(path):
    """Each merge as the ids of its halves: 256 letters, the same at a word's end, then what the merges make."""
    lines = gzip.open(path).read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(c) for c in printable + [0x100 + i for i in range(256 - len(printable))]]
    ids = {token: i for i, token in enumerate(letters + [letter + "</w>" for letter in letters])}
    out = b""
    for left, right in (line.split() for line in lines):
        out += struct.pack("<HH", ids[left], ids[right])
        ids[left + right] = len(ids)
    assert len(ids) == 49406
    (OUT / "clip_merges.bin").write_bytes(out)


def t5(path):
    """SentencePiece's own file again, from which tokenizer.json was made."""
    text = path.read_text()
    if path.suffix == ".hpp":
        numbers = re.search(r"t5_tokenizer_json_str\[\]\s*=\s*\{([^}]*)\}", text).group(1)
        text = bytes(int(n, 0) for n in numbers.split(",") if n.strip()).decode()
    source = json.loads(text)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.UNIGRAM
    for key, value in (("pad_id", 0), ("eos_id", 1), ("unk_id", 2), ("bos_id", -1)):
        setattr(proto.trainer_spec, key, value)
    normalizers = source["normalizer"].get("normalizers", [source["normalizer"]])
    proto.normalizer_spec.name = "nmt_nfkc"
    proto.normalizer_spec.precompiled_charsmap = base64.b64decode(normalizers[0]["precompiled_charsmap"])
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = True
    for i, (piece, score) in enumerate(source["model"]["vocab"][:32000]):
        piece = proto.pieces.add(piece=piece, score=score)
        if i < 3:
            piece.type = 2 if i == 2 else 3
    (OUT / "t5.spiece.model").write_bytes(proto.SerializeToString())


if __name__ == "__main__":
    clip(sys.argv[1])
    t5(Path(sys.argv[2]))
