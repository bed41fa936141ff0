//! Writing PNG with texts in it.

use super::Picture;
use png::{BitDepth, ColorType, Encoder, EncodingError};

/// PNG forbids it in texts.
const NUL: char = '\0';

pub(super) fn png(picture: &Picture, texts: &[(&str, &str)]) -> Result<Vec<u8>, String> {
    let fail = |e: EncodingError| format!("the picture cannot be written as PNG ({e})");
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, picture.width as u32, picture.height as u32);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_color(if picture.alpha.is_some() { ColorType::Rgba } else { ColorType::Rgb });
    add(&mut encoder, texts).map_err(fail)?;
    let data = match &picture.alpha {
        None => picture.rgb.clone(),
        Some(alpha) => {
            let pixel = |(p, &a): (&[u8], &u8)| [p[0], p[1], p[2], a];
            picture.rgb.chunks_exact(3).zip(alpha).flat_map(pixel).collect()
        }
    };
    let mut writer = encoder.write_header().map_err(fail)?;
    writer.write_image_data(&data).and_then(|()| writer.finish()).map_err(fail)?;
    Ok(out)
}

/// Adds texts under their keys.
pub(super) fn add(encoder: &mut Encoder<&mut Vec<u8>>, texts: &[(&str, &str)]) -> Result<(), EncodingError> {
    texts.iter().try_for_each(|(key, text)| {
        let (key, text) = (key.to_string(), text.replace(NUL, " "));
        match text.chars().all(|c| (c as u32) < 256) {
            true => encoder.add_text_chunk(key, text),
            false => encoder.add_itxt_chunk(key, text),
        }
    })
}
