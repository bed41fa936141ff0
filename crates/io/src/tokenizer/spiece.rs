//! `spiece.model`: SentencePiece's own file, a protocol buffer (`sentencepiece_model.proto`).

use super::{Spec, Tokenizer};

/// T5 v1.1's vocabulary.
const T5: &[u8] = include_bytes!("../../data/t5.spiece.model");

/// A field's content.
#[derive(Clone, Copy)]
enum Field<'a> {
    /// a whole number, a truth value or a choice
    Int(u64),
    /// text, bytes or a message
    Bytes(&'a [u8]),
    /// a number
    Float(f32),
}

/// The fields of a message, in order, each with its number.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn int(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self, len: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.int()?;
        let field = match key & 7 {
            0 => Field::Int(self.int()?),
            1 => Field::Bytes(self.bytes(8)?),
            2 => {
                let len = self.int()?;
                Field::Bytes(self.bytes(len)?)
            }
            5 => Field::Float(f32::from_le_bytes(self.bytes(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, field))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or_else(|| "it is no file of SentencePiece".to_string());
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl Tokenizer {
    /// The tokenizer of T5 v1.1, of 32,000 tokens, for checkpoints that bring none.
    pub fn t5() -> Tokenizer {
        Tokenizer::from_spiece(T5).expect("the vocabulary in the binary, read by its tests")
    }

    /// T5's tokenizer from the contents of `spiece.model`. An error is a clause about "it", the file.
    pub fn from_spiece(file: &[u8]) -> Result<Tokenizer, String> {
        let (mut tokens, mut scores, mut types): (Vec<&[u8]>, Vec<f32>, Vec<i64>) = Default::default();
        let mut spec = Spec::new("t5", Box::new([].into_iter()));
        let id = |value: u64| Some(value as i32 as i64 as u64); // -1: there is none
        // What the format says of fields left out.
        let (mut kind, mut bos, mut eos, mut unknown, mut pad) =
            (1, Some(1), Some(2), Some(0), Some(u64::MAX));
        for field in Fields(file) {
            match field? {
                (1, Field::Bytes(piece)) => {
                    let (mut text, mut score, mut of_type): (&[u8], _, _) = (&[], 0.0, 1);
                    for field in Fields(piece) {
                        match field? {
                            (1, Field::Bytes(bytes)) => text = bytes,
                            (2, Field::Float(value)) => score = value,
                            (3, Field::Int(value)) => of_type = value as i64,
                            _ => {}
                        }
                    }
                    tokens.push(text);
                    scores.push(score);
                    types.push(of_type);
                }
                (2, Field::Bytes(trainer)) => {
                    for field in Fields(trainer) {
                        match field? {
                            (3, Field::Int(value)) => kind = value,
                            (40, Field::Int(value)) => unknown = id(value),
                            (41, Field::Int(value)) => bos = id(value),
                            (42, Field::Int(value)) => eos = id(value),
                            (43, Field::Int(value)) => pad = id(value),
                            _ => {}
                        }
                    }
                }
                (3, Field::Bytes(normalizer)) => {
                    for field in Fields(normalizer) {
                        match field? {
                            (2, Field::Bytes(rules)) => spec.precompiled_charsmap = Some(rules.to_vec()),
                            (3, Field::Int(value)) => spec.add_space_prefix = Some(value != 0),
                            (4, Field::Int(value)) => spec.remove_extra_whitespaces = Some(value != 0),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if kind != 1 {
            return Err("its algorithm is not Unigram; take the tokenizer.json of this model".into());
        }
        if tokens.is_empty() {
            return Err("it is no file of SentencePiece".into());
        }
        spec.tokens = Box::new(tokens.into_iter());
        spec.scores = Some(Box::new(scores.into_iter()));
        spec.token_type = Some(Box::new(types.into_iter()));
        (spec.bos, spec.eos, spec.unknown, spec.padding) = (bos, eos, unknown, pad);
        Tokenizer::from_spec(spec)
    }
}
