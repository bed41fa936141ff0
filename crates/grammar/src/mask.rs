//! Which tokens may come next.

use toktrie::SimpleVob;

/// A set of token ids, one bit each.
#[derive(Clone, Debug)]
pub struct Mask(pub(crate) SimpleVob);

impl Mask {
    /// Whether the token may come next; not beyond the vocabulary.
    pub fn allows(&self, id: u32) -> bool {
        (id as usize) < self.0.len() && self.0.is_allowed(id)
    }

    /// The tokens that may come next, in order.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter()
    }

    /// How many tokens may come next.
    pub fn count(&self) -> usize {
        self.0.num_set()
    }

    /// Sets the logits `(V)` of tokens that may not come to negative infinity, those beyond the vocabulary too.
    pub fn apply(&self, logits: &mut [f32]) {
        let words = self.0.as_slice();
        let known = logits.len().min(words.len() * 32);
        let (within, beyond) = logits.split_at_mut(known);
        for (some, &word) in within.chunks_mut(32).zip(words) {
            match word {
                0 => some.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                _ => some.iter_mut().enumerate().for_each(|(i, x)| {
                    *x = if word >> i & 1 == 1 { *x } else { f32::NEG_INFINITY };
                }),
            }
        }
        beyond.fill(f32::NEG_INFINITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_is_impossible() {
        let allowed = |id: usize| id.is_multiple_of(3) || (32..64).contains(&id);
        for size in [1, 31, 32, 33, 64, 100, 129] {
            let mut set = SimpleVob::alloc_with_capacity(size, size + 1);
            (0..size).filter(|id| allowed(*id)).for_each(|id| set.allow_token(id as u32));
            let mask = Mask(set);
            for rows in [size.saturating_sub(7), size, size + 1, size + 70] {
                let mut logits: Vec<f32> = (0..rows).map(|i| i as f32).collect();
                mask.apply(&mut logits);
                for (id, x) in logits.iter().enumerate() {
                    let may = id < size && allowed(id);
                    assert_eq!(
                        *x,
                        if may { id as f32 } else { f32::NEG_INFINITY },
                        "{id} of {rows}, {size} known"
                    );
                    assert_eq!(mask.allows(id as u32), may);
                }
            }
            assert_eq!(mask.ids().count(), mask.count());
        }
    }
}
