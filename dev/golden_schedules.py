#!/usr/bin/env python3
"""What prompts that change become, by A1111's own parser.

usage: golden_schedules.py WEBUI
WEBUI is a checkout of A1111's web UI, of which modules/prompt_parser.py alone is run (needs `lark`; where there is no torch, an
empty one stands in). Writes tests/golden/tokenizer/schedules.json: a prompt, the steps, and the texts with their last steps; and
prompts with AND in the place of steps `null`, and their parts with their weights.
"""
import json
import random
import sys
from pathlib import Path
from types import ModuleType

try:
    import torch  # noqa: F401
except ImportError:
    sys.modules["torch"] = ModuleType("torch")
sys.path.insert(0, str(Path(sys.argv[1]) / "modules"))
import prompt_parser  # noqa: E402

OUT = Path(__file__).resolve().parent.parent / "tests/golden/tokenizer/schedules.json"
STEPS = [1, 7, 10, 25]
KNOWN = [
    "test", "a [b:3]", "a [b: 3]", "a [[[b]]:2]", "[(a:2):3]", "a [b : c : 1] d", "a[b:[c:d:2]:1]e", "a [unbalanced",
    "a [b:.5] c", "a [{b|d{:.5] c", "((a][:b:c [d:3]", "[a|(b:1.1)]", "[fe|]male", "[fe|||]male", "", "[]", "()", "[:]", "[|]",
    "[a:b]", "[a::0.5]", "[a::2][ b:2]", "[:a:2]", "[a:3:4]", "[a:b:c:2]", "[a:b:-3]", "[a:+2]", "[a:1e0]", "[a:1e-1]", "[a:2.]",
    "[a:0]", "[a:0.0]", "[a:99]", "[a:1.5]", "[a:b:3", "a|b [c:d:2]", "(a|b) [c:d:2]", r"\[a:b:3\]", r"[a\:b:c:3]", "[a:b:3]\\",
    "[a:b:\t3\n]", "[a\nb|c]", "(a [b:c:2]:1.3)", "(a:[b:c:2])", "(a:b:[c:d:2])", "[a [b|c]:d:4]", "[[a:b:2]|c]", "[a|b|c] [d|e]",
    "[a:b:0.25] and [an oak:a tree:0.75][ in front::0.6][ behind:0.25] [shoddy:masterful:0.5]", "é[ü:日本:5]ß", "[a:b:3]]", "[[a:b:3]",
    "[a:b:3)(c:d:4]", "([a:b:3)]", "[(a:b:3)]", "[a:1.2.3]", "[a:.]", "[a:e1]", "[a:1e]", "[a: ]",
]
TOGETHER = [
    "a AND b", "a AND b :1.2", "a :0.5 AND b : -1", "16:9", "16:9 AND b", "ANDY AND BAND AND b", "a AND", "AND", "a AND a", "(a AND b:1.2)",
    "a :1. AND b :.5 AND c : +2", "a :1.2 \n AND\nb:c :3", "a :x AND b :1e2", "a:2:3 AND b", "a_AND b", "éAND b",
]

rng = random.Random(11)
PARTS = ["[", "]", "(", ")", ":", "|", "a", "b c", "3", "0.5", " ", "[a:b:3]", "[c:0.4]", "(d:1.2)", "[e|f]", "\\", "\\["]
WEIGHTS = [6, 6, 2, 2, 6, 2, 6, 3, 4, 4, 2, 2, 2, 2, 1, 0.3, 1]
made = ["".join(rng.choices(PARTS, WEIGHTS, k=rng.randint(3, 14))) for _ in range(500)]

rows = []
for prompt in KNOWN + made:
    steps = rng.choice(STEPS)
    try:
        [schedule] = prompt_parser.get_learned_conditioning_prompt_schedules([prompt], steps)
    except Exception as e:  # none that a person would write
        print("left out:", repr(prompt), type(e).__name__, e)
        continue
    merged = []
    for end, text in schedule:
        if merged and merged[-1][1] == text:
            merged[-1][0] = end
        else:
            merged.append([end, text])
    rows.append([prompt, steps, merged])
for prompt in TOGETHER:
    [parts], texts, _ = prompt_parser.get_multicond_prompt_list(prompt_parser.SdConditioning([prompt]))
    rows.append([prompt, None, [[texts[i], weight] for i, weight in parts]])
OUT.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows) + "\n]\n")
print(len(rows), "prompts,", sum(len(r[2]) > 1 for r in rows), "of which change or are several")
