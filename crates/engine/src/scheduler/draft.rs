//! Guessing what comes next from what was said before, and whether a guess pays.
//!
//! A guess costs a row more in a step that takes place anyway, and saves a step where it is right. It is checked by the
//! model, so that the answer is the one that comes without guesses (Leviathan et al. 2023; the look-up in the prompt is
//! that of Saxena 2023).

use std::collections::HashMap;

/// Tokens that must have come before in the same order, to guess that the same will follow.
const ALIKE: usize = 3;

/// The most tokens that are guessed at once.
const MOST: usize = 12;

/// How much of what is known of guesses the last one is.
const NEWS: f64 = 0.1;

/// What a stream's guesses are made from, and how good they were.
pub struct Draft {
    /// the place after tokens that follow one another, where they came last
    seen: HashMap<[u32; ALIKE], usize>,
    /// tokens looked at
    to: usize,
    /// the last guess: where it was read from, and which token it was for. Also one that was not worth a try.
    last: Option<(usize, usize)>,
    /// the share of guesses that were right, of late
    right: f64,
}

impl Default for Draft {
    fn default() -> Draft {
        Draft { seen: HashMap::new(), to: ALIKE, last: None, right: 0.6 }
    }
}

impl Draft {
    /// Guesses what follows `ids`, which are more from call to call: as many tokens as are right with a probability above
    /// `worth`, and at most `most`.
    pub fn guess(&mut self, ids: &[u32], worth: f64, most: usize) -> Vec<u32> {
        self.learn(ids);
        while self.to < ids.len() {
            let before = *ids[..self.to].last_chunk().expect("so many were looked at");
            self.seen.insert(before, self.to);
            self.to += 1;
        }
        let Some(&from) = ids.last_chunk().and_then(|last| self.seen.get(last)) else { return Vec::new() };
        self.last = Some((from, ids.len()));
        let mut sure = 1.0;
        let paying = (0..MOST.min(most)).take_while(|_| {
            sure *= self.right;
            sure > worth
        });
        ids[from..].iter().copied().take(paying.count()).collect()
    }

    /// Looks what came of the last guess: of all that followed until it was wrong.
    fn learn(&mut self, ids: &[u32]) {
        let Some((from, at)) = self.last.take() else { return };
        for (guess, came) in ids[from..].iter().zip(&ids[at..]).take(MOST) {
            self.right += NEWS * (f64::from(u8::from(guess == came)) - self.right);
            if guess != came {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_before_is_guessed_again() {
        let mut draft = Draft::default();
        let mut ids = vec![1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3];
        assert_eq!(draft.guess(&ids, 0.5, 8), [4]);
        assert!(draft.guess(&ids, 0.5, 0).is_empty());
        assert_eq!(draft.guess(&ids, 0.01, 3), [4, 5, 6]);
        ids.extend([9, 9, 9]);
        assert!(draft.guess(&ids, 0.01, 3).is_empty(), "nothing of the kind came before");
        // The last of several, and no further than there are tokens.
        assert_eq!(draft.guess(&[&ids[..], &[1, 2, 3]].concat(), 0.0, 100), [9, 9, 9, 1, 2, 3]);
        assert!(Draft::default().guess(&[1, 2], 0.0, 8).is_empty());
    }

    #[test]
    fn guesses_are_given_up_and_taken_up_by_what_came_of_them() {
        let (mut draft, mut ids) = (Draft::default(), vec![1, 2, 3]);
        let mut guessed = 0;
        for i in 0..100 {
            // What follows is always something else.
            ids.extend([1000 + i, 1, 2, 3]);
            guessed = draft.guess(&ids, 0.2, 8).len();
        }
        assert_eq!(guessed, 0);
        for _ in 0..30 {
            ids.extend([7, 8, 9, 10]);
            guessed = draft.guess(&ids, 0.2, 8).len();
        }
        assert!(guessed > 3);
    }
}
