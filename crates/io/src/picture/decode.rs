//! Bytes of files to pictures, and the texts in them.

use super::{MAX_FILE, Picture, check_size, exif::Exif};
use crate::{Error, Result};
use std::{collections::BTreeMap, io::Cursor, path::Path};
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

/// Of texts in a file, unpacked.
const MAX_TEXT: usize = 4 << 20;
/// Of what PNG's reader keeps beside the picture.
const MAX_ASIDE: usize = 64 << 20;

enum Kind {
    Png,
    Jpeg,
    WebP,
}

fn kind(bytes: &[u8], path: &Path) -> Result<Kind> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Ok(Kind::Png),
        [0xff, 0xd8, 0xff, ..] => Ok(Kind::Jpeg),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Kind::WebP),
        _ => Err(Error::unsupported(path, "it is no PNG, JPEG or WebP picture; save it as one")),
    }
}

pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<Picture> {
    let (picture, exif) = match kind(bytes, path)? {
        Kind::Png => png(bytes, path)?,
        Kind::Jpeg => jpeg(bytes, path)?,
        Kind::WebP => webp(bytes, path)?,
    };
    Ok(turned(picture, exif.map_or(1, |exif| Exif::read(&exif).orientation)))
}

/// The texts of a picture's file by their keys: those of a PNG, or under `parameters` the comment in the EXIF of a JPEG or
/// WebP, where A1111 puts what made it.
///
/// # Errors
/// It is no picture, or damaged before its texts end.
pub fn texts(bytes: &[u8], path: &Path) -> Result<BTreeMap<String, String>> {
    let exif = match kind(bytes, path)? {
        Kind::Png => return png_texts(bytes, path),
        Kind::Jpeg => {
            let mut decoder = JpegDecoder::new(ZCursor::new(bytes));
            decoder.decode_headers().map_err(|e| damaged(path, e))?;
            decoder.exif().cloned()
        }
        Kind::WebP => image_webp::WebPDecoder::new(Cursor::new(bytes))
            .and_then(|mut d| d.exif_metadata())
            .map_err(|e| damaged(path, e))?,
    };
    let comment = exif.and_then(|exif| Exif::read(&exif).comment);
    Ok(comment.map(|text| ("parameters".to_owned(), text)).into_iter().collect())
}

pub(super) fn damaged(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::Damaged { path: path.into(), what: format!("the picture cannot be read ({why})") }
}

/// Checks a size that a header claims: a file of so many bytes holds no more than `most` pixels a byte, whatever is in it.
pub(super) fn sized(width: usize, height: usize, bytes: &[u8], most: usize, path: &Path) -> Result<usize> {
    let pixels = check_size(width, height).map_err(|what| Error::unsupported(path, what))?;
    match pixels <= bytes.len().saturating_mul(most) {
        true => Ok(pixels),
        false => Err(damaged(path, format!("its {} bytes hold no {width} × {height} pixels", bytes.len()))),
    }
}

/// Deflate makes 1032 bytes of one at most, and a byte may be 8 pixels.
pub(super) const MOST_PNG: usize = 8 * 1032;
/// A block of 64 pixels takes a bit at least, one of colours of 256.
const MOST_JPEG: usize = 1024;

type Decoded = (Picture, Option<Vec<u8>>);

/// Of interleaved channels: grey, grey with alpha, RGB or RGBA.
fn picture(data: &[u8], channels: usize, width: usize, height: usize) -> Picture {
    let colour = |p: &[u8]| if channels < 3 { [p[0]; 3] } else { [p[0], p[1], p[2]] };
    let rgb = data.chunks_exact(channels).flat_map(colour).collect();
    let alpha =
        channels.is_multiple_of(2).then(|| data.chunks_exact(channels).map(|p| p[channels - 1]).collect());
    Picture { width, height, rgb, alpha }
}

fn png_reader<'a>(bytes: &'a [u8], path: &Path) -> Result<png::Reader<Cursor<&'a [u8]>>> {
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: MAX_ASIDE });
    // Palettes, bits and 16 bits become bytes.
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    decoder.set_ignore_iccp_chunk(true);
    decoder.read_info().map_err(|e| damaged(path, e))
}

fn png(bytes: &[u8], path: &Path) -> Result<Decoded> {
    let mut reader = png_reader(bytes, path)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let pixels = sized(width, height, bytes, MOST_PNG, path)?;
    let channels = reader.output_color_type().0.samples();
    let size = reader.output_buffer_size().filter(|&n| n == pixels * channels);
    let mut data = vec![0; size.ok_or_else(|| damaged(path, "its rows are of no known form"))?];
    let frame = reader.next_frame(&mut data).map_err(|e| damaged(path, e))?;
    if (frame.width as usize, frame.height as usize) != (width, height) {
        return Err(damaged(path, "its first frame is not of its size"));
    }
    let exif = reader.info().exif_metadata.as_ref().map(|e| e.to_vec());
    Ok((picture(&data, channels, width, height), exif))
}

fn png_texts(bytes: &[u8], path: &Path) -> Result<BTreeMap<String, String>> {
    let mut reader = png_reader(bytes, path)?;
    sized(reader.info().width as usize, reader.info().height as usize, bytes, MOST_PNG, path)?;
    // Texts may stand after the picture, which need not be whole for those before it.
    let _ = reader.finish();
    let info = reader.info();
    let mut texts = BTreeMap::new();
    for chunk in &info.uncompressed_latin1_text {
        texts.insert(chunk.keyword.clone(), chunk.text.clone());
    }
    for chunk in &info.compressed_latin1_text {
        let mut chunk = chunk.clone();
        if chunk.decompress_text_with_limit(MAX_TEXT).is_ok()
            && let Ok(text) = chunk.get_text()
        {
            texts.insert(chunk.keyword, text);
        }
    }
    for chunk in &info.utf8_text {
        let mut chunk = chunk.clone();
        if chunk.decompress_text_with_limit(MAX_TEXT).is_ok()
            && let Ok(text) = chunk.get_text()
        {
            texts.insert(chunk.keyword, text);
        }
    }
    Ok(texts)
}

fn jpeg(bytes: &[u8], path: &Path) -> Result<Decoded> {
    let side = u16::MAX as usize;
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_max_width(side)
        .set_max_height(side)
        .set_strict_mode(false);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|e| damaged(path, e))?;
    let (width, height) = decoder.info().map_or((0, 0), |i| (i.width as usize, i.height as usize));
    let pixels = sized(width, height, bytes, MOST_JPEG, path)?;
    let data = decoder.decode().map_err(|e| damaged(path, e))?;
    if data.len() != 3 * pixels {
        return Err(damaged(path, "its colours are of no known form"));
    }
    Ok((Picture { width, height, rgb: data, alpha: None }, decoder.exif().cloned()))
}

fn webp(bytes: &[u8], path: &Path) -> Result<Decoded> {
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(bytes)).map_err(|e| damaged(path, e))?;
    decoder.set_memory_limit(MAX_FILE as usize);
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    // A picture of one colour takes next to nothing.
    let pixels = sized(width, height, bytes, usize::MAX, path)?;
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let size = decoder.output_buffer_size().filter(|&n| n == pixels * channels);
    let mut data = vec![0; size.ok_or_else(|| damaged(path, "its rows are of no known form"))?];
    decoder.read_image(&mut data).map_err(|e| damaged(path, e))?;
    let exif = decoder.exif_metadata().ok().flatten();
    Ok((picture(&data, channels, width, height), exif))
}

/// Turned and mirrored as EXIF's orientation (1 to 8) says.
fn turned(picture: Picture, orientation: u16) -> Picture {
    let (w, h) = (picture.width, picture.height);
    let (width, height) = if orientation >= 5 { (h, w) } else { (w, h) };
    let source = |x: usize, y: usize| match orientation {
        2 => (w - 1 - x, y),
        3 => (w - 1 - x, h - 1 - y),
        4 => (x, h - 1 - y),
        5 => (y, x),
        6 => (y, h - 1 - x),
        7 => (w - 1 - y, h - 1 - x),
        _ => (w - 1 - y, x),
    };
    if !(2..=8).contains(&orientation) {
        return picture;
    }
    let places = || (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| source(x, y));
    let rgb = places()
        .flat_map(|(x, y)| <[u8; 3]>::try_from(&picture.rgb[3 * (y * w + x)..][..3]))
        .flatten()
        .collect();
    let alpha = picture.alpha.as_ref().map(|a| places().map(|(x, y)| a[y * w + x]).collect());
    Picture { width, height, rgb, alpha }
}
