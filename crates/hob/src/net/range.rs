//! A part of a file, held in memory: how a header is read without what follows it.

use std::io::Read;
use std::ops::Range;

use super::{Failure, Net, content_range, cut, header, pause, status, text};
use crate::error::Error;
use crate::terminal;

/// The longest part that is held in memory, and the most that is read past to get to one.
const LIMIT: u64 = 64 << 20;

/// A part of a file.
pub struct Slice<'a> {
    /// Where from.
    pub url: &'a str,
    /// A bearer token for that host, and for no other.
    pub token: Option<&'a str>,
    /// Which bytes.
    pub range: Range<u64>,
    /// The whole file's length.
    pub total: u64,
    /// What to call it in errors.
    pub label: &'a str,
}

/// What came.
#[derive(Debug, Default)]
pub struct Piece {
    /// The bytes asked for, all of them.
    pub bytes: Vec<u8>,
    /// How many were read to get them: more than that where the server does not know ranges.
    pub read: u64,
}

impl Net {
    /// Fetches a part of a file, by the rules of [`Net::download`] for redirects, tokens and retries; what came before a
    /// cut is kept.
    ///
    /// A server that sends the whole file instead is read up to the end of the part, and then cut off. Nothing is asked
    /// for an empty part. Failures: the range is no part of the file or beyond 64 MiB, the file has another length at
    /// the server, or the server sends another part.
    pub fn range(&self, slice: &Slice) -> Result<Piece, Failure> {
        if self.offline() {
            return Err(Failure::Local(Net::refusal(slice.label)));
        }
        let Range { start, end } = slice.range;
        let len = end.checked_sub(start).filter(|&n| n <= LIMIT && end <= slice.total);
        let Some(len) = len else {
            return Err(fail(
                slice,
                format!("bytes {start} to {end} of {} are not read at once", slice.total),
            ));
        };
        let mut piece = Piece::default();
        let mut tries = 0;
        while (piece.bytes.len() as u64) < len {
            let before = piece.bytes.len();
            if let Err(failure) = self.attempt_range(slice, &mut piece) {
                tries = if piece.bytes.len() > before { 1 } else { tries + 1 };
                pause(failure, tries)?;
            }
        }
        Ok(piece)
    }

    /// One request for what is still missing; bytes that came stay in the piece whatever happens.
    fn attempt_range(&self, slice: &Slice, piece: &mut Piece) -> Result<(), Failure> {
        let Slice { range, total, .. } = slice;
        let start = range.start + piece.bytes.len() as u64;
        let headers = [
            (header::ACCEPT_ENCODING, "identity".to_string()),
            (header::RANGE, format!("bytes={start}-{}", range.end - 1)),
        ];
        let response = self.get(slice.url, slice.token, &headers)?;
        let (mut skip, announced) = match response.status().as_u16() {
            206 => {
                let sent = text(&response, header::CONTENT_RANGE).and_then(|v| content_range(&v));
                match sent {
                    Some((first, total)) if first == start => (0, total),
                    _ => {
                        return Err(Failure::Broken(
                            "the server sends another part than was asked for".into(),
                        ));
                    }
                }
            }
            200 if start > LIMIT => return Err(fail(slice, "the server sends no parts of files".into())),
            200 => (start, text(&response, header::CONTENT_LENGTH).and_then(|v| v.parse().ok())),
            _ => return Err(status(&response)),
        };
        if let Some(announced) = announced.filter(|n: &u64| n != total) {
            let why =
                format!("the server has {announced} bytes where {total} were announced; try again later");
            return Err(fail(slice, why));
        }
        let length = text(&response, header::CONTENT_LENGTH).and_then(|v| v.parse::<u64>().ok());
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 64 << 10];
        let mut missing = range.end - start;
        while missing > 0 {
            // No more than is wanted: when `body` goes, the rest is not read.
            let most = skip.saturating_add(missing).min(buffer.len() as u64) as usize;
            let n = body.read(&mut buffer[..most]).map_err(|e| Failure::Broken(cut(&e)))?;
            if n == 0 {
                return Err(Failure::Broken(format!(
                    "the connection broke off after {} of {}",
                    terminal::bytes(range.end - range.start - missing),
                    terminal::bytes(range.end - range.start)
                )));
            }
            piece.read += n as u64;
            let skipped = skip.min(n as u64) as usize;
            skip -= skipped as u64;
            piece.bytes.extend_from_slice(&buffer[skipped..n]);
            missing -= (n - skipped) as u64;
        }
        if length == Some(range.end - start) {
            let _ = body.read(&mut buffer[..1]); // to see its end, which frees the connection for the next request
        }
        Ok(())
    }
}

/// A failure that is final: asking again would bring the same.
fn fail(slice: &Slice, why: String) -> Failure {
    Failure::Local(Error::source(format!("cannot read {}: {why}", slice.label)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody listens there.
    fn slice(range: Range<u64>, total: u64) -> Slice<'static> {
        Slice { url: "http://127.0.0.1:9/f", token: None, range, total, label: "f" }
    }

    #[test]
    fn nothing_is_asked_for_nothing_or_too_much() {
        let net = Net::new(false);
        let piece = net.range(&slice(7..7, 7)).unwrap();
        assert!(piece.bytes.is_empty() && piece.read == 0);
        #[allow(clippy::reversed_empty_ranges)] // what a mistaken caller would give
        for (range, total) in [(0..LIMIT + 1, u64::MAX), (0..8, 7), (5..4, 7), (u64::MAX - 1..u64::MAX, 7)] {
            assert!(matches!(net.range(&slice(range, total)), Err(Failure::Local(_))));
        }
        assert!(matches!(net.range(&slice(0..7, 7)), Err(Failure::Unreachable(_))));
        let offline = Net::new(true).range(&slice(0..7, 7));
        assert!(matches!(offline, Err(Failure::Local(e)) if e.to_string().starts_with("offline: f ")));
    }
}
