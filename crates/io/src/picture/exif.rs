//! The two things that matter here of EXIF (TIFF 6.0's directories; Exif 2.3): which way up a picture is, and a comment.

/// What was found; the rest of a damaged block is left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exif {
    /// 1 to 8; 1 is upright.
    pub orientation: u16,
    /// `UserComment`, where A1111 writes what made a JPEG.
    pub comment: Option<String>,
}

const ORIENTATION: u16 = 0x0112;
const EXIF_DIRECTORY: u16 = 0x8769;
const USER_COMMENT: u16 = 0x9286;

impl Exif {
    pub fn read(bytes: &[u8]) -> Exif {
        let tiff = Tiff(bytes.strip_prefix(b"Exif\0\0").unwrap_or(bytes));
        let first = tiff.u32(4).unwrap_or(0) as usize;
        let orientation = tiff.entry(first, ORIENTATION).and_then(|at| tiff.u16(at + 8)).unwrap_or(1);
        let comment = || {
            let directory = tiff.u32(tiff.entry(first, EXIF_DIRECTORY)? + 8)? as usize;
            let at = tiff.entry(directory, USER_COMMENT)?;
            let (len, from) = (tiff.u32(at + 4)? as usize, tiff.u32(at + 8)? as usize);
            let value = tiff.0.get(from..)?.get(..len)?;
            let (form, text) = value.split_at_checked(8)?;
            Some(if form.starts_with(b"UNICODE") {
                utf16(text)
            } else {
                String::from_utf8_lossy(text).into_owned()
            })
        };
        let comment =
            comment().map(|text| text.trim_matches('\0').to_owned()).filter(|text| !text.is_empty());
        Exif { orientation: if (1..=8).contains(&orientation) { orientation } else { 1 }, comment }
    }
}

/// Both orders of bytes are written under this name; letters of the first 256 tell which.
fn utf16(bytes: &[u8]) -> String {
    let units =
        |unit: fn([u8; 2]) -> u16| bytes.chunks_exact(2).map(|b| unit([b[0], b[1]])).collect::<Vec<_>>();
    let (big, little) = (units(u16::from_be_bytes), units(u16::from_le_bytes));
    let plain = |units: &[u16]| units.iter().filter(|&&u| u < 256).count();
    String::from_utf16_lossy(if plain(&little) > plain(&big) { &little } else { &big })
}

struct Tiff<'a>(&'a [u8]);

impl Tiff<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        let b = self.0.get(at..)?.first_chunk()?;
        Some(if self.0.starts_with(b"II") { u16::from_le_bytes(*b) } else { u16::from_be_bytes(*b) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let b = self.0.get(at..)?.first_chunk()?;
        Some(if self.0.starts_with(b"II") { u32::from_le_bytes(*b) } else { u32::from_be_bytes(*b) })
    }

    /// Where the entry of a tag lies in the directory at `at`.
    fn entry(&self, at: usize, tag: u16) -> Option<usize> {
        let count = self.u16(at)? as usize;
        (0..count).map(|i| at + 2 + 12 * i).find(|&at| self.u16(at) == Some(tag))
    }
}
