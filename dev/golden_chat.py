"""Makes tests/golden/tokenizer/chat.json: chat templates rendered by Hugging Face's `transformers` with `jinja2`.

    python dev/golden_chat.py MODELS

MODELS is a folder with SmolLM2-135M-Instruct.Q4_1.gguf. Needs `transformers` 5, `jinja2` and `gguf`. The templates are
SmolLM2's own, read from the model, and hand-written ones that use what the templates of other families use.
"""

import json
import sys
from pathlib import Path

from gguf import GGUFReader
from transformers.utils.chat_template_utils import render_jinja_template

OUT = Path(__file__).parent.parent / "tests/golden/tokenizer/chat.json"

# Turns named anew, the system text before the first one; parts of content; refusals.
GEMMA = """{{ bos_token }}
{%- set talk = messages if messages[0].role != 'system' else messages[1:] -%}
{%- for m in talk -%}
    {%- if loop.index is odd and m.role != 'user' or loop.index is even and m.role == 'user' -%}
        {{ raise_exception('The user speaks first, and then each in turn') }}
    {%- endif %}
    {{- '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\\n' }}
    {%- if loop.first and talk | length < messages | length %}{{ messages[0].content | trim }}{{ '\\n\\n' }}{% endif -%}
    {%- if m.content is string %}{{ m.content | trim }}
    {%- else %}{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}
    {%- endif %}<end_of_turn>{{ '\\n' }}
{%- endfor -%}
{{- '<start_of_turn>model\\n' if add_generation_prompt }}
"""

# Variables with defaults, header tokens, tools as indented JSON in the first user message, calls as JSON.
LLAMA3 = """{{- bos_token -}}
{#- A name for what comes often. #}
{%- macro head(role) -%}
    <|start_header_id|>{{ role }}<|end_header_id|>{{ '\\n\\n' }}
{%- endmacro %}
{%- if today is not defined %}{% set today = '1 Jan 2025' %}{% endif %}
{%- if tools_in_user_message is not defined %}{% set tools_in_user_message = true %}{% endif %}
{%- set with_tools = tools is defined and tools is not none %}
{{- head('system') }}Date: {{ today }}
{% if messages[0]['role'] == 'system' %}
    {%- set system, messages = messages[0]['content'] | trim, messages[1:] %}
{{ system }}
{%- endif %}
{%- if with_tools and not tools_in_user_message %}
    {%- for tool in tools %}{{ '\\n' }}{{ tool | tojson(indent=4) }}{% endfor %}
{%- endif %}
<|eot_id|>
{%- for message in messages %}
    {%- if message.tool_calls is defined %}
        {%- for call in message.tool_calls %}
            {{- head('assistant') }}{{ {'name': call.function.name, 'parameters': call.function.arguments} | tojson }}
        {%- endfor %}<|eot_id|>
    {%- elif message.role in ['tool', 'ipython'] %}
        {{- head('ipython') }}{{ message.content | tojson if message.content is not string else message.content }}<|eot_id|>
    {%- else %}
        {{- head(message['role']) }}
        {%- if loop.first and with_tools and tools_in_user_message %}
            {%- for tool in tools %}{{ tool | tojson(indent=4) }}{{ '\\n\\n' }}{% endfor %}
        {%- endif %}
        {{- message['content'] | trim }}<|eot_id|>
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ head('assistant') }}{% endif %}
"""

# A namespace that counts, tools before the last question, their entries one by one, texts joined by plus.
MISTRAL = """{%- set ns = namespace(system='', asked=0, answered=0) %}
{%- for m in messages if m.role == 'user' %}{% set ns.asked = ns.asked + 1 %}{% endfor %}
{{- bos_token }}
{%- for m in messages %}
    {%- if m['role'] == 'system' and loop.first %}
        {%- set ns.system = m['content'] + '\\n\\n' %}
    {%- elif m['role'] == 'user' %}
        {%- set ns.answered = ns.answered + 1 %}
        {%- if tools and ns.answered == ns.asked %}
            {{- '[AVAILABLE_TOOLS] [' }}
            {%- for tool in tools %}
                {{- '{' }}
                {%- for key, value in tool.function.items() if key != 'return' %}
                    {{- '"' + key + '": ' + value | tojson }}{{ ', ' if not loop.last }}
                {%- endfor %}
                {{- '}' if loop.last else '}, ' }}
            {%- endfor %}
            {{- '][/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + (ns.system if ns.answered == ns.asked else '') + m['content'] + '[/INST]' }}
    {%- elif m['role'] == 'assistant' and m.tool_calls is not defined %}
        {{- ' ' + m['content'] | trim + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant may speak, not ' + m['role']) }}
    {%- endif %}
{%- endfor %}
"""

# The list backwards to find the last question; thoughts cut out by Python's methods; answers of tools in one turn.
QWEN3 = """{%- set ns = namespace(last=-1) %}
{%- for m in messages[::-1] if ns.last < 0 and m.role == 'user' and not m.content.startswith('<tool_response>') %}
    {%- set ns.last =  messages | length - loop.index %}
{%- endfor %}
{%- if tools %}
    {{- '<|im_start|>system\\n' + (messages[0].content if messages[0].role == 'system' else '') + '<tools>' }}
    {%- for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {%- set text = m.content if m.content is string else '' %}
    {%- if m.role == 'system' and tools %}{% continue %}{% endif %}
    {%- if m.role == 'tool' %}
        {{- '<|im_start|>user\\n' if loop.first or loop.previtem.role != 'tool' }}
        {{- '<tool_response>' + text + '</tool_response>' }}
        {{- '<|im_end|>\\n' if loop.last or loop.nextitem.role != 'tool' }}
        {%- continue %}
    {%- endif %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.role == 'assistant' and '</think>' in text %}
        {%- set thought = text.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
        {%- if loop.index0 > ns.last %}{{ '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n' }}{% endif %}
    {%- endif %}
    {{- text }}
    {%- for call in m.tool_calls or [] %}
        {%- set f = call.function if call.function else call %}
        {{- '\\n<tool_call>\\n' + {'name': f.name, 'arguments': f.arguments} | tojson + '\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""

# All on one line, the system text inside the first question.
LLAMA2 = (
    "{% set sys = messages[0].content if messages[0].role == 'system' else false %}"
    "{% for m in messages[1:] if sys is not false %}{% set text = m.content.strip() %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}{{ '<<SYS>>\\n' + sys + '\\n<</SYS>>\\n\\n' if loop.first }}"
    "{{ text + ' [/INST]' }}{% else %}{{ ' ' + text + ' ' + eos_token }}{% endif %}"
    "{% else %}{% for m in messages %}{% if loop.index0 % 2 == 0 and m['role'] != 'user' %}"
    "{{ raise_exception('A question was expected') }}{% endif %}{{ '[INST] ' ~ m['content'].strip() ~ ' [/INST]' }}"
    "{% endfor %}{% endfor %}"
)

# Settings and odds and ends: whitespace control, generation blocks, loops that break, Python's methods and printing.
ODDS = """
{% macro say(role, text='') %}
<{{ role }}>{{ text }}
{% endmacro %}
   {% set ns = namespace(n=0, seen=[]) %}
{% for m in messages %}
    {% if m.role == 'stop' %}
        {% break %}
    {% endif %}
    {% if m.content == '' %}{% continue %}{% endif %}
    {% generation %}{{ say(m.role | upper, m.content) }}{% endgeneration %}
    {% set ns.n = ns.n + 1 %}
{% endfor %}
n={{ ns.n }} {{ true }} {{ none }} {{ 1.0 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ -7 % 3 }} {{ 2 ** 5 }} {{ 'a' ~ 1 ~ none }}
{{ [1, 'a', none, true, 2.5] }} {{ {'k': 'v', 'n': [1]} }} {{ ('x', 'y') | list }}
{{ '  x '.strip() }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'Abc'.lower() }}|{{ 'abc'.title() }}|{{ 'abab'.replace('a', 'x', 1) }}
{{ messages | map(attribute='role') | join('/') }} {{ messages | length }} {{ messages[-1].role }} {{ 'abc'[::-1] }}
{{ 'b' in 'abc' }} {{ 'role' in messages[0] }} {{ messages[0].get('missing', 'none here') }} {{ missing is defined }}[{{ missing }}]
{{ {'b': 1, 'a': [true, none, 1.5, 'é"\\n<&>']} | tojson }} {{ {'b': 1, 'a': 2} | tojson(indent=2) }} {{ [] | tojson(indent=2) }}
{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ 1e-9 | tojson }} {{ '/' | tojson }}
{{ {'b': 1, 'a': 2} | dictsort }} {% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}={{ v }}{{ ', ' if not loop.last }}{% endfor %}

{{ 'x' if false }}{{ 'yes' if messages[0].content is string and messages[0].content is not none else 'no' }}
{% filter upper %}done{% endfilter %}  {{- ' tight' -}}   
{% raw %}{{ raw }}{% endraw %}
end
"""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather, “now” or later <b>",
            "parameters": {
                "type": "object",
                "properties": {"town": {"type": "string", "enum": ["Köln", "A/B"]}, "days": {"type": "integer"}},
                "required": ["town"],
            },
        },
    },
    {"type": "function", "function": {"name": "clock", "parameters": {}, "return": {"type": "number", "max": 1.0}}},
]


def message(role, content, **more):
    return {"role": role, "content": content, **more}


SYSTEM = message("system", "  Be brief.\n")
USER = message("user", " Hi — what's 2+2? {{ x }} <b>&amp; \n")
ANSWER = message("assistant", "\n<think>\nsum\n</think>\n\n4. ")
CALL = message(
    "assistant",
    "",
    tool_calls=[{"type": "function", "function": {"name": "weather", "arguments": {"town": "Köln", "days": 2}}}],
)
RESULT = message("tool", '{"t": 7.5}', name="weather")
CHATS = {
    "one": [USER],
    "system": [SYSTEM, USER],
    "turns": [SYSTEM, USER, ANSWER, message("user", "And 3+3?")],
    "call": [USER, CALL, RESULT],
    "wrong": [USER, USER],
    "odds": [message("user", "a"), message("tool", ""), message("assistant", "b"), message("stop", "c"), USER],
}


def main():
    reader = GGUFReader(Path(sys.argv[1]) / "SmolLM2-135M-Instruct.Q4_1.gguf")
    smollm2 = reader.fields["tokenizer.chat_template"].contents()
    templates = {
        "smollm2": (smollm2, "<|im_start|>", "<|im_end|>"),
        "gemma3": (GEMMA, "<bos>", "<eos>"),
        "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
        "mistral": (MISTRAL, "<s>", "</s>"),
        "qwen3": (QWEN3, "", "<|im_end|>"),
        "llama2": (LLAMA2, "<s>", "</s>"),
        "odds": (ODDS, "<s>", "</s>"),
    }
    variants = [
        {"add_generation_prompt": True},
        {"add_generation_prompt": False},
        {"add_generation_prompt": True, "tools": TOOLS},
        {"add_generation_prompt": True, "extra": {"enable_thinking": False, "tools_in_user_message": False}},
    ]
    cases = []
    for name, (template, bos, eos) in templates.items():
        for chat, messages in CHATS.items():
            for variant in variants:
                try:
                    text = render_jinja_template(
                        conversations=[messages],
                        chat_template=template,
                        tools=variant.get("tools"),
                        add_generation_prompt=variant["add_generation_prompt"],
                        bos_token=bos,
                        eos_token=eos,
                        **variant.get("extra", {}),
                    )[0][0]
                    want = {"text": text}
                except Exception as error:  # noqa: BLE001 - what a template raises is part of the golden
                    want = {"error": f"{type(error).__name__}: {error}"}
                cases.append({"template": name, "chat": chat, **variant, **want})
    golden = {
        "templates": {name: {"source": s, "bos": b, "eos": e} for name, (s, b, e) in templates.items()},
        "chats": CHATS,
        "cases": cases,
    }
    OUT.write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n")
    print(len(cases), "cases;", {c["error"] for c in cases if "error" in c})


if __name__ == "__main__":
    main()
