//! Pictures in files: PNG, JPEG and WebP are read, PNG is written with what made the picture in it.

mod decode;
mod exif;
mod heights;
mod infotext;
mod recipe;
mod resize;
mod text;

use crate::{Error, Result};
pub use decode::texts;
pub use heights::Map;
pub use infotext::label;
pub use recipe::{Init, Lora, Recipe};
pub use resize::{Filter, area, nearest};
use std::{fs::File, io::Read, path::Path};

/// Of a file: more than any camera writes.
const MAX_FILE: u64 = 256 << 20;
/// Of a picture: 8192 × 8192.
const MAX_PIXELS: usize = 1 << 26;

/// A picture of 8 bits a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Red, green and blue of each pixel, row by row: `(H, W, 3)`.
    pub rgb: Vec<u8>,
    /// How opaque each pixel is, where the file says it: `(H, W)`.
    pub alpha: Option<Vec<u8>>,
}

impl Picture {
    /// Reads a file: PNG, JPEG or WebP, by its content, turned as its EXIF says.
    ///
    /// # Errors
    /// It cannot be read, is none of these or damaged, or has more than 67 million pixels.
    pub fn open(path: &Path) -> Result<Picture> {
        Picture::read(&read_file(path)?, path)
    }

    /// The same of a file's bytes; `path` is for errors.
    pub fn read(bytes: &[u8], path: &Path) -> Result<Picture> {
        decode::decode(bytes, path)
    }

    /// Of `(H, W, 3)` bytes.
    ///
    /// # Errors
    /// The bytes are not as many as the size says, or too many.
    pub fn of_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Result<Picture, String> {
        match check_size(width, height)? * 3 == rgb.len() {
            true => Ok(Picture { width, height, rgb, alpha: None }),
            false => Err(format!("{} bytes are no picture of {width} × {height}", rgb.len())),
        }
    }

    /// The picture laid over a colour, such as white (as A1111 does) or black; without alpha it is as it was.
    pub fn over(mut self, colour: [u8; 3]) -> Picture {
        if let Some(alpha) = self.alpha.take() {
            for (pixel, &a) in self.rgb.chunks_exact_mut(3).zip(&alpha) {
                for (x, &c) in pixel.iter_mut().zip(&colour) {
                    // The division by 255 is rounded.
                    let sum = *x as u32 * a as u32 + c as u32 * (255 - a as u32);
                    *x = ((sum + 127) / 255) as u8;
                }
            }
        }
        self
    }

    /// Without its alpha; what the file holds under transparent pixels shows, as with PIL's `convert("RGB")`, which
    /// diffusers and ComfyUI use.
    pub fn opaque(self) -> Picture {
        Picture { alpha: None, ..self }
    }

    /// The brightness of each pixel, `(H, W)`: PIL's `convert("L")`.
    pub fn grey(&self) -> Vec<u8> {
        let grey = |p: &[u8]| (p[0] as u32 * 19595 + p[1] as u32 * 38470 + p[2] as u32 * 7471 + 0x8000) >> 16;
        self.rgb.chunks_exact(3).map(|p| grey(p) as u8).collect()
    }

    /// At another size, as PIL's `resize` does it (value for value). Alpha is resized by itself.
    ///
    /// # Errors
    /// The size is zero or too large.
    pub fn resized(&self, width: usize, height: usize, filter: Filter) -> Result<Picture, String> {
        check_size(width, height)?;
        let to = (width, height);
        let from = (self.width, self.height);
        Ok(Picture {
            width,
            height,
            rgb: resize::resize(&self.rgb, 3, from, to, filter),
            alpha: self.alpha.as_ref().map(|a| resize::resize(a, 1, from, to, filter)),
        })
    }

    /// As a VAE takes it: `(3, H, W)` in -1..1.
    pub fn planes(&self) -> Vec<f32> {
        let channel = |c: usize| self.rgb.iter().skip(c).step_by(3).map(|&x| x as f32 / 255.0 * 2.0 - 1.0);
        (0..3).flat_map(channel).collect()
    }

    /// Of what a VAE gives, `(3, H, W)` in -1..1; what is beyond is cut off.
    ///
    /// # Errors
    /// The values are not as many as the size says.
    pub fn from_planes(planes: &[f32], width: usize, height: usize) -> Result<Picture, String> {
        let pixels = check_size(width, height)?;
        if planes.len() != 3 * pixels {
            return Err(format!("{} values are no picture of {width} × {height}", planes.len()));
        }
        // As diffusers rounds: to even.
        let byte = |x: f32| ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        let rgb = (0..pixels).flat_map(|i| (0..3).map(move |c| byte(planes[c * pixels + i]))).collect();
        Ok(Picture { width, height, rgb, alpha: None })
    }

    /// As a mask for pictures of a size, `(H, W)` of 0 (keep) and 1 (paint anew): resized by Lanczos, grey, and cut at the
    /// half, as diffusers' mask processor does.
    ///
    /// # Errors
    /// The size is zero or too large.
    pub fn mask(&self, width: usize, height: usize) -> Result<Vec<f32>, String> {
        let resized = self.resized(width, height, Filter::Lanczos)?;
        Ok(resized.grey().into_iter().map(|x| if x as f32 / 255.0 < 0.5 { 0.0 } else { 1.0 }).collect())
    }

    /// The picture as a PNG, with texts under their keys: in Latin-1 where it has all their letters, else in UTF-8, as PIL
    /// writes them.
    ///
    /// # Errors
    /// Its values are not as many as its size says, or a key is none of PNG's (1 to 79 letters of Latin-1).
    pub fn png(&self, texts: &[(&str, &str)]) -> Result<Vec<u8>, String> {
        text::png(self, texts)
    }
}

/// The bytes of a picture's file.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Err(Error::unsupported(path, "it is a folder; give the path of a picture"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| Error::read(path, e))?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err(Error::unsupported(path, "it is larger than 256 MB; save it smaller")),
        false => Ok(bytes),
    }
}

/// The pixels of a size that a picture may have.
fn check_size(width: usize, height: usize) -> Result<usize, String> {
    match width.checked_mul(height) {
        Some(n @ 1..=MAX_PIXELS) => Ok(n),
        _ => Err(format!(
            "a picture of {width} × {height} pixels is more than the {MAX_PIXELS} that are read, or none"
        )),
    }
}
