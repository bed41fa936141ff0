//! What the terminal shows: sizes, tables, colours, questions and progress.

use std::cell::RefCell;
use std::io::{BufRead, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use crate::error::{Error, Result};

static COLOR: OnceLock<bool> = OnceLock::new();

/// Decides once about colour: never with `--no-color`, a non-empty `NO_COLOR`, or when stdout is not a terminal.
pub fn set_color(refused: bool) {
    let unwanted = refused || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let _ = COLOR.set(!unwanted && std::io::stdout().is_terminal());
}

fn styled(code: &str, text: &str) -> String {
    if *COLOR.get().unwrap_or(&false) { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
}

/// Bold, where colour is wanted.
pub fn bold(text: &str) -> String {
    styled("1", text)
}

/// Dim, where colour is wanted.
pub fn dim(text: &str) -> String {
    styled("2", text)
}

/// Yellow, where colour is wanted: for what a person should see.
pub fn yellow(text: &str) -> String {
    styled("33", text)
}

/// A line on stderr. Where nobody reads that any more, the work goes on.
pub fn log(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A remark on stderr that is not an error.
pub fn note(text: &str) {
    log(&format!("hob: {text}"));
}

/// `98362432` is `98.4 MB`: decimal units, as the hub and disks have them.
pub fn bytes(n: u64) -> String {
    scaled(n, &[" bytes", " kB", " MB", " GB", " TB", " PB", " EB"])
}

/// `134515008` is `134.5M`: a number of parameters.
pub fn count(n: u64) -> String {
    scaled(n, &["", "K", "M", "B", "T", "Q"])
}

fn scaled(n: u64, units: &[&str]) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    // 999.95 and above would print as 1000.0 of the smaller unit.
    while value >= if unit == 0 { 1000.0 } else { 999.95 } && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n}{}", units[0]) } else { format!("{value:.1}{}", units[unit]) }
}

/// Foreign text made safe to print: no control characters (a file name may hold an escape sequence).
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// As [`clean`], but lines and tabs stay.
pub fn clean_lines(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Prints rows in columns as wide as their widest cell; `right` names the columns that align right.
pub fn table(header: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let width = |s: &str| s.chars().count();
    let mut widths: Vec<usize> = header.iter().map(|h| width(h)).collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(width(cell));
        }
    }
    let line = |cells: &[String]| {
        let mut out = String::new();
        for (i, cell) in cells.iter().enumerate() {
            let pad = " ".repeat(widths[i] - width(cell));
            match right.contains(&i) {
                true => out.push_str(&format!("{pad}{cell}")),
                false => out.push_str(&format!("{cell}{pad}")),
            }
            if i + 1 < cells.len() {
                out.push_str("  ");
            }
        }
        out.trim_end().to_string()
    };
    let head: Vec<String> = header.iter().map(|h| h.to_string()).collect();
    let mut out = dim(&line(&head)) + "\n";
    for row in rows {
        out.push_str(&(line(row) + "\n"));
    }
    out
}

/// A bar of `width` characters of which `share` (0 to 1) is full.
pub fn bar(share: f64, width: usize) -> String {
    let full = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    let full = if share > 0.0 { full.max(1) } else { 0 };
    "█".repeat(full) + &"░".repeat(width - full)
}

/// Whether a person can be asked: both stdin and stderr are terminals.
pub fn interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks on stderr; an empty answer means yes when `default` is true.
pub fn ask(question: &str, default: bool) -> Result<bool> {
    let hint = if default { "[Y/n]" } else { "[y/N]" };
    loop {
        eprint!("{question} {hint} ");
        let _ = std::io::stderr().flush();
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        match read {
            Err(e) => return Err(Error::new(format!("cannot read the answer: {}", crate::error::plain(&e)))),
            Ok(0) => return Ok(false),
            Ok(_) => {}
        }
        match line.trim().to_lowercase().as_str() {
            "" => return Ok(default),
            "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ => continue,
        }
    }
}

/// A bar of a transfer: bytes, rate and time left. Without a terminal it says one line instead.
pub fn progress(label: &str, total: Option<u64>) -> ProgressBar {
    let label = clean(label);
    let size = total.map(|t| format!(" ({})", bytes(t))).unwrap_or_default();
    if !std::io::stderr().is_terminal() {
        note(&format!("fetching {label}{size}"));
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg}  {wide_bar} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {msg}  {decimal_bytes}  {decimal_bytes_per_sec}  {elapsed}",
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    }
    bar.set_message(label);
    bar
}

/// A spinner with a message for work whose end is not known.
pub fn spinner(message: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        note(&clean(message));
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed}") {
        spinner.set_style(style);
    }
    spinner.set_message(clean(message));
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

/// A spinner for work that takes about so long, with the time that is left.
pub fn timed(message: &str, about: Duration) -> ProgressBar {
    let spinner = spinner(message);
    let left = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = match about.saturating_sub(state.elapsed()).as_secs_f64().ceil() as u64 {
            0 => write!(out, "almost done"),
            seconds => write!(out, "about {seconds} s left"),
        };
    };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {left}") {
        spinner.set_style(style.with_key("left", left));
    }
    spinner
}

/// A bar for counted work that appears only when the work has lasted a second.
pub struct Delayed {
    label: &'static str,
    start: Instant,
    bar: RefCell<Option<ProgressBar>>,
}

/// Begins counted work.
pub fn delayed(label: &'static str) -> Delayed {
    Delayed { label, start: Instant::now(), bar: RefCell::default() }
}

impl Delayed {
    /// So much of it is done.
    pub fn set(&self, done: u64, all: u64) {
        let mut bar = self.bar.borrow_mut();
        if bar.is_none() {
            if self.start.elapsed() < Duration::from_secs(1) || !std::io::stderr().is_terminal() {
                return;
            }
            let new = ProgressBar::new(all).with_elapsed(self.start.elapsed());
            if let Ok(style) = ProgressStyle::with_template("{msg}  {wide_bar} {pos}/{len}  {eta} left") {
                new.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
            }
            new.set_message(self.label);
            *bar = Some(new);
        }
        if let Some(bar) = &*bar {
            bar.set_position(done);
        }
    }
}

impl Drop for Delayed {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(999), "999 bytes");
        assert_eq!(bytes(1000), "1.0 kB");
        assert_eq!(bytes(98_362_432), "98.4 MB");
        assert_eq!(bytes(999_999), "1.0 MB");
        assert_eq!(bytes(u64::MAX), "18.4 EB");
        assert_eq!(count(134_515_008), "134.5M");
        assert_eq!(count(7_000_000_000), "7.0B");
        assert_eq!(count(12), "12");
    }

    #[test]
    fn tables_align_and_bars_fill() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["long".into(), "22".into()]];
        assert_eq!(table(&["n", "size"], &rows, &[1]), "n     size\na        1\nlong    22\n");
        assert_eq!(bar(0.5, 4), "██░░");
        assert_eq!(bar(0.001, 4), "█░░░");
        assert_eq!(bar(0.0, 2), "░░");
    }

    #[test]
    fn escape_sequences_are_not_printed() {
        assert_eq!(clean("a\x1b[31m\nb"), "a\u{fffd}[31m\u{fffd}b");
        assert_eq!(clean_lines("a\n\tb\x07"), "a\n\tb\u{fffd}");
    }
}
