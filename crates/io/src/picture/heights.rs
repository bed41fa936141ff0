//! Maps of heights in files: PNG of 16-bit grey, and numpy's arrays.

use super::{MAX_FILE, Picture, check_size, decode};
use crate::{Error, Result};
use png::{BitDepth, ColorType, Decoder, Encoder, Limits, Transformations};
use std::{io::Cursor, path::Path};

/// What numpy's files begin with (`numpy/lib/format.py`), before the version and the length of the header.
const NUMPY: &[u8] = b"\x93NUMPY";

/// A map of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Row by row: `(H, W)`.
    pub values: Vec<f32>,
}

impl Map {
    /// A PNG of 16-bit grey from the lowest number, black, to the highest, white, with texts under their keys.
    ///
    /// # Errors
    /// As [`Picture::png`].
    pub fn png(&self, texts: &[(&str, &str)]) -> Result<Vec<u8>, String> {
        let least = self.values.iter().copied().fold(f32::INFINITY, f32::min);
        let most = self.values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let span = if most > least { most - least } else { 1.0 };
        let grey = |x: f32| ((x - least) / span * 65535.0).round_ties_even() as u16;
        let data: Vec<u8> = self.values.iter().flat_map(|&x| grey(x).to_be_bytes()).collect();
        let fail = |e: png::EncodingError| format!("the map cannot be written as PNG ({e})");
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out, self.width as u32, self.height as u32);
        encoder.set_depth(BitDepth::Sixteen);
        encoder.set_color(ColorType::Grayscale);
        super::text::add(&mut encoder, texts).map_err(fail)?;
        let mut writer = encoder.write_header().map_err(fail)?;
        writer.write_image_data(&data).and_then(|()| writer.finish()).map_err(fail)?;
        Ok(out)
    }

    /// The numbers as numpy saves an array `(H, W)` of float32.
    pub fn npy(&self) -> Vec<u8> {
        let (height, width) = (self.height, self.width);
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({height}, {width}), }}");
        // The data begin at a multiple of 64.
        let length = (NUMPY.len() + 4 + header.len() + 1).next_multiple_of(64) - NUMPY.len() - 4;
        let mut out = [NUMPY, &[1, 0], &(length as u16).to_le_bytes()].concat();
        out.extend(format!("{header:<0$}\n", length - 1).bytes());
        out.extend(self.values.iter().flat_map(|x| x.to_le_bytes()));
        out
    }

    /// Reads what [`Map::npy`] writes, also of float64; or the grey of a picture in 0..1, of 16 bits where it has them.
    ///
    /// # Errors
    /// The file cannot be read, is neither or damaged, holds another array, or numbers that are none.
    pub fn open(path: &Path) -> Result<Map> {
        Map::read(&super::read_file(path)?, path)
    }

    /// The same of a file's bytes; `path` is for errors.
    pub fn read(bytes: &[u8], path: &Path) -> Result<Map> {
        if let Some(rest) = bytes.strip_prefix(NUMPY) {
            return array(rest, path);
        }
        match grey(bytes, path)? {
            Some(map) => Ok(map),
            None => {
                let picture = Picture::read(bytes, path)?;
                let values = picture.grey().into_iter().map(|x| f32::from(x) / 255.0).collect();
                Ok(Map { width: picture.width, height: picture.height, values })
            }
        }
    }

    /// Whether a file's bytes are numpy's.
    pub fn is_array(bytes: &[u8]) -> bool {
        bytes.starts_with(NUMPY)
    }
}

/// The grey of a PNG that has 16 bits of it.
fn grey(bytes: &[u8], path: &Path) -> Result<Option<Map>> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MAX_FILE as usize });
    decoder.set_transformations(Transformations::IDENTITY);
    let Ok(mut reader) = decoder.read_info() else { return Ok(None) };
    if reader.output_color_type() != (ColorType::Grayscale, BitDepth::Sixteen) {
        return Ok(None);
    }
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let pixels = decode::sized(width, height, bytes, decode::MOST_PNG, path)?;
    let mut data = vec![0; 2 * pixels];
    reader.next_frame(&mut data).map_err(|e| decode::damaged(path, e))?;
    let value = |b: &[u8]| f32::from(u16::from_be_bytes([b[0], b[1]])) / 65535.0;
    Ok(Some(Map { width, height, values: data.chunks_exact(2).map(value).collect() }))
}

/// An array after its first bytes.
fn array(rest: &[u8], path: &Path) -> Result<Map> {
    let damaged = |what: &str| Error::damaged(path, format!("numpy's array cannot be read ({what})"));
    let (length, skip) = match rest {
        [1, _, a, b, ..] => (u16::from_le_bytes([*a, *b]).into(), 4),
        [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 6),
        _ => return Err(damaged("its version is unknown")),
    };
    let header = rest.get(skip..skip + length).and_then(|h| std::str::from_utf8(h).ok());
    let header = header.ok_or_else(|| damaged("it ends within its header"))?;
    let data = &rest[skip + length..];
    let value = |key: &str| Some(header.split_once(&format!("'{key}':"))?.1.trim_start());
    let wide = match value("descr") {
        Some(v) if v.starts_with("'<f4'") => false,
        Some(v) if v.starts_with("'<f8'") => true,
        _ => {
            return Err(Error::unsupported(
                path,
                "its numbers are neither float32 nor float64; save it as one of them",
            ));
        }
    };
    let shape = value("shape").and_then(|v| v.strip_prefix('(')?.split_once(')'));
    let shape =
        shape.map(|(dims, _)| dims.split(',').map(str::trim).filter(|d| !d.is_empty()).map(str::parse));
    let shape = shape.and_then(|dims| dims.collect::<Result<Vec<usize>, _>>().ok());
    let rows = value("fortran_order").is_some_and(|v| v.starts_with("False"));
    let (Some([height, width]), true) = (shape.as_deref(), rows) else {
        return Err(Error::unsupported(
            path,
            "it is no array of two dimensions, row by row; save one map of heights",
        ));
    };
    let pixels = check_size(*width, *height).map_err(|what| Error::unsupported(path, what))?;
    if data.len() != pixels * if wide { 8 } else { 4 } {
        return Err(damaged("its data are not as many as its shape says"));
    }
    let values: Vec<f32> = match wide {
        true => data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
        false => data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
    };
    match values.iter().all(|x| x.is_finite()) {
        true => Ok(Map { width: *width, height: *height, values }),
        false => Err(damaged("it holds NaN or infinity")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> Map {
        Map { width: 3, height: 2, values: vec![0.0, 1.0, 0.25, 0.5, 0.75, 1e-4] }
    }

    #[test]
    fn what_is_written_is_read() {
        let (map, path) = (map(), Path::new("x"));
        let npy = map.npy();
        assert_eq!((npy.len(), &npy[..8]), (128 + 24, &b"\x93NUMPY\x01\0"[..]));
        assert!(npy[..128].ends_with(b"\n"));
        assert_eq!(Map::read(&npy, path).unwrap(), map);
        let png = map.png(&[("hob", "x")]).unwrap();
        let read = Map::read(&png, path).unwrap();
        assert_eq!((read.width, read.height), (3, 2));
        assert!(read.values.iter().zip(&map.values).all(|(a, b)| (a - b).abs() <= 0.5 / 65535.0));
        assert_eq!(super::super::texts(&png, path).unwrap()["hob"], "x");
        // Other programs see a picture.
        assert_eq!(Picture::read(&png, path).unwrap().rgb[..6], [0, 0, 0, 255, 255, 255]);
        let eight = Picture::of_rgb(1, 1, vec![51; 3]).unwrap().png(&[]).unwrap();
        assert_eq!(Map::read(&eight, path).unwrap().values, [0.2]);
        assert!(Map { values: vec![3.0; 6], ..map }.png(&[]).is_ok());
    }

    #[test]
    fn damaged_arrays_are_refused() {
        let (npy, path) = (map().npy(), Path::new("x"));
        for end in 0..npy.len() {
            assert!(Map::read(&npy[..end], path).is_err(), "{end}");
        }
        let with = |from: &str, to: &str| {
            assert_eq!(from.len(), to.len());
            let at = npy.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            let changed = [&npy[..at], to.as_bytes(), &npy[at + to.len()..]].concat();
            Map::read(&changed, path).unwrap_err().to_string()
        };
        assert!(with("<f4", "<i4").contains("neither float32"));
        assert!(with("(2, 3)", "(2, 4)").contains("not as many"));
        assert!(with("(2, 3)", "(6,  )").contains("two dimensions"));
        assert!(with("(2, 3)", "(0, 3)").contains("or none"));
        assert!(with("False", "True ").contains("row by row"));
        let mut nan = npy.clone();
        nan[128..132].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(Map::read(&nan, path).unwrap_err().to_string().contains("NaN"));
    }
}
