use super::*;

fn html(markdown: &str) -> String {
    whole(markdown).concat()
}

/// Every tag and attribute that comes out, seen by a reader of its own, is one that is meant.
fn harmless(out: &str) {
    let mut rest = out;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a tag that does not end");
        let tag = &rest[start + 1..end];
        let name: String =
            tag.trim_start_matches('/').chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
        let tags = "a b blockquote br button code del div em figcaption figure h3 h4 h5 h6 hr i img ins kbd li mark ol p pre s
            span strong sub sup table tbody td th thead tr u ul";
        assert!(tags.split_whitespace().any(|t| t == name), "<{name}> in {out}");
        let mut attributes = tag[name.len().min(tag.len())..].split("=\"");
        let mut key = attributes.next().unwrap_or_default().trim().to_string();
        for part in attributes {
            let (value, next) = part.split_once('"').unwrap_or((part, ""));
            assert!(
                ["href", "src", "alt", "class", "type", "rel", "target", "start", "align"]
                    .contains(&key.as_str()),
                "{key}={value} in {out}"
            );
            let lower = value.to_lowercase();
            match key.as_str() {
                "href" => assert!(
                    ["http://", "https://", "mailto:"].iter().any(|s| lower.starts_with(s)),
                    "{value} in {out}"
                ),
                "src" => assert!(lower.starts_with("data:image/"), "{value} in {out}"),
                _ => {}
            }
            key = next.trim().to_string();
        }
        rest = &rest[end + 1..];
    }
}

/// Attacks by kind: tags, handlers, addresses, foreign vocabularies, Markdown and HTML in each other, broken ends.
const ATTACKS: &[&str] = &[
    "<script>alert(1)</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "text <script>alert(1)</script> text",
    "<img src=x onerror=alert(1)>",
    "a <img src=x onerror=alert(1)> b",
    "<b onmouseover=alert(1)>x</b>",
    "<b/onclick=alert(1)>x",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><a xlink:href=\"javascript:alert(1)\"><text>x</text></a></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<math href=\"javascript:alert(1)\">x</math>",
    "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
    "<iframe src=javascript:alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<object data=data:text/html,x>",
    "<embed src=x>",
    "<form action=javascript:alert(1)><button>x</button></form>",
    "<button formaction=javascript:alert(1)>x</button>",
    "<input autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "<style>@import '//evil.example';</style>",
    "<link rel=stylesheet href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<base href=//evil.example/>",
    "<template><script>alert(1)</script></template>",
    "<!--><script>alert(1)</script>-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?php <script>alert(1)</script> ?>",
    "<div style=\"background:url(//evil.example)\">x</div>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java&#10;script:alert(1))",
    "[x](&#x6A;avascript:alert(1))",
    "[x](<java\tscript:alert(1)>)",
    "[x](\u{1}javascript:alert(1))",
    "[x](vbscript:msgbox)",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](file:///etc/passwd)",
    "[x](//evil.example)",
    "[x](/hob/conversations)",
    "[x](https://a.example/\"onclick=\"alert(1))",
    "[x](https://a.example 'title\" onclick=\"alert(1)')",
    "<javascript:alert(1)>",
    "![x](javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    "![x](//evil.example/pixel.png)",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    "![x](data:text/html,x)",
    "![x\" onerror=\"alert(1)](data:image/png;base64,AAAA)",
    "[![x](https://evil.example/a.png)](https://b.example)",
    "[a]: javascript:alert(1)\n\n[a]",
    "```\"><script>alert(1)</script>\ncode\n```",
    "```<img/src=x/onerror=alert(1)>\ncode\n```",
    "```html\n<script>alert(1)</script>\n```",
    "```js\n</code></pre><script>alert(1)</script>\n```",
    "`<script>alert(1)</script>`",
    "$<script>alert(1)</script>$",
    "$$</span><img src=x onerror=alert(1)>$$",
    "# <img src=x onerror=alert(1)>",
    "| <script>alert(1)</script> | b |\n|---|---|\n| <img src=x onerror=alert(1)> | [x](javascript:alert(1)) |",
    "- <svg/onload=alert(1)>\n  - <script>alert(1)</script>",
    "> <script>alert(1)</script>\n> [!NOTE]",
    "> [!NOTE]\n> <script>alert(1)</script>",
    "<b>**x<script>**alert(1)</script></b>",
    "**<b>**<img src=x onerror=alert(1)>**</b>**",
    "<sub><script></sub>alert(1)",
    "<span class=\"host\">bank.example</span>",
    "<button class=\"copy\">Copy</button>",
    "<a",
    "<scr",
    "<img src=\"x",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\u{0}<script\u{0}>alert(1)</script>",
    "<\u{feff}script>alert(1)</script>",
    "\u{202e}<script>alert(1)</script>",
];

#[test]
fn nothing_that_a_model_writes_is_run_or_fetched() {
    for attack in ATTACKS {
        let out = html(attack);
        harmless(&out);
        // Nor does any beginning of it, nor itself inside other blocks.
        for (at, _) in attack.char_indices() {
            harmless(&html(&attack[..at]));
        }
        for around in ["- ", "> ", "a\n\n<div>\n\n", "```\nx\n```\n", "**"] {
            harmless(&html(&format!("{around}{attack}\n\nend")));
        }
    }
    harmless(&html(&ATTACKS.join("\n\n")));
    harmless(&html(&ATTACKS.concat()));
}

#[test]
fn html_is_shown_as_the_text_that_it_is() {
    assert_eq!(html("use <div> here"), "<p>use &lt;div&gt; here</p>");
    assert_eq!(html("H<sub>2</sub>O<br/>x<SUP>2</SUP>"), "<p>H<sub>2</sub>O<br>x<sup>2</sup></p>");
    assert!(html("<div>\nhello\n</div>").contains("<figure class=\"code\">"));
    assert_eq!(html("<br>"), "");
    assert_eq!(html("a <b>bold"), "<p>a <b>bold</b></p>");
}

#[test]
fn links_say_their_host_and_pictures_are_not_fetched() {
    let link = html("[x](https://user:bank.example@evil.example/bank.example)");
    assert!(
        link.contains("target=\"_blank\"") && link.contains("rel=\"noopener noreferrer nofollow\""),
        "{link}"
    );
    assert!(link.contains("<span class=\"host\">evil.example</span>"), "{link}");
    assert!(html("[x](https:\\\\evil.example\\@b.example)").find("b.example</span>").is_none());
    assert!(!html("<https://a.example/b>").contains("host"), "an address names its host");
    assert!(html("<me@a.example>").contains("href=\"mailto:me@a.example\""));
    let plain = html(
        "See https://a.example/x_y_z?q=1&r=(2) (or http://b.example/), not xhttp://c.example or https://.",
    );
    assert_eq!(plain.matches("<a ").count(), 2, "{plain}");
    assert!(
        plain.contains("href=\"https://a.example/x_y_z?q=1&amp;r=(2)\"")
            && plain.contains(">http://b.example/</a>)"),
        "{plain}"
    );
    assert!(!html("`https://a.example`").contains("<a"));
    let image = html("![a *map*](https://a.example/m.png)");
    assert!(
        image.contains("<a class=\"image\" href=\"https://a.example/m.png\"") && image.contains(">a map</a>"),
        "{image}"
    );
    assert!(
        html("![dot](data:image/png;base64,AAAA)")
            .contains("<img src=\"data:image/png;base64,AAAA\" alt=\"dot\">")
    );
}

#[test]
fn markdown_is_what_people_know() {
    assert_eq!(html("# A\n## B"), "<h3>A</h3><h4>B</h4>");
    let table = html("| a | b |\n|---|--:|\n| 1 | `2` |");
    assert!(
        table.starts_with("<div class=\"table\"><table>")
            && table.contains("<td align=\"right\"><code>2</code></td>"),
        "{table}"
    );
    assert!(table.contains("<th>a</th>") && !table.contains("style"), "{table}");
    assert!(html("- [x] done\n- [ ] not").contains("☑ done"));
    assert!(html("3. three").contains("<ol start=\"3\">"));
    assert!(html("$x_1^2$ and $$y$$").contains("<span class=\"tex\">x_1^2</span>"));
    assert!(html("it costs $5 or $10").contains("$5 or $10"));
    assert!(
        html("> [!WARNING]\n> Hot.").contains("<blockquote class=\"warning\"><p class=\"alert\">Warning</p>")
    );
    assert!(html("~~no~~").contains("<del>no</del>"));
}

#[test]
fn code_has_classes_and_no_styles() {
    let rust = html("```rust\nfn main() { let s = \"hi\"; } // done\n```");
    for part in [
        "<span class=\"lang\">rust</span>",
        "<span class=\"k\">fn </span>",
        "<span class=\"f\">main</span>",
        "<span class=\"s\">&quot;hi&quot;</span>",
        "<span class=\"c\">// done</span>",
    ] {
        let plain = part.replace("&quot;", "\"");
        assert!(rust.contains(part) || rust.contains(&plain), "{part} in {rust}");
    }
    assert!(!rust.contains("style"));
    for language in
        ["python", "ts", "toml", "c++", "json", "bash", "sql", "yaml", "html", "go", "diff", "java"]
    {
        let code = "if x = \"y\" # 1 + 2\n- a: 3\n";
        assert!(html(&format!("```{language}\n{code}```")).contains("<span class=\"lang\">"), "{language}");
        assert!(syntax_known(language), "{language}");
    }
    assert!(html("```nonesuch\na < b\n```").contains("<code>a &lt; b</code>"));
    assert!(html("    indented & plain").contains("<code>indented &amp; plain</code>"));
    let long = format!("```js\n{}\n```", "x".repeat(5000));
    assert!(html(&long).contains(&"x".repeat(5000)));
}

fn syntax_known(language: &str) -> bool {
    html(&format!(
        "```{language}\nclass A 1 \"s\" 'x' <a b=\"c\"> null true -1\n-2\n+3\n{{\"a\": 1}}\nname: \"x\"\n```"
    ))
    .matches("<span class=\"")
    .count()
        > 1
}

/// What the page has after taking in every change, as it does.
fn grown(text: &str, step: usize) -> Vec<Arc<str>> {
    let mut renderer = Renderer::default();
    let mut blocks = Vec::new();
    let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).skip(1).step_by(step).collect();
    for end in ends {
        blocks = renderer.blocks(settled(&text[..end]));
        assert_eq!(blocks, whole(settled(&text[..end])), "after {end} bytes of {text:?}");
    }
    drop(blocks);
    renderer.blocks(text)
}

#[test]
fn an_answer_rendered_as_it_grows_is_the_whole_one() {
    let text = "Intro with [ref] and **bold**.\n\nTitle\n=====\n\n1. one\n2. two\n   ```rust\n   fn a() {\n       /* b\n       c */ }\n   ```\n3. three 世界 🎉 é\n\n```python\ndef f(x):\n    '''doc\n    string'''\n    return f\"{x}\"\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> quote\n\n- - -\n\n<b>x</b> $y$\n\n[ref]: https://a.example\n";
    assert_eq!(grown(text, 1), whole(text));
    for attack in ATTACKS {
        assert_eq!(grown(attack, 1), whole(attack));
    }
    assert_eq!(grown(&ATTACKS.join("\n\n"), 37), whole(&ATTACKS.join("\n\n")));
}

#[test]
fn what_did_not_change_is_not_made_again() {
    let mut renderer = Renderer::default();
    let before = renderer.blocks("one\n\ntwo\n\nthr");
    let after = renderer.blocks("one\n\ntwo\n\nthree");
    assert!(Arc::ptr_eq(&before[0], &after[0]) && Arc::ptr_eq(&before[1], &after[1]));
    assert_ne!(before[2], after[2]);
}

#[test]
fn a_line_of_marks_waits_for_what_it_becomes() {
    assert_eq!(settled("text\n--"), "text\n");
    assert_eq!(settled("text\n- a"), "text\n- a");
    assert_eq!(settled("``"), "");
    assert_eq!(settled("a*"), "a*");
}

#[test]
fn deep_and_wide_texts_take_neither_the_stack_nor_forever() {
    let start = std::time::Instant::now();
    for (unit, n) in [
        (">", 20_000),
        ("> ", 5_000),
        ("- ", 5_000),
        ("**a ", 20_000),
        ("[", 50_000),
        ("![", 50_000),
        ("<b>", 20_000),
        ("`", 50_000),
        ("$", 20_000),
        ("http://a.b(", 5_000),
        ("|a|b|\n|-|-|\n", 2_000),
        ("```\n", 10_001),
        ("[^1]: x\n", 5_000),
    ] {
        harmless(&html(&unit.repeat(n)));
    }
    assert!(
        html(&(">".repeat(100) + " deep")).contains("deep")
            && !html(&">".repeat(100)).contains("<blockquote>")
    );
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}
