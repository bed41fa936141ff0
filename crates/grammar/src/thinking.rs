//! A thought before the answer: free text between two markers, which the grammar does not see.

use crate::vocabulary::is_blank;
use crate::{Error, Result, Vocabulary};
use toktrie::{SimpleVob, TrieNode};

/// How a model marks its thoughts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thought {
    /// what begins a thought: `<think>`
    pub begin: String,
    /// what ends it: `</think>`
    pub end: String,
    /// whether the prompt already began the thought, so that the model goes on within it
    pub open: bool,
}

/// Spaces, tabs and line ends that may stand between the thought and the answer.
const GAP: usize = 8;

/// Where in a thought an answer is.
#[derive(Clone)]
pub(crate) struct Thinking {
    begin: Vec<u32>,
    end: Vec<u8>,
    /// the control token that ends the thought, where there is one
    end_id: Option<u32>,
    /// tokens that hold the whole end and more than blanks behind it
    beyond: Vec<u32>,
    state: State,
}

#[derive(Clone)]
enum State {
    /// so many tokens of the beginning came
    Begin(usize),
    /// the last bytes of the thought, fewer than the end has
    Inside(Vec<u8>),
    /// so many blanks may still come before the answer
    Gap(usize),
}

/// What a token was to a thought.
pub(crate) enum Took {
    /// a part of it
    Thought,
    /// the answer's first
    Answer,
}

impl Thinking {
    pub fn new(thought: &Thought, vocabulary: &Vocabulary) -> Result<Thinking> {
        let tokenizer = &vocabulary.inner().tokenizer;
        if thought.end.is_empty() || (thought.begin.is_empty() && !thought.open) {
            return Err(Error::form("a thought needs markers that begin and end it, which are not empty"));
        }
        let end = thought.end.as_bytes().to_vec();
        let known = |id: &u32| (*id as usize) < vocabulary.size();
        let begin = match tokenizer.special_id(&thought.begin).filter(known) {
            Some(id) => vec![id],
            None => tokenizer.encode(&thought.begin, false),
        };
        let after = |bytes: &[u8]| bytes.windows(end.len()).position(|w| w == end).map(|at| at + end.len());
        let beyond = (0..vocabulary.size() as u32).filter(|id| {
            let bytes = vocabulary.text(*id);
            bytes.len() > end.len() && after(bytes).is_some_and(|at| !is_blank(&bytes[at..]))
        });
        let beyond = beyond.collect();
        let end_id = tokenizer.special_id(&thought.end).filter(known);
        let state = if thought.open { State::Inside(Vec::new()) } else { State::Begin(0) };
        Ok(Thinking { begin, end, end_id, beyond, state })
    }

    /// Whether the answer may begin with the next token.
    pub fn may_answer(&self) -> bool {
        matches!(self.state, State::Begin(0) | State::Gap(_))
    }

    /// Adds the tokens that may come as part of the thought.
    pub fn widen(&self, set: &mut SimpleVob, vocabulary: &Vocabulary) {
        match &self.state {
            State::Begin(n) => self.begin.get(*n).iter().for_each(|id| set.allow_token(**id)),
            State::Gap(left) => {
                let blanks = vocabulary.inner().blank.iter();
                blanks.filter(|id| vocabulary.text(*id).len() <= *left).for_each(|id| set.allow_token(id));
            }
            State::Inside(tail) => {
                set.or(&vocabulary.inner().text);
                self.end_id.iter().for_each(|id| set.allow_token(*id));
                self.beyond.iter().for_each(|id| set.disallow_token(*id));
                for begun in (1..self.end.len()).filter(|n| tail.ends_with(&self.end[..*n])) {
                    self.forbid_beyond(&self.end[begun..], set, vocabulary);
                }
            }
        }
    }

    /// Forbids tokens that begin with `rest` of the end and hold more than blanks behind it: the grammar would not see
    /// that text.
    fn forbid_beyond(&self, rest: &[u8], set: &mut SimpleVob, vocabulary: &Vocabulary) {
        let trie = vocabulary.trie();
        let mut left: Vec<&TrieNode> = trie.child_at_bytes(trie.root(), rest).into_iter().collect();
        while let Some(node) = left.pop() {
            if let Some(id) = node.token_id().filter(|id| !is_blank(&vocabulary.text(*id)[rest.len()..])) {
                set.disallow_token(id);
            }
            left.extend(trie.node_children(node));
        }
    }

    /// Takes a token; `fits` says whether the answer's grammar takes it too.
    pub fn accept(
        &mut self,
        id: u32,
        vocabulary: &Vocabulary,
        fits: impl FnOnce() -> Result<bool>,
    ) -> Result<Took> {
        let bytes = vocabulary.text(id);
        let wrong =
            || Err(Error::answer("a token that stands neither in the thought nor in the answer cannot come"));
        match &mut self.state {
            State::Begin(n) if self.begin.get(*n) == Some(&id) => {
                *n += 1;
                if *n == self.begin.len() {
                    self.state = State::Inside(Vec::new());
                }
            }
            State::Begin(0) => return Ok(Took::Answer),
            State::Begin(_) => return wrong(),
            State::Inside(_) if self.end_id == Some(id) => self.state = State::Gap(GAP),
            State::Inside(_) if bytes.is_empty() => return wrong(),
            State::Inside(tail) => {
                tail.extend_from_slice(bytes);
                match tail.windows(self.end.len()).position(|w| w == self.end) {
                    Some(at) => {
                        let rest = &tail[at + self.end.len()..];
                        if !is_blank(rest) {
                            return wrong();
                        }
                        self.state = State::Gap(GAP.saturating_sub(rest.len()));
                    }
                    None => drop(tail.drain(..tail.len().saturating_sub(self.end.len() - 1))),
                }
            }
            State::Gap(left) => {
                if fits()? {
                    return Ok(Took::Answer);
                }
                if bytes.is_empty() || !is_blank(bytes) || bytes.len() > *left {
                    return wrong();
                }
                *left -= bytes.len();
            }
        }
        Ok(Took::Thought)
    }

    /// What must come of the beginning once it is begun.
    pub fn forced(&self) -> &[u32] {
        match self.state {
            State::Begin(n) if n > 0 => &self.begin[n..],
            _ => &[],
        }
    }
}
