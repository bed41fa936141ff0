//! Strings that end an answer: found though they come in pieces, and never sent, not even in part.

/// Looks for stop strings in text that comes piece by piece.
pub struct Stops {
    stops: Vec<String>,
    /// what may yet turn out to begin a stop string
    held: String,
}

impl Stops {
    /// Empty strings stop nothing.
    pub fn new(stops: &[String]) -> Stops {
        Stops { stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes a piece, and gives the text that can be sent, and the stop string that was met. After that there is no
    /// more to send.
    pub fn push(&mut self, piece: &str) -> (String, Option<String>) {
        self.held.push_str(piece);
        let found = self.stops.iter().filter_map(|s| self.held.find(s.as_str()).map(|at| (at, s)));
        // The one that begins first; of those, the one named first.
        if let Some((at, stop)) = found.min_by_key(|f| f.0) {
            let stop = stop.clone();
            let mut sent = std::mem::take(&mut self.held);
            sent.truncate(at);
            return (sent, Some(stop));
        }
        let begins = |tail: &str| self.stops.iter().any(|s| s.starts_with(tail));
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        let ends = self.held.char_indices().map(|(i, _)| i).filter(|i| *i >= from);
        let keep = ends.into_iter().find(|&i| begins(&self.held[i..])).unwrap_or(self.held.len());
        let held = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, held), None)
    }

    /// What was held back, as no more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent of `text` when it comes in pieces of `n` characters, and what stopped it.
    fn send(stops: &[&str], text: &str, n: usize) -> (String, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut s = Stops::new(&stops);
        let mut out = String::new();
        let all: Vec<char> = text.chars().collect();
        for piece in all.chunks(n) {
            let (sent, stopped) = s.push(&piece.iter().collect::<String>());
            out += &sent;
            if stopped.is_some() {
                return (out, stopped);
            }
        }
        (out + &s.finish(), None)
    }

    #[test]
    fn a_stop_string_is_found_however_it_is_cut() {
        for n in 1..9 {
            assert_eq!(send(&["STOP"], "go on STOP here", n), ("go on ".into(), Some("STOP".into())), "{n}");
            assert_eq!(send(&["STOP"], "go STO", n), ("go STO".into(), None), "{n}");
            assert_eq!(send(&["aab"], "xaaab", n), ("xa".into(), Some("aab".into())), "{n}");
            assert_eq!(send(&["é\n", "\n\n"], "ü é\n\n", n), ("ü ".into(), Some("é\n".into())), "{n}");
            assert_eq!(send(&[], "all of it", n), ("all of it".into(), None));
            assert_eq!(send(&[""], "all", n), ("all".into(), None));
        }
        assert_eq!(send(&["b", "ab"], "xab", 9), ("x".into(), Some("ab".into())));
    }

    #[test]
    fn no_more_is_held_back_than_may_begin_a_stop_string() {
        let mut s = Stops::new(&["</s>".into()]);
        assert_eq!(s.push("a <"), ("a ".into(), None));
        assert_eq!(s.push("b"), ("<b".into(), None));
        assert_eq!(s.push("</s"), (String::new(), None));
        assert_eq!(s.finish(), "</s");
    }
}
