//! Many answers at a time are those that come one by one, whatever they share and whoever has to wait.

use crate::tiny::{exact, open};
use hob_engine::cache::{Cache, Size};
use hob_engine::sample::argmax;
use hob_engine::{
    CHUNK, Event, Guess, Limits, Model, Options, Out, Request, Rule, Sampler, Sampling, Scheduler, Session,
    Stop, Token,
};
use std::sync::{Arc, Mutex};

/// What a client heard.
#[derive(Default)]
struct Heard {
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    scored: Vec<Token>,
    last: Option<Token>,
    read: Option<(usize, usize)>,
    end: Option<Result<Stop, String>>,
    gone: bool,
}

#[derive(Clone, Default)]
struct Client(Arc<Mutex<Heard>>);

impl Out for Client {
    fn tell(&mut self, event: Event) {
        let mut heard = self.0.lock().unwrap();
        assert!(heard.end.is_none(), "nothing comes after the end");
        match event {
            Event::Begun => assert!(heard.read.is_none()),
            Event::Read { tokens, cached } => assert!(heard.read.replace((tokens, cached)).is_none()),
            Event::Scored(tokens) => {
                assert!(heard.read.is_none() && !tokens.is_empty() && tokens.len() <= Scheduler::rows(1));
                heard.scored.extend(tokens);
            }
            Event::Token(token) => {
                heard.ids.push(token.id);
                heard.logprobs.push(token.logprob);
            }
            Event::Last(token) => assert!(heard.last.replace(token).is_none()),
            Event::Done(stop) => heard.end = Some(Ok(stop)),
            Event::Failed(e) => heard.end = Some(Err(e.to_string())),
        }
    }

    fn listens(&self) -> bool {
        !self.0.lock().unwrap().gone
    }
}

fn request(ids: &[u32], most: usize, client: &Client) -> Request {
    Request {
        ids: ids.to_vec(),
        most,
        ends: Arc::new([]),
        sampler: Sampler::new(Sampling::greedy()),
        logprobs: None,
        prompt_logprobs: None,
        rule: None,
        out: Box::new(client.clone()),
    }
}

fn alone(model: &Arc<Model>, ids: &[u32], most: usize) -> Vec<u32> {
    let mut session = Session::new(model, ids.len() + most).unwrap();
    session.prompt(ids, |_, _| true).unwrap();
    let mut sampler = Sampler::new(Sampling::greedy());
    session.generate(&mut sampler, most, &[]).map(|id| id.unwrap()).collect()
}

/// How likely each token after the first is, in one direct pass, and the likeliest in its place: by f64 over all logits.
fn likely(model: &Arc<Model>, ids: &[u32]) -> Vec<(f64, u32)> {
    let mut session = Session::new(model, ids.len()).unwrap();
    let mut rows = Vec::new();
    ids.chunks(100).for_each(|chunk| rows.extend_from_slice(session.feed_all(chunk).unwrap()));
    let of = |(row, &id): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
        (f64::from(row[id as usize]) - sum.ln(), argmax(row))
    };
    rows.chunks_exact(model.vocab_size()).zip(&ids[1..]).map(of).collect()
}

/// Asserts that a client was told that of its prompt.
fn is_scored(heard: &Heard, right: &[(f64, u32)], ids: &[u32], top: usize, what: &str) {
    assert_eq!(heard.scored.iter().map(|t| t.id).collect::<Vec<_>>(), ids[1..], "{what}");
    for (i, (token, (logprob, best))) in heard.scored.iter().zip(right).enumerate() {
        let off = (f64::from(token.logprob) - logprob).abs();
        assert!(off < 1e-4, "{what}, token {i}: {} and not {logprob}", token.logprob);
        assert_eq!(token.top.len(), top, "{what}, token {i}");
        assert!(token.top.first().is_none_or(|t| t.0 == *best), "{what}, token {i}");
        assert!(token.top.is_sorted_by(|a, b| a.1 >= b.1), "{what}, token {i}");
    }
}

fn scheduler(model: &Arc<Model>, tokens: usize, streams: usize, context: usize) -> Scheduler {
    let cache = Cache::of_size(model, Size { tokens, streams, context }).unwrap();
    Scheduler::new(model, cache, Limits { streams, context, guess: Guess::Always })
}

/// Numbers by chance.
fn chance(seed: &mut u64, below: usize) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    (*seed >> 33) as usize % below
}

#[test]
fn many_at_a_time_are_as_each_alone() {
    for name in ["llama", "mistral", "gemma3"] {
        let model = open(name, Options { check: false, ..exact() });
        let vocab = model.vocab_size();
        let mut seed = 7;
        // Prompts that begin alike: each goes on from a place in one before it.
        let mut prompts: Vec<Vec<u32>> = vec![(0..200).map(|_| chance(&mut seed, vocab) as u32).collect()];
        for _ in 0..24 {
            let from = &prompts[chance(&mut seed, prompts.len())];
            let mut next = from[..1 + chance(&mut seed, from.len())].to_vec();
            let more = 1 + chance(&mut seed, 150);
            next.extend((0..more).map(|_| chance(&mut seed, vocab) as u32));
            next.truncate(390);
            next.extend_from_within(next.len().saturating_sub(30)..); // said twice: a guess that the model may share
            prompts.push(next);
        }
        // Room for two of the longest, while seven are under way.
        let context = 512;
        let mut scheduler = scheduler(&model, 2 * context, 7, context);
        let all = scheduler.cache().room();
        let mut clients = Vec::new();
        for (i, ids) in prompts.iter().enumerate() {
            let client = Client::default();
            let prompt_logprobs = (i % 4 == 1).then_some(2);
            scheduler.add(Request { prompt_logprobs, ..request(ids, 20 + i % 40, &client) });
            clients.push(client);
            for _ in 0..chance(&mut seed, 4) {
                scheduler.step();
            }
        }
        while scheduler.step() {}
        for (i, (ids, client)) in prompts.iter().zip(&clients).enumerate() {
            let heard = client.0.lock().unwrap();
            let right = alone(&model, ids, 20 + i % 40);
            assert_eq!(heard.end, Some(Ok(Stop::Length)), "{name}, prompt {i}");
            assert_eq!(heard.ids, right, "{name}, prompt {i} of {} tokens", ids.len());
            assert_eq!(heard.read.unwrap().0, ids.len());
            match i % 4 {
                1 => is_scored(&heard, &likely(&model, ids), ids, 2, &format!("{name}, prompt {i}")),
                _ => assert!(heard.scored.is_empty()),
            }
        }
        let tally = scheduler.tally();
        assert!(tally.cached > 0 && tally.guessed.0 > 0, "{name}: {tally:?}");
        // A window gives pages back in time.
        assert!(tally.interrupted > 0 || name == "mistral", "{name}: {tally:?}");
        assert_eq!(scheduler.cache().room(), all, "{name}: all pages are given back");
        assert_eq!(scheduler.streams(), (0, 0));
        // The next turn of a conversation reads what is new, and what became of the model's words is at hand as well.
        let (last, said) = (prompts.last().unwrap(), clients.last().unwrap().0.lock().unwrap().ids.clone());
        let turn = [&last[..], &said[..], &[1, 2, 3]].concat();
        let client = Client::default();
        scheduler.add(request(&turn, 2, &client));
        while scheduler.step() {}
        let (tokens, cached) = client.0.lock().unwrap().read.unwrap();
        assert_eq!(
            (tokens, cached),
            (turn.len(), turn.len() - 4),
            "{name}: all but the last word and three new ones"
        );
        // A model that is loaded again finds what it left.
        let mut again = Scheduler::new(
            &model,
            scheduler.into_cache(),
            Limits { streams: 2, context, guess: Guess::Never },
        );
        let client = Client::default();
        again.add(request(&turn, 2, &client));
        while again.step() {}
        assert_eq!(client.0.lock().unwrap().read.unwrap().1, turn.len() - 1);
    }
}

/// What several ask at once is read once.
#[test]
fn what_begins_alike_is_read_once() {
    let model = open("llama", Options { check: false, ..exact() });
    let mut scheduler = scheduler(&model, 4096, 8, 512);
    let common: Vec<u32> = (0..300).map(|i| (i * 7 % 90) as u32).collect();
    let clients: Vec<Client> = (0..6).map(|_| Client::default()).collect();
    for (i, client) in clients.iter().enumerate() {
        scheduler.add(request(&[&common[..], &[i as u32, 5]].concat(), 3, client));
    }
    while scheduler.step() {}
    let read: Vec<_> = clients.iter().map(|c| c.0.lock().unwrap().read.unwrap()).collect();
    assert_eq!(read[0], (302, 0));
    assert!(read[1..].iter().all(|r| *r == (302, 256)), "{read:?}");
}

#[test]
fn who_leaves_frees_the_place_and_who_asks_too_much_is_told() {
    let model = open("llama", Options { check: false, ..exact() });
    let mut scheduler = scheduler(&model, 256, 2, 64);
    let room = scheduler.cache().room();
    let clients: Vec<Client> = (0..4).map(|_| Client::default()).collect();
    for client in &clients {
        scheduler.add(request(&[1, 2, 3], 1000, client));
    }
    (0..5).for_each(|_| assert!(scheduler.step()));
    assert_eq!(scheduler.streams(), (2, 2));
    clients[0].0.lock().unwrap().gone = true;
    clients[3].0.lock().unwrap().gone = true;
    scheduler.step();
    assert_eq!(scheduler.streams(), (2, 0));
    while scheduler.step() {}
    let end = |i: usize| clients[i].0.lock().unwrap().end.clone();
    assert_eq!((end(0), end(3)), (None, None));
    // As long as the context: 64 tokens are in it, and one more came of them.
    assert_eq!((end(1), end(2)), (Some(Ok(Stop::Context)), Some(Ok(Stop::Context))));
    assert_eq!(clients[1].0.lock().unwrap().ids.len(), 62);
    assert_eq!(scheduler.cache().room(), room);
    for (ids, says) in
        [(&[][..], "empty"), (&[96][..], "token id 96"), (&[1; 65][..], "1 more than the context of 64")]
    {
        let client = Client::default();
        scheduler.add(request(ids, 1, &client));
        let end = client.0.lock().unwrap().end.clone();
        assert!(matches!(&end, Some(Err(e)) if e.contains(says)), "{end:?}");
    }
    let client = Client::default();
    scheduler.add(request(&[1, 2, 3], 0, &client));
    assert!(!scheduler.step());
    let heard = client.0.lock().unwrap();
    assert_eq!(
        (heard.end.clone(), heard.ids.len(), heard.read),
        (Some(Ok(Stop::Length)), 0, Some((3, 2))),
        "it was asked before"
    );
}

/// Prompts are scored whole wherever parts of them end, and also where they are at hand; and leave behind what they read.
#[test]
fn prompts_are_scored_as_in_one_pass() {
    for name in ["llama", "gemma3"] {
        let model = open(name, Options { check: false, ..exact() });
        let mut scheduler = scheduler(&model, 8192, 4, 512);
        let long: Vec<u32> = (0..200).map(|i| (i * i % 89) as u32).collect();
        for len in [1, 2, 63, 64, 65, 129, 200] {
            let ids = &long[..len];
            let right = likely(&model, ids);
            for (most, top) in [(0, 0), (1, 3), (9, 1)] {
                let what = format!("{name}, {len} tokens and {most}");
                let others: Vec<Client> = (0..2).map(|_| Client::default()).collect();
                scheduler.add(request(&[7, 8, 9], 12, &others[0]));
                scheduler.step();
                let client = Client::default();
                let ask = |ids: &[u32], most| Request {
                    logprobs: Some(0),
                    prompt_logprobs: Some(top),
                    ..request(ids, most, &client)
                };
                scheduler.add(ask(ids, most));
                scheduler.add(request(&long[..100], 5, &others[1])); // begins alike
                let steps = scheduler.tally().steps;
                while client.0.lock().unwrap().end.is_none() {
                    assert!(scheduler.step());
                }
                assert!(scheduler.tally().steps - steps >= (len as u64 - 1).div_ceil(64), "{what}: by parts");
                while scheduler.step() {}
                let heard = std::mem::take(&mut *client.0.lock().unwrap());
                is_scored(&heard, &right, ids, top, &what);
                assert_eq!((&heard.end, heard.ids.len()), (&Some(Ok(Stop::Length)), most), "{what}");
                // A prompt of one token has nothing to tell, and is not read for it.
                let unread = heard.read == Some((len, 0)) || len == 1;
                assert!(unread, "{what}: what was at hand would tell nothing, {:?}", heard.read);
                assert_eq!(heard.ids, alone(&model, ids, most), "{what}");
                for (other, (ids, most)) in others.iter().zip([(&[7, 8, 9][..], 12), (&long[..100], 5)]) {
                    assert_eq!(other.0.lock().unwrap().ids, alone(&model, ids, most), "{what}: the others");
                }
                // What was said is as likely when it is read.
                let all = [ids, &heard.ids].concat();
                scheduler.add(ask(&all, 0));
                while scheduler.step() {}
                let again = std::mem::take(&mut *client.0.lock().unwrap());
                let said = &again.scored[len - 1..];
                assert!(
                    said.iter().zip(&heard.logprobs).all(|(t, l)| (t.logprob - l).abs() < 1e-4),
                    "{what}"
                );
                scheduler.add(request(&all, 1, &client));
                while scheduler.step() {}
                let read = client.0.lock().unwrap().read;
                assert_eq!(read, Some((all.len(), all.len() - 1)), "{what}: it is at hand for others");
            }
        }
        assert_eq!(scheduler.streams(), (0, 0));
    }
}

/// However many are scored and answered at once, a step has no more rows than were planned, and all get on.
#[test]
fn scoring_shares_the_rows_of_a_step() {
    let model = open("llama", Options { check: false, ..exact() });
    let streams = 70;
    let mut scheduler = scheduler(&model, 70 * 256, streams, 256);
    let prompts: Vec<Vec<u32>> =
        (0..streams as u32).map(|i| (0..150).map(|k| (i * 7 + k * k) % 96).collect()).collect();
    let clients: Vec<Client> = prompts.iter().map(|_| Client::default()).collect();
    for (i, (ids, client)) in prompts.iter().zip(&clients).enumerate() {
        let prompt_logprobs = (i >= 60).then_some(1);
        scheduler.add(Request { prompt_logprobs, ..request(ids, 40, client) });
    }
    while scheduler.step() {}
    for (i, (ids, client)) in prompts.iter().zip(&clients).enumerate() {
        let heard = client.0.lock().unwrap();
        assert_eq!(heard.ids, alone(&model, ids, 40), "prompt {i}");
        if i >= 60 {
            is_scored(&heard, &likely(&model, ids), ids, 1, &format!("prompt {i}"));
        }
    }
    // Programs of all rows are no larger than the plan of what a model holds.
    let rows = Scheduler::rows(streams);
    let arena = |tokens, rows| model.plan(tokens, rows).unwrap().1.arena;
    assert!(rows >= streams && arena(256, rows) <= arena(rows, rows).max(arena(CHUNK, 1)));
}

/// A short prompt does not wait for a long one before it, nor a long one for ever.
#[test]
fn none_starves() {
    let model = open("llama", Options { check: false, ..exact() });
    let mut scheduler = scheduler(&model, 32_768, 8, 8192);
    let long = Client::default();
    scheduler.add(request(&vec![3; 8000], 4, &long));
    scheduler.step();
    let mut steps = 0;
    while long.0.lock().unwrap().read.is_none() {
        let short = Client::default();
        scheduler.add(request(&[5 + steps % 50, 6, 7], 2, &short));
        for _ in 0..3 {
            scheduler.step();
        }
        assert!(short.0.lock().unwrap().end.is_some(), "a short one is done in the meantime");
        steps += 1;
        assert!(steps < 200, "the long one is read at last");
    }
}

/// Odd tokens only, and then the end; after 5 comes 7 and 9 without a choice.
struct Odd(Vec<u32>);

impl Rule for Odd {
    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), String> {
        logits.iter_mut().step_by(2).for_each(|l| *l = f32::NEG_INFINITY);
        if self.0.len() == 6 {
            logits
                .iter_mut()
                .enumerate()
                .for_each(|(i, l)| *l = if i == 5 { 1.0 } else { f32::NEG_INFINITY });
        }
        Ok(())
    }
    fn accept(&mut self, id: u32) -> Result<(), String> {
        assert!(id % 2 == 1);
        self.0.push(id);
        Ok(())
    }
    fn forced(&mut self) -> Vec<u32> {
        if self.0.last() == Some(&5) { vec![7, 9] } else { Vec::new() }
    }
    fn ended(&mut self) -> bool {
        self.0.ends_with(&[5, 7, 9])
    }
}

#[test]
fn rules_are_kept_and_probabilities_told() {
    let model = open("llama", Options { check: false, ..exact() });
    let mut scheduler = scheduler(&model, 4096, 8, 512);
    let clients: Vec<Client> = (0..3).map(|_| Client::default()).collect();
    for (i, client) in clients.iter().enumerate() {
        let mut request = request(&[1, 2, 3, 1, 2, 3, 1, 2], 100, client);
        request.sampler = Sampler::new(Sampling { temperature: 1.0, seed: i as u64, ..Sampling::default() });
        request.rule = Some(Box::new(Odd(Vec::new())));
        scheduler.add(request);
    }
    while scheduler.step() {}
    for client in &clients {
        let heard = client.0.lock().unwrap();
        assert_eq!(heard.end, Some(Ok(Stop::End)));
        assert!(heard.ids.ends_with(&[5, 7, 9]) && heard.ids.iter().all(|id| id % 2 == 1), "{:?}", heard.ids);
    }
    let client = Client::default();
    let mut with = request(&[1, 2, 3], 5, &client);
    with.logprobs = Some(2);
    scheduler.add(with);
    while scheduler.step() {}
    let said = std::mem::take(&mut *client.0.lock().unwrap());
    assert!(said.logprobs.iter().all(|p| *p < 0.0 && *p > -10.0) && said.last.is_none());
    // A token that ends the answer is told of by itself, and where nothing was asked not at all.
    for logprobs in [None, Some(1)] {
        scheduler.add(Request { logprobs, ends: Arc::new([said.ids[2]]), ..request(&[1, 2, 3], 5, &client) });
        while scheduler.step() {}
        let heard = std::mem::take(&mut *client.0.lock().unwrap());
        assert_eq!((&heard.ids[..], &heard.end), (&said.ids[..2], &Some(Ok(Stop::End))));
        let last = heard.last.map(|t| (t.id, t.top[0].0, (t.logprob - said.logprobs[2]).abs() < 1e-4));
        assert_eq!(last, logprobs.map(|_| (said.ids[2], said.ids[2], true)));
    }
}
