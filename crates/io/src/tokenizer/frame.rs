//! What stands around texts and pairs of texts: `[CLS]` and `[SEP]`, or what else the tokenizer's post-processor says.

use serde_json::Value;

/// A pair of texts as one sequence of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// the tokens
    pub ids: Vec<u32>,
    /// of each its kind: 1 in the second text of models that tell the two apart, else 0
    pub types: Vec<u32>,
}

/// A part of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    First,
    Second,
    Token(u32),
}

/// The parts of a text and of a pair, each with its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub single: Vec<(Part, u32)>,
    pub pair: Vec<(Part, u32)>,
}

use Part::{First, Second, Token};

/// Parts of a frame at most: a file that asks for more would only cost memory.
const MOST: usize = 64;

impl Frame {
    /// BERT's: `[CLS] A [SEP] B [SEP]`, of which the second text and what follows are of type 1.
    pub fn bert(cls: u32, sep: u32) -> Frame {
        let single = vec![(Token(cls), 0), (First, 0), (Token(sep), 0)];
        let pair = [&single[..], &[(Second, 1), (Token(sep), 1)]].concat();
        Frame { single, pair }
    }

    /// RoBERTa's: `<s> A </s> </s> B </s>`; of what else begins and ends texts likewise.
    pub fn plain(bos: Option<u32>, eos: Option<u32>) -> Frame {
        let part = |token: Option<u32>| token.map(|id| (Token(id), 0));
        let single: Vec<_> = part(bos).into_iter().chain([(First, 0)]).chain(part(eos)).collect();
        let second = part(eos).into_iter().chain([(Second, 0)]).chain(part(eos));
        let pair = single.iter().copied().chain(second).collect();
        Frame { single, pair }
    }

    /// As the post-processor of a `tokenizer.json` says; `None` where it says nothing of this, or names an id that is not
    /// below `count`.
    pub fn from_json(processor: &Value, count: usize) -> Option<Frame> {
        let id = |value: &Value| value.as_u64().filter(|&id| id < count as u64).map(|id| id as u32);
        match processor["type"].as_str()? {
            "Sequence" => {
                let parts = processor["processors"].as_array()?;
                parts.iter().find_map(|part| Frame::from_json(part, count))
            }
            "BertProcessing" => Some(Frame::bert(id(&processor["cls"][1])?, id(&processor["sep"][1])?)),
            "RobertaProcessing" => {
                Some(Frame::plain(Some(id(&processor["cls"][1])?), Some(id(&processor["sep"][1])?)))
            }
            "TemplateProcessing" => {
                let template = |key: &str| -> Option<Vec<(Part, u32)>> {
                    let mut parts = Vec::new();
                    for piece in processor[key].as_array()? {
                        let (kind, what) = piece.as_object()?.iter().next()?;
                        let of_type = what["type_id"].as_u64().unwrap_or(0).min(u64::from(u32::MAX)) as u32;
                        match (kind.as_str(), what["id"].as_str()?) {
                            ("Sequence", "A") => parts.push((First, of_type)),
                            ("Sequence", "B") => parts.push((Second, of_type)),
                            (_, name) => {
                                for value in processor["special_tokens"][name]["ids"].as_array()? {
                                    parts.push((Token(id(value)?), of_type));
                                }
                            }
                        }
                    }
                    (parts.len() <= MOST).then_some(parts)
                };
                Some(Frame { single: template("single")?, pair: template("pair")? })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn post_processors_are_read() {
        let bert = json!({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]});
        assert_eq!(Frame::from_json(&bert, 4), Some(Frame::bert(2, 3)));
        assert_eq!(Frame::from_json(&bert, 3), None);
        let token = |name: &str, t: u32| json!({"SpecialToken": {"id": name, "type_id": t}});
        let text = |name: &str, t: u32| json!({"Sequence": {"id": name, "type_id": t}});
        let single = [token("[CLS]", 0), text("A", 0), token("[SEP]", 0)];
        let pair = [&single[..], &[text("B", 1), token("[SEP]", 1)]].concat();
        let ids = json!({"[CLS]": {"ids": [2]}, "[SEP]": {"ids": [3]}});
        let template =
            json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": ids});
        let sequence = json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]});
        assert_eq!(Frame::from_json(&sequence, 4), Some(Frame::bert(2, 3)));
        let roberta = json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]});
        let frame = Frame::from_json(&roberta, 4).unwrap();
        assert_eq!(frame, Frame::plain(Some(0), Some(2)));
        let parts: Vec<Part> = frame.pair.iter().map(|p| p.0).collect();
        assert_eq!(parts, [Token(0), First, Token(2), Token(2), Second, Token(2)]);
        for bad in [json!({}), json!({"type": "TemplateProcessing", "single": [{}], "pair": []}), Value::Null]
        {
            assert_eq!(Frame::from_json(&bad, 4), None);
        }
    }
}
