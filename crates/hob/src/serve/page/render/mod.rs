//! Answers as HTML: Markdown in blocks, code in colours, and nothing that a browser would run or fetch.
//!
//! HTML that a model writes is shown as the text that it is, but for a few tags that only shape words. Links lead to http,
//! https and mailto, and say their host; pictures of other hosts are links, so that looking at an answer tells nobody.

mod code;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use ammonia::{Builder, UrlRelative};
use pulldown_cmark::{
    Alignment, CodeBlockKind, CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, TextMergeStream,
    html,
};

pub use code::warm;

/// Tags that a model may write itself, without attributes.
const SHAPING: [&str; 13] =
    ["b", "br", "del", "em", "i", "ins", "kbd", "mark", "s", "strong", "sub", "sup", "u"];

/// Blocks within blocks; what is deeper is nothing that anyone would write, takes a browser long, and is shown as text.
const DEEPEST: usize = 64;

/// The classes that code and links have; `page.css` gives them their looks.
const CLASSES: [(&str, &[&str]); 7] = [
    ("a", &["image"]),
    ("button", &["copy"]),
    ("div", &["table", "math"]),
    ("figure", &["code"]),
    ("p", &["alert"]),
    ("blockquote", &["note", "tip", "important", "warning", "caution"]),
    ("span", code::CLASSES),
];

static SANITISER: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let tags = "a blockquote button code del div em figcaption figure h3 h4 h5 h6 hr img li ol p pre span strong table tbody td
                th thead tr ul";
    let mut builder = Builder::empty();
    builder
        .tags(tags.split_whitespace().chain(SHAPING).collect())
        .clean_content_tags(HashSet::from(["script", "style"]))
        .tag_attributes(HashMap::from([
            ("a", HashSet::from(["href"])),
            ("button", HashSet::from(["type"])),
            ("img", HashSet::from(["alt", "src"])),
            ("ol", HashSet::from(["start"])),
            ("td", HashSet::from(["align"])),
            ("th", HashSet::from(["align"])),
        ]))
        .allowed_classes(CLASSES.map(|(tag, names)| (tag, names.iter().copied().collect())).into())
        .url_schemes(HashSet::from(["http", "https", "mailto", "data"]))
        .url_relative(UrlRelative::Deny)
        .attribute_filter(|tag, name, value| match (tag, name) {
            ("a", "href") => linkable(value).then_some(Cow::Borrowed(value)),
            ("img", "src") => picture(value).then_some(Cow::Borrowed(value)),
            _ => Some(Cow::Borrowed(value)),
        })
        .link_rel(Some("noopener noreferrer nofollow"))
        .set_tag_attribute_values(HashMap::from([("a", HashMap::from([("target", "_blank")]))]));
    builder
});

fn starts(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|t| t.eq_ignore_ascii_case(prefix))
}

fn linkable(url: &str) -> bool {
    ["http://", "https://", "mailto:"].iter().any(|s| starts(url, s))
}

/// Pixels that are in the address itself.
fn picture(url: &str) -> bool {
    ["png", "jpeg", "gif", "webp"].iter().any(|f| starts(url, &format!("data:image/{f};base64,")))
}

/// The host that a link leads to, as a browser would read it.
fn host(url: &str) -> Option<&str> {
    let rest = &url[url.find("://")? + 3..];
    let authority = rest.split(['/', '\\', '?', '#']).find(|part| !part.is_empty())?;
    Some(authority.rsplit('@').next().unwrap_or(authority))
}

/// Text between tags and in attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c => out.push(c),
        }
    }
    out
}

/// Renders an answer again and again while it grows; blocks that did not change are kept.
#[derive(Default)]
pub struct Renderer {
    /// of each block, what it was made of and what it became
    blocks: Vec<(String, Arc<str>)>,
    code: code::Growing,
}

impl Renderer {
    /// The blocks of `markdown`, of a whole answer or of one that is still written.
    pub fn blocks(&mut self, markdown: &str) -> Vec<Arc<str>> {
        let options = Options::ENABLE_TABLES
            | Options::ENABLE_STRIKETHROUGH
            | Options::ENABLE_TASKLISTS
            | Options::ENABLE_MATH
            | Options::ENABLE_GFM;
        let mut done = Vec::new();
        let mut events = Vec::new();
        let (mut depth, mut deepest) = (0, 0);
        for event in Parser::new_ext(markdown, options) {
            match event {
                Event::Start(_) => depth += 1,
                Event::End(_) => depth -= 1,
                _ => {}
            }
            events.push(event);
            deepest = deepest.max(depth);
            if depth == 0 {
                let mut block = std::mem::take(&mut events);
                if std::mem::take(&mut deepest) > DEEPEST {
                    block = vec![Event::Text(inner(&mut block.into_iter().skip(1)).into())];
                }
                done.push(self.block(done.len(), block));
            }
        }
        self.blocks.truncate(done.len());
        done
    }

    fn block(&mut self, at: usize, events: Vec<Event>) -> Arc<str> {
        let mut key = String::new();
        html::push_html(&mut key, events.iter().cloned());
        if let Some((made_of, block)) = self.blocks.get(at)
            && *made_of == key
        {
            return block.clone();
        }
        let block: Arc<str> = self.clean(events).into();
        self.blocks.truncate(at);
        self.blocks.push((key, block.clone()));
        block
    }

    fn clean(&mut self, events: Vec<Event>) -> String {
        let mut writer = Writer { out: Vec::with_capacity(events.len()), ..Writer::default() };
        let mut events = TextMergeStream::new(events.into_iter());
        while let Some(event) = events.next() {
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let language = match &kind {
                        CodeBlockKind::Fenced(info) => info.split([' ', ',', '{']).next().unwrap_or_default(),
                        CodeBlockKind::Indented => "",
                    };
                    writer.html(self.code.figure(language, &inner(&mut events)));
                }
                Event::Start(Tag::HtmlBlock) => {
                    let text = inner(&mut events);
                    if !text.trim().split_inclusive('>').all(|t| shaping(t.trim())) {
                        writer.html(self.code.figure("html", &text));
                    }
                }
                Event::Start(Tag::Image { dest_url, .. }) => {
                    let alt = inner(&mut events);
                    writer.image(&dest_url, alt.trim());
                }
                event => writer.event(event),
            }
        }
        let mut raw = String::new();
        html::push_html(&mut raw, writer.out.into_iter());
        SANITISER.clean(raw.trim_end()).to_string()
    }
}

/// A whole answer.
pub fn whole(markdown: &str) -> Vec<Arc<str>> {
    Renderer::default().blocks(markdown)
}

/// As much of an answer that is still written as will not look like something else a moment later: a last line of marks
/// alone may become a rule, a heading's underline, a fence or a table.
pub fn settled(markdown: &str) -> &str {
    let start = markdown.rfind('\n').map_or(0, |at| at + 1);
    let marks = |c: char| "-=*_`~|#>:+ ".contains(c);
    if markdown[start..].chars().all(marks) { &markdown[..start] } else { markdown }
}

/// The text up to the end of what has just begun.
fn inner<'a>(events: &mut impl Iterator<Item = Event<'a>>) -> String {
    let (mut text, mut depth) = (String::new(), 1);
    for event in events.by_ref() {
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            Event::Text(t) | Event::Code(t) | Event::Html(t) | Event::InlineHtml(t) => text += &t,
            Event::InlineMath(t) | Event::DisplayMath(t) => text += &t,
            Event::SoftBreak | Event::HardBreak => text.push('\n'),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    text
}

/// Whether a tag only shapes words, as `<b>`, `</sub>` or `<br />` do.
fn shaping(tag: &str) -> bool {
    let name = tag.strip_prefix('<').and_then(|t| t.strip_suffix('>')).unwrap_or_default();
    let name = name.strip_prefix('/').unwrap_or(name).trim_end_matches(['/', ' ']);
    SHAPING.iter().any(|t| t.eq_ignore_ascii_case(name))
}

/// Events as they are to be written.
#[derive(Default)]
struct Writer<'a> {
    out: Vec<Event<'a>>,
    /// of each open link, its address where it may be followed, and where its text begins in `said`
    links: Vec<(Option<CowStr<'a>>, usize)>,
    said: String,
    /// how the columns of the table stand, the column that is next, and whether the row is the head
    columns: Vec<Alignment>,
    column: usize,
    head: bool,
}

impl<'a> Writer<'a> {
    fn html(&mut self, html: impl Into<CowStr<'a>>) {
        self.out.push(Event::InlineHtml(html.into()));
    }

    fn link(&mut self, url: &str, class: &str) {
        self.html(format!("<a{class} href=\"{}\">", escape(url)));
    }

    /// The end of a link, with its host unless its text names it.
    fn close(&mut self, url: &str, text: &str) {
        let named = host(url).filter(|h| !text.contains(h));
        let shown = named.map_or(String::new(), |h| format!("<span class=\"host\">{}</span>", escape(h)));
        self.html(format!("</a>{shown}"));
    }

    /// Text, with the addresses in it as links.
    fn text(&mut self, text: &str) {
        let mut rest = text;
        while let Some((start, end)) = address(rest) {
            let (before, url) = (&rest[..start], &rest[start..end]);
            self.out.push(Event::Text(before.to_string().into()));
            self.link(url, "");
            self.out.push(Event::Text(url.to_string().into()));
            self.close(url, url);
            rest = &rest[end..];
        }
        self.out.push(Event::Text(rest.to_string().into()));
    }

    fn image(&mut self, url: &str, alt: &str) {
        if picture(url) {
            self.html(format!("<img src=\"{}\" alt=\"{}\">", escape(url), escape(alt)));
        } else if linkable(url) && self.links.is_empty() {
            let alt = if alt.is_empty() { "picture" } else { alt };
            self.link(url, " class=\"image\"");
            self.out.push(Event::Text(alt.to_string().into()));
            self.close(url, alt);
        } else {
            self.said += alt;
            self.out.push(Event::Text(alt.to_string().into()));
        }
    }

    fn event(&mut self, event: Event<'a>) {
        match event {
            Event::Start(Tag::Link { dest_url, link_type, .. }) => {
                let email = link_type == pulldown_cmark::LinkType::Email;
                let url = if email { format!("mailto:{dest_url}").into() } else { dest_url };
                let url = Some(url).filter(|u: &CowStr| linkable(u));
                if let Some(url) = &url {
                    self.link(url, "");
                }
                self.links.push((url, self.said.len()));
            }
            Event::End(TagEnd::Link) => {
                if let Some((Some(url), start)) = self.links.pop() {
                    let text = self.said.get(start..).unwrap_or_default().to_string();
                    self.close(&url, &text);
                }
            }
            // Below the page's own headings.
            Event::Start(Tag::Heading { level, .. }) => {
                let level = below(level);
                self.out.push(Event::Start(Tag::Heading { level, id: None, classes: vec![], attrs: vec![] }));
            }
            Event::End(TagEnd::Heading(level)) => self.out.push(Event::End(TagEnd::Heading(below(level)))),
            Event::Start(Tag::Table(columns)) => {
                self.html("<div class=\"table\">");
                // Cells are written here, as the library gives them styles, which the page's policy forbids.
                self.out.push(Event::Start(Tag::Table(Vec::new())));
                self.columns = columns;
            }
            Event::Start(row @ (Tag::TableHead | Tag::TableRow)) => {
                (self.column, self.head) = (0, row == Tag::TableHead);
                self.out.push(Event::Start(row));
            }
            Event::Start(Tag::TableCell) => {
                let align = match self.columns.get(self.column) {
                    Some(Alignment::Right) => " align=\"right\"",
                    Some(Alignment::Center) => " align=\"center\"",
                    _ => "",
                };
                self.column += 1;
                self.html(format!("<{}{align}>", if self.head { "th" } else { "td" }));
            }
            Event::End(TagEnd::TableCell) => self.html(if self.head { "</th>" } else { "</td>" }),
            Event::End(TagEnd::Table) => {
                self.out.push(Event::End(TagEnd::Table));
                self.html("</div>");
            }
            Event::Start(Tag::BlockQuote(Some(kind))) => {
                use pulldown_cmark::BlockQuoteKind as K;
                let (class, name) = match kind {
                    K::Note => ("note", "Note"),
                    K::Tip => ("tip", "Tip"),
                    K::Important => ("important", "Important"),
                    K::Warning => ("warning", "Warning"),
                    K::Caution => ("caution", "Caution"),
                };
                self.html(format!("<blockquote class=\"{class}\"><p class=\"alert\">{name}</p>"));
            }
            Event::End(TagEnd::BlockQuote(Some(_))) => self.html("</blockquote>"),
            Event::TaskListMarker(done) => self.out.push(Event::Text(if done { "☑ " } else { "☐ " }.into())),
            Event::InlineMath(tex) => self.html(format!("<span class=\"tex\">{}</span>", escape(&tex))),
            Event::DisplayMath(tex) => {
                self.html(format!("<span class=\"tex display\">{}</span>", escape(tex.trim())));
            }
            Event::Html(text) | Event::InlineHtml(text) => {
                let shapes = shaping(&text);
                self.out.push(if shapes { Event::InlineHtml(text) } else { Event::Text(text) });
            }
            Event::Text(text) if self.links.is_empty() => self.text(&text),
            event => {
                if let Event::Text(t) | Event::Code(t) = &event {
                    self.said += t;
                }
                self.out.push(event);
            }
        }
    }
}

/// The first address in a text, as bytes from and to: up to a blank, without the marks that end a sentence around it.
fn address(text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    loop {
        let start = from + text[from..].find("http")?;
        let rest = &text[start..];
        from = start + 4;
        let scheme = ["https://", "http://"].iter().find(|s| rest.starts_with(**s)).map_or(0, |s| s.len());
        let apart = !text[..start].ends_with(|c: char| c.is_alphanumeric());
        let end = rest.find(|c: char| c.is_whitespace() || "<>\"`".contains(c)).unwrap_or(rest.len());
        let mut url = &rest[..end];
        loop {
            let cut = url.trim_end_matches(['.', ',', ';', ':', '!', '?', '\'', '*', '_', '~']);
            let open = cut.matches('(').count() < cut.matches(')').count();
            url = if open { cut.strip_suffix(')').unwrap_or(cut) } else { cut };
            if url.len() == cut.len() {
                break;
            }
        }
        if scheme > 0 && apart && url.len() > scheme {
            return Some((start, start + url.len()));
        }
    }
}

fn below(level: HeadingLevel) -> HeadingLevel {
    match level {
        HeadingLevel::H1 => HeadingLevel::H3,
        HeadingLevel::H2 => HeadingLevel::H4,
        HeadingLevel::H3 => HeadingLevel::H5,
        _ => HeadingLevel::H6,
    }
}
