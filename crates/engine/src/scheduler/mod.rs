//! Many answers at a time: who takes part in the next step, and with which tokens.
//!
//! A step is: choose, run, hear. Every answer under way takes part in each step with its next token, and the rest of the
//! step reads prompts, a part at a time (Yu et al. 2022; Agrawal et al. 2024). Half of that goes to the prompt that came
//! first and half to the shortest, so that a long one neither waits for ever nor holds up all others. What a prompt
//! begins with is looked for in the cache when its turn comes, and one that begins like another being read waits for it.
//! Of a prompt whose log-probabilities are asked for, logits of every token are wanted: it is read from its first token,
//! and no more of it in a step than there are rows for.
//!
//! Where pages run out, the answer that came last gives up its own and is read again later: the oldest always goes on.
//! What it had said is computed again by the kernels that said it, and not as what is read.

mod draft;
mod pace;
mod stream;

use crate::cache::{Cache, Part, READ};
use crate::tree::common;
use crate::{CHUNK, Error, Model, Result, Stop};
use hob_cpu::kv::PAGE;
use pace::Pace;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use stream::Stream;
pub use stream::{Event, Out, Request, Rule, Token};

/// How many answers a model makes, and how long they may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// answers at a time; others wait
    pub streams: usize,
    /// tokens of one with its prompt
    pub context: usize,
    /// whether tokens are guessed (see [`draft`])
    pub guess: Guess,
}

/// When tokens are guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// never
    Never,
    /// where that saves time, as measured
    Paying,
    /// wherever there is something to guess by
    Always,
}

/// Rows of logits in a step at most, or one for each stream and some for scoring where those are more: as many take memory.
const ROWS: usize = 64;

/// Answers under way and waiting, over one model.
pub struct Scheduler {
    model: Arc<Model>,
    cache: Cache,
    limits: Limits,
    waiting: VecDeque<Stream>,
    /// in the order of their arrival
    running: Vec<Stream>,
    pace: Pace,
    arrived: u64,
    tally: Tally,
}

/// What was done since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// tokens of prompts that were read
    pub read: u64,
    /// those that were at hand
    pub cached: u64,
    /// tokens of answers
    pub said: u64,
    /// tokens that were guessed, and those of them that came
    pub guessed: (u64, u64),
    /// steps
    pub steps: u64,
    /// answers that gave up their pages to others
    pub interrupted: u64,
}

/// A stream's part in a step.
struct Turn {
    /// its place among those running
    stream: usize,
    /// tokens of it that are run
    tokens: usize,
    /// guessed tokens run after them
    drafted: Vec<u32>,
    /// of all these the last ones whose logits are wanted
    rows: usize,
    /// whether a token comes of it
    speaks: bool,
    /// whether the tokens are of a prompt, and read as such
    reads: bool,
}

impl Scheduler {
    /// Makes answers by `model` over `cache`, which may hold what earlier ones left.
    pub fn new(model: &Arc<Model>, cache: Cache, limits: Limits) -> Scheduler {
        let (waiting, running) = (VecDeque::new(), Vec::new());
        let (pace, tally) = (Pace::new(model.cpu().together()), Tally::default());
        Scheduler { model: model.clone(), cache, limits, waiting, running, pace, arrived: 0, tally }
    }

    /// Answers under way, and those that wait.
    pub fn streams(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// What was done since the beginning.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Rows of logits in a step at most.
    pub fn rows(streams: usize) -> usize {
        ROWS.max(streams.saturating_add(ROWS / 4))
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Ends all answers, and hands out the cache for the model's next time.
    pub fn into_cache(mut self) -> Cache {
        for line in self.running.iter_mut().filter_map(|s| s.line.take()) {
            self.cache.close(line);
        }
        self.cache
    }

    /// Takes a request, which is told when there is something to tell.
    pub fn add(&mut self, mut request: Request) {
        let (tokens, context) = (request.ids.len(), self.limits.context);
        let refused = match () {
            () if tokens == 0 => Some(Error::Empty),
            () if tokens > context => Some(Error::Context { tokens, context }),
            () => crate::cache::check(&self.model, &request.ids).err(),
        };
        match refused {
            Some(e) => request.out.tell(Event::Failed(e)),
            None if request.most == 0 && (request.prompt_logprobs.is_none() || tokens == 1) => {
                let cached = self.cache.at_hand(&request.ids[..tokens - 1]);
                for event in [Event::Begun, Event::Read { tokens, cached }, Event::Done(Stop::Length)] {
                    request.out.tell(event);
                }
            }
            None => {
                self.arrived += 1;
                self.waiting.push_back(Stream::new(request, self.arrived, context));
            }
        }
    }

    /// Does the next step. Returns whether there was anything to do. Where the device fails, all answers under way hear of
    /// it and end.
    pub fn step(&mut self) -> bool {
        self.let_go();
        while self.running.len() < self.limits.streams
            && let Some(stream) = self.waiting.pop_front()
        {
            let at = self.running.partition_point(|s| s.age < stream.age);
            self.running.insert(at, stream);
        }
        if self.running.is_empty() {
            return false;
        }
        let turns = self.choose();
        if let Err(e) = self.run(&turns) {
            for mut stream in self.running.drain(..) {
                stream.line.into_iter().for_each(|line| self.cache.close(line));
                stream.request.out.tell(Event::Failed(Error::Ask(e.to_string())));
            }
        }
        self.let_go();
        true
    }

    /// Lets go of answers that ended or that nobody listens to.
    fn let_go(&mut self) {
        self.waiting.retain(|s| s.request.out.listens());
        let Scheduler { running, cache, .. } = self;
        running.retain_mut(|s| {
            let goes_on = s.end.is_none() && s.request.out.listens();
            if !goes_on {
                s.line.take().into_iter().for_each(|line| cache.close(line));
                match s.end.take() {
                    Some(Ok(stop)) => s.request.out.tell(Event::Done(stop)),
                    Some(Err(e)) => s.request.out.tell(Event::Failed(e)),
                    None => {}
                }
            }
            goes_on
        });
    }

    /// Who takes part in the next step, with pages for all of it.
    fn choose(&mut self) -> Vec<Turn> {
        let mut turns = Vec::new();
        let mut left = CHUNK;
        // Those who speak: all that is left of them to run is what they said last.
        let speaks = |s: &Stream| s.said() > 0 && s.line.is_some();
        let speakers = self.running.iter().filter(|s| speaks(s)).count();
        let reading = speakers < self.running.len();
        let guesses = (ROWS / speakers.max(1)).saturating_sub(1);
        let worth = match self.limits.guess {
            Guess::Always => 0.0,
            _ => self.pace.worth(speakers),
        };
        let mut i = 0;
        while i < self.running.len() {
            let s = &mut self.running[i];
            let (true, Some(line)) = (speaks(s), s.line) else {
                i += 1;
                continue;
            };
            let read = self.cache.ids(line).len();
            let tokens = s.next(read).min(left);
            let room = (s.request.most - s.said() - 1).min(s.context - s.ids.len());
            let alone = !reading && self.limits.guess != Guess::Never && read + tokens == s.ids.len();
            let most = if alone { room.min(guesses).min(left - tokens) } else { 0 };
            let drafted = s.draft.guess(&s.ids, worth, most);
            if self.room_for(i, line, tokens + drafted.len()) {
                left -= tokens + drafted.len();
                turns.push(self.turn(i, line, tokens, drafted));
                i += 1;
            }
        }
        turns.retain(|t| t.tokens > 0);
        let scores = self.running.iter().any(Stream::scores);
        let budget = self.pace.reading(!turns.is_empty(), scores).min(left);
        self.read(budget, &mut turns);
        // What is read lies together.
        turns.sort_unstable_by_key(|t| (t.reads, t.stream));
        turns
    }

    /// The part of the `i`th stream that runs its next `tokens`, and `drafted` ones after them.
    fn turn(&self, i: usize, line: usize, tokens: usize, drafted: Vec<u32>) -> Turn {
        let (stream, read) = (&self.running[i], self.cache.ids(line).len());
        let end = read + tokens;
        let rows = end.saturating_sub(stream.first_row().max(read)) + drafted.len();
        let prompt = stream.request.ids.len();
        let reads = read < prompt && prompt >= READ;
        Turn { stream: i, tokens, drafted, rows, speaks: end == stream.ids.len(), reads }
    }

    /// Pages for `tokens` more of the `i`th stream, if need be those of streams that came later. Returns whether it has
    /// them; otherwise it came last itself and gave up its own.
    fn room_for(&mut self, i: usize, line: usize, tokens: usize) -> bool {
        loop {
            if self.cache.reserve(line, tokens) {
                return true;
            }
            let last = self.running.len() - 1;
            let victim = (i..=last).rev().find(|&k| self.running[k].line.is_some()).unwrap_or(i);
            let mut stream = self.running.remove(victim);
            stream.line.take().into_iter().for_each(|line| self.cache.close(line));
            self.tally.interrupted += 1;
            self.waiting.push_front(stream);
            if victim == i {
                return false;
            }
        }
    }

    /// Shares `budget` tokens among the prompts that are to be read.
    fn read(&mut self, budget: usize, turns: &mut Vec<Turn>) {
        let mut readers: Vec<usize> = Vec::new();
        for i in 0..self.running.len() {
            if turns.iter().any(|t| t.stream == i) {
                continue;
            }
            let s = &self.running[i];
            if s.line.is_none() && self.waits_for_another(i, &readers) {
                continue;
            }
            readers.push(i);
            // More at a time than read in the next steps would hold pages for nothing.
            if readers.len() == 8 {
                break;
            }
        }
        for &i in &readers {
            let s = &mut self.running[i];
            if s.line.is_none() {
                let line = self.cache.open(&s.ids[..s.first_row()]);
                if s.cached.is_none() {
                    let cached = self.cache.ids(line).len();
                    self.tally.cached += cached as u64;
                    s.cached = Some(cached);
                    s.request.out.tell(Event::Begun);
                }
                s.line = Some(line);
            }
        }
        // Of each the tokens that are not read yet, and those of them that take no row. One that is not scored takes one row
        // at its end, which is kept for it; the others share what is left.
        let unread = |s: &Scheduler, i: usize| {
            let stream = &s.running[i];
            let read = stream.line.map_or(0, |line| s.cache.ids(line).len());
            let silent = if stream.scores() { stream.first_row().saturating_sub(read) } else { usize::MAX };
            (stream.next(read), silent)
        };
        let others = readers.iter().filter(|&&i| !self.running[i].scores()).count();
        let taken = others + turns.iter().map(|t| t.rows).sum::<usize>();
        let mut rows = Scheduler::rows(self.limits.streams).saturating_sub(taken);
        // The first half for the one that came first, then the shortest in turn.
        let first = readers.first().copied();
        readers.sort_by_key(|&i| unread(self, i).0);
        let mut left = budget;
        let mut shares: Vec<(usize, usize)> = Vec::new();
        for (i, most) in
            first.map(|i| (i, budget.div_ceil(2))).into_iter().chain(readers.iter().map(|&i| (i, budget)))
        {
            let (unread, silent) = unread(self, i);
            let has = shares.iter().find(|s| s.0 == i).map_or(0, |s| s.1);
            let silent = silent.saturating_sub(has);
            let more = (unread - has).min(left).min(most).min(silent.saturating_add(rows));
            rows -= more.saturating_sub(silent);
            left -= more;
            match shares.iter_mut().find(|s| s.0 == i) {
                Some(share) => share.1 += more,
                None => shares.push((i, more)),
            }
        }
        shares.retain(|s| s.1 > 0);
        shares.sort_unstable();
        for (i, tokens) in shares {
            let before = self.running.len();
            let Some(line) = self.running[i].line else { break };
            if self.room_for(i, line, tokens) {
                turns.push(self.turn(i, line, tokens, Vec::new()));
            }
            // Where one gave up its pages, those after it have moved, and none of them has a turn.
            if self.running.len() < before {
                turns.retain(|t| self.running.get(t.stream).is_some_and(|s| s.line.is_some()));
                break;
            }
        }
    }

    /// Whether a prompt begins like one that is being read before it, further than what is at hand.
    fn waits_for_another(&self, i: usize, readers: &[usize]) -> bool {
        let s = &self.running[i];
        let mut at_hand = None;
        readers.iter().any(|&r| {
            let other = &self.running[r];
            // What is read becomes common a page at a time, and the last token is always run.
            let alike = common(&other.ids, &s.ids[..s.first_row()]) / PAGE * PAGE;
            alike > *at_hand.get_or_insert_with(|| self.cache.at_hand(&s.ids[..s.first_row()]))
        })
    }

    fn run(&mut self, turns: &[Turn]) -> Result<()> {
        if turns.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let Scheduler { model, cache, running, tally, pace, .. } = self;
        let line = |t: &Turn| running[t.stream].line.expect("opened for its turn");
        let ids: Vec<Vec<u32>> = (turns.iter())
            .map(|t| {
                let read = cache.ids(line(t)).len();
                [&running[t.stream].ids[read..read + t.tokens], &t.drafted].concat()
            })
            .collect();
        for t in turns {
            let (read, prompt) = (cache.ids(line(t)).len(), running[t.stream].request.ids.len());
            tally.read += ((read + t.tokens).min(prompt) - read.min(prompt)) as u64;
        }
        let part = |(t, ids)| Part { line: line(t), ids, read: t.reads };
        let parts: Vec<Part> = turns.iter().zip(ids.iter().map(Vec::as_slice)).map(part).collect();
        let (mut rows, mut end) = (Vec::new(), 0);
        for (t, ids) in turns.iter().zip(&ids) {
            end += ids.len();
            rows.extend(end - t.rows..end);
        }
        debug_assert!(rows.len() <= Scheduler::rows(self.limits.streams), "{} rows, as planned", rows.len());
        // A graph of no rows would have no logits.
        let silent = rows.is_empty();
        if silent {
            rows.push(end - 1);
        }
        let rows: Vec<i32> = rows.into_iter().map(|r| r as i32).collect();
        let program = cache.run(model, &parts, &rows, None)?;
        let spoke: usize =
            turns.iter().filter(|t| t.speaks && t.tokens == 1).map(|t| 1 + t.drafted.len()).sum();
        let scored = turns.iter().any(|t| running[t.stream].scores() && t.rows > 0);
        pace.ran(end, end - spoke.min(end), scored, start.elapsed());

        let vocab = model.vocab_size();
        let mut logits = if silent { &mut [][..] } else { cache.logits_mut(&program) };
        let mut hearing = Vec::new();
        let mut streams: Vec<_> = running.iter_mut().map(Some).collect();
        for t in turns {
            let stream = streams[t.stream].take().expect("a stream has one turn");
            let (mine, others) = logits.split_at_mut(t.rows * vocab);
            logits = others;
            stream.score(mine, vocab, &model.cpu().pool);
            if t.speaks {
                let mine = mine.split_at_mut((t.rows - 1 - t.drafted.len()) * vocab).1;
                hearing.push(Mutex::new((stream, mine, t, [0; 2])));
            }
        }
        model.cpu().pool.run(hearing.len(), &|i, _| {
            let mut one = hearing[i].lock().unwrap_or_else(|e| e.into_inner());
            let (stream, rows, turn, [said, came]) = &mut *one;
            let before = stream.said();
            if before == 0 {
                let (tokens, cached) = (stream.request.ids.len(), stream.cached.unwrap_or(0));
                stream.request.out.tell(Event::Read { tokens, cached });
            }
            *came = stream.hear(rows, &turn.drafted);
            *said = stream.said() - before;
        });
        let heard: Vec<(usize, [usize; 2])> = (hearing.into_iter())
            .map(|one| one.into_inner().unwrap_or_else(|e| e.into_inner()))
            .map(|(_, _, turn, heard)| (turn.stream, heard))
            .collect();
        tally.steps += 1;
        for t in turns {
            let stream = &running[t.stream];
            let line = stream.line.expect("opened for its turn");
            if let Some(&(_, [said, came])) = heard.iter().find(|h| h.0 == t.stream) {
                tally.said += said as u64;
                tally.guessed.0 += t.drafted.len() as u64;
                tally.guessed.1 += came as u64;
                let held = cache.ids(line).len() - t.drafted.len() + came;
                cache.truncate(line, held);
            }
            cache.settle(line);
        }
        Ok(())
    }
}
