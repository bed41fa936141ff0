//! Finding tokens that are matched in the text as they stand: control tokens, and those a model's makers added.

use super::vocab::Vocab;

/// Tokens to be found in running text, longest first at each place.
pub(super) struct Matcher {
    /// The tokens, ordered by their bytes.
    sorted: Vec<u32>,
    /// `sorted[first[b]..first[b + 1]]` begin with the byte `b`.
    first: Box<[u32; 257]>,
    /// The bytes that some token begins with, when they are few enough to be searched for directly.
    few: Option<Vec<u8>>,
}

impl Matcher {
    pub(super) fn new(vocab: &Vocab, mut ids: Vec<u32>) -> Matcher {
        ids.retain(|&id| vocab.get(id).is_some_and(|text| !text.is_empty()));
        ids.sort_unstable_by(|&a, &b| vocab.get(a).cmp(&vocab.get(b)).then(a.cmp(&b)));
        ids.dedup_by(|b, a| vocab.get(*a) == vocab.get(*b));
        ids.shrink_to_fit();
        let mut first = Box::new([0u32; 257]);
        for &id in &ids {
            first[vocab.get(id).map_or(0, |text| text[0] as usize) + 1] += 1;
        }
        for b in 0..256 {
            first[b + 1] += first[b];
        }
        let begin: Vec<u8> = (0..=255u8).filter(|&b| first[b as usize] < first[b as usize + 1]).collect();
        Matcher { sorted: ids, first, few: (begin.len() <= 3).then_some(begin) }
    }

    /// The longest token that `text` begins with, and its length.
    pub(super) fn prefix(&self, vocab: &Vocab, text: &[u8]) -> Option<(u32, usize)> {
        let (&b, _) = text.split_first()?;
        let mut range = &self.sorted[self.first[b as usize] as usize..self.first[b as usize + 1] as usize];
        let mut found = None;
        let mut depth = 1;
        let byte = |id: u32, depth: usize| vocab.get(id).and_then(|t| t.get(depth)).copied();
        while let Some(&shortest) = range.first() {
            // The first of the range is a prefix of all the others if it ends here.
            if byte(shortest, depth).is_none() {
                found = Some((shortest, depth));
                range = &range[1..];
                continue;
            }
            let Some(&next) = text.get(depth) else { break };
            let from = range.partition_point(|&id| byte(id, depth) < Some(next));
            let to = range.partition_point(|&id| byte(id, depth) <= Some(next));
            range = &range[from..to];
            depth += 1;
        }
        found
    }

    /// The first token in `text` at or after `from`: where, which, and its length.
    pub(super) fn find(&self, vocab: &Vocab, text: &[u8], mut from: usize) -> Option<(usize, u32, usize)> {
        if self.sorted.is_empty() {
            return None;
        }
        loop {
            let rest = text.get(from..)?;
            let skip = match self.few.as_deref() {
                Some(&[a]) => memchr::memchr(a, rest),
                Some(&[a, b]) => memchr::memchr2(a, b, rest),
                Some(&[a, b, c]) => memchr::memchr3(a, b, c, rest),
                _ => rest.iter().position(|&b| self.first[b as usize] < self.first[b as usize + 1]),
            }?;
            from += skip;
            if let Some((id, len)) = self.prefix(vocab, &text[from..]) {
                return Some((from, id, len));
            }
            from += 1;
        }
    }

    /// The token of exactly this text.
    pub(super) fn exact(&self, vocab: &Vocab, text: &[u8]) -> Option<u32> {
        let at = self.sorted.partition_point(|&id| vocab.get(id) < Some(text));
        self.sorted.get(at).copied().filter(|&id| vocab.get(id) == Some(text))
    }

    pub(super) fn heap_bytes(&self) -> usize {
        4 * self.sorted.capacity() + size_of_val(&*self.first) + self.few.as_ref().map_or(0, Vec::capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::vocab::Kind, *};

    #[test]
    fn finds_the_leftmost_and_of_those_the_longest() {
        let texts = ["<a>", "\n", "\n\n", "\n\n\n\n", "<a>b", "zz"];
        let mut vocab = Vocab::new(texts.len(), 0).unwrap();
        for text in texts {
            vocab
                .push(|out| {
                    out.extend_from_slice(text.as_bytes());
                    Kind::User
                })
                .unwrap();
        }
        let matcher = Matcher::new(&vocab, (0..6).collect());
        let all = |text: &str| {
            let (mut found, mut at) = (Vec::new(), 0);
            while let Some((start, id, len)) = matcher.find(&vocab, text.as_bytes(), at) {
                found.push((start, id));
                at = start + len;
            }
            found
        };
        assert_eq!(all("x<a>y<a"), [(1, 0)]);
        assert_eq!(all("<a>b<a>c"), [(0, 4), (4, 0)]);
        assert_eq!(all("\n\n\n\n\n\n\nz"), [(0, 3), (4, 2), (6, 1)]);
        assert_eq!(all("zzz"), [(0, 5)]);
        assert_eq!(all(""), []);
        assert_eq!(matcher.exact(&vocab, b"\n\n"), Some(2));
        assert_eq!(matcher.exact(&vocab, b"\n\n\n"), None);
    }
}
