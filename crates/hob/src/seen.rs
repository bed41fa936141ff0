//! A picture as it comes into being: in the terminal, and in a file.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;

use hob_engine::diffuse::Preview;
use hob_io::Picture;
use hob_io::picture::Filter;

use crate::error::{Error, Result};
use crate::terminal;

/// Columns of a terminal that a picture takes.
const COLUMNS: usize = 48;
/// Rows of it, each of two pixels.
const ROWS: usize = 32;

/// Shows each step.
pub struct Seen {
    preview: Preview,
    /// latents, in rows and columns
    size: (usize, usize),
    drawn: bool,
    file: Option<PathBuf>,
    /// lines that stand there from the step before
    lines: usize,
}

impl Seen {
    /// Of pictures whose latents are of that size; drawn where the terminal is one with colours and somebody wants it.
    pub fn new(preview: Preview, size: (usize, usize), draw: bool, file: Option<PathBuf>) -> Seen {
        Seen { preview, size, drawn: draw && std::io::stderr().is_terminal(), file, lines: 0 }
    }

    /// Whether it draws, so that nothing else should.
    pub fn draws(&self) -> bool {
        self.drawn
    }

    /// Shows what latents stand for, with a line below it.
    ///
    /// # Errors
    /// The file cannot be written, or the preview cannot be made.
    pub fn step(&mut self, latents: &[f32], line: &str) -> Result<()> {
        let picture = self.preview.picture(latents, self.size.0, self.size.1)?;
        if let Some(file) = &self.file {
            crate::file::write(file, &picture.png(&[]).map_err(Error::new)?)?;
        }
        if self.drawn {
            let text = blocks(&picture)?;
            let mut out = std::io::stderr().lock();
            let up = if self.lines > 0 { format!("\x1b[{}A", self.lines) } else { String::new() };
            self.lines = text.lines().count() + 1;
            let _ = writeln!(out, "{up}{text}\x1b[2K{}", terminal::clean(line));
            let _ = out.flush();
        }
        Ok(())
    }

    /// Lets go of its memory until the next step.
    pub fn rest(&mut self) {
        self.preview.rest();
    }

    /// The next picture goes over the last.
    pub fn end(&mut self) {
        if self.drawn && self.lines > 0 {
            let _ = write!(std::io::stderr().lock(), "\x1b[{}A\x1b[J", self.lines);
            self.lines = 0;
        }
    }
}

/// A picture in half blocks, two pixels a letter, in 24-bit colours.
fn blocks(picture: &Picture) -> Result<String> {
    let (width, height) = (picture.width as f64, picture.height as f64);
    let by = (COLUMNS as f64 / width).min(2.0 * ROWS as f64 / height);
    let side = |n: f64| ((n * by).round() as usize).max(1);
    let small = picture.resized(side(width), side(height), Filter::Lanczos).map_err(Error::new)?;
    let pixel = |x: usize, y: usize| {
        let at = 3 * (y.min(small.height - 1) * small.width + x);
        (small.rgb[at], small.rgb[at + 1], small.rgb[at + 2])
    };
    let mut text = String::new();
    for y in (0..small.height).step_by(2) {
        let mut last = None;
        for x in 0..small.width {
            let both @ ((a, b, c), (d, e, f)) = (pixel(x, y), pixel(x, y + 1));
            if last.replace(both) != Some(both) {
                let _ = write!(text, "\x1b[38;2;{a};{b};{c};48;2;{d};{e};{f}m");
            }
            text.push('▀');
        }
        text.push_str("\x1b[0m\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_rows_of_pixels_are_one_of_letters() {
        let rgb = [[255, 0, 0], [255, 0, 0], [0, 0, 255], [0, 0, 255]].concat();
        let picture = Picture::of_rgb(2, 2, rgb).unwrap();
        let text = blocks(&picture).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), COLUMNS / 2);
        assert!(lines.iter().all(|l| l.matches('▀').count() == COLUMNS && l.ends_with("\x1b[0m")));
        assert!(lines[0].starts_with("\x1b[38;2;255;0;0;48;2;255;0;0m"), "{:?}", lines[0]);
        assert!(lines[COLUMNS / 2 - 1].starts_with("\x1b[38;2;0;0;255;48;2;0;0;255m"));
        let tall = Picture::of_rgb(1, 100, vec![7; 300]).unwrap();
        assert_eq!(blocks(&tall).unwrap().lines().count(), ROWS);
    }
}
