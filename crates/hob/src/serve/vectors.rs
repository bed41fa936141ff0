//! Vectors of texts, and how well texts fit a question: what the dialects share.

use std::sync::{Mutex, PoisonError};

use hob_engine::{Embedder, Reranker, embed::cosine};

use super::manager::Lease;
use super::refusal::{Kind, Refusal, Result};

/// Texts of one request at most.
pub const MOST_TEXTS: usize = 2048;

/// A text, or its tokens.
#[derive(Clone, Debug)]
pub enum Input {
    /// as it stands; what the model wants around it is added
    Text(String),
    /// with what stands around them
    Ids(Vec<u32>),
}

/// What makes a model's vectors and scores, made when the first is asked for.
#[derive(Default)]
pub struct Vectors(Mutex<Option<Embedder>>, Mutex<Option<Reranker>>);

/// The vector of each text, and the tokens that were read for them.
///
/// # Errors
/// A text is empty or too long, or the model makes no vectors.
pub async fn embed(lease: &Lease, inputs: Vec<Input>) -> Result<(Vec<Vec<f32>>, usize)> {
    apart(lease, move |lease| {
        let tokenizer = &lease.opened.words.tokenizer;
        let ids: Vec<Vec<u32>> = (inputs.into_iter())
            .map(|input| match input {
                Input::Text(text) => tokenizer.encode_text(&text),
                Input::Ids(ids) => ids,
            })
            .collect();
        let mut embedder = lease.vectors.0.lock().unwrap_or_else(PoisonError::into_inner);
        let embedder = match &mut *embedder {
            Some(embedder) => embedder,
            none => none.insert(Embedder::new(&lease.opened.model)?),
        };
        let vectors = embedder.embed(&ids.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        Ok((vectors, ids.iter().map(Vec::len).sum()))
    })
    .await
}

/// How well each text fits the question, from 0 to 1, and the tokens that were read: by the model's own judgement of
/// pairs, or where it has none, by how near their vectors are.
///
/// # Errors
/// A text is empty or too long, or the model makes no vectors.
pub async fn rerank(lease: &Lease, question: String, texts: Vec<String>) -> Result<(Vec<f32>, usize)> {
    if !judges(lease) {
        let inputs = std::iter::once(question).chain(texts).map(Input::Text).collect();
        let (vectors, read) = embed(lease, inputs).await?;
        let scores = vectors[1..].iter().map(|v| (cosine(&vectors[0], v) + 1.0) / 2.0);
        return Ok((scores.collect(), read));
    }
    apart(lease, move |lease| {
        let tokenizer = &lease.opened.words.tokenizer;
        let pairs: Vec<_> = texts.iter().map(|text| tokenizer.encode_pair(&question, text)).collect();
        let mut reranker = lease.vectors.1.lock().unwrap_or_else(PoisonError::into_inner);
        let reranker = match &mut *reranker {
            Some(reranker) => reranker,
            none => none.insert(Reranker::new(&lease.opened.model)?),
        };
        let scores = reranker.score(&pairs.iter().map(|p| (&p.ids[..], &p.types[..])).collect::<Vec<_>>())?;
        let scores = scores.into_iter().map(|s| 1.0 / (1.0 + (-s).exp())).collect();
        Ok((scores, pairs.iter().map(|p| p.ids.len()).sum()))
    })
    .await
}

/// Whether the model judges pairs itself.
fn judges(lease: &Lease) -> bool {
    lease.opened.model.outline().encoder().is_some_and(|e| e.labels() == 1)
}

/// Work that takes its time, on a thread of its own.
async fn apart<T: Send + 'static>(
    lease: &Lease,
    work: impl FnOnce(&Lease) -> Result<T> + Send + 'static,
) -> Result<T> {
    let lease = lease.clone();
    let done = tokio::task::spawn_blocking(move || work(&lease)).await;
    done.unwrap_or_else(|_| Err(Refusal::failed("making vectors failed by a bug in Hob; please report it")))
}

/// Refuses a model that only makes vectors, where an answer is wanted.
///
/// # Errors
/// It is one.
pub fn must_answer(lease: &Lease) -> Result<()> {
    match lease.answers() {
        true => Ok(()),
        false => Err(Refusal::new(
            Kind::Invalid,
            format!("{} makes vectors of texts and does not answer; ask for /v1/embeddings", lease.name),
        )),
    }
}

/// The first `n` numbers, of the length 1 again: what models trained for it (Kusupati et al. 2022) mean by fewer.
pub fn shorten(v: &mut Vec<f32>, n: usize) {
    v.truncate(n);
    let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        v.iter_mut().for_each(|x| *x /= length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_vectors_have_the_length_1() {
        let mut v = vec![3.0, 4.0, 12.0];
        shorten(&mut v, 2);
        assert_eq!(v, [0.6, 0.8]);
    }
}
