//! The thread that makes pictures, one request after another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use hob_engine::diffuse::{Event, Room, Shape};
use hob_io::picture::Recipe;

use super::held::Open;
use super::{Job, Live, Made, Queue, Wish, lock};
use crate::picture::room;
use crate::picture::{Begin, Extras, Studio};
use crate::serve::known::Known;
use crate::serve::manager::Manager;
use crate::serve::refusal::{Kind, Refusal, Result};
use crate::terminal;

/// How often a picture is planned for memory that others change.
const TRIES: usize = 4;

pub struct Worker {
    manager: Arc<Manager>,
    queue: Arc<Queue>,
    took: Arc<AtomicU64>,
}

impl Worker {
    pub fn new(manager: Arc<Manager>, queue: Arc<Queue>, took: Arc<AtomicU64>) -> Worker {
        Worker { manager, queue, took }
    }

    pub fn work(self, jobs: &mpsc::Receiver<Job>) {
        for job in jobs {
            let Job { id, model, wish, live, tell } = job;
            let gone = || live.stop.load(Ordering::SeqCst) || tell.is_closed();
            let start = Instant::now();
            let made = match gone() {
                true => Err(stopped()),
                false => catch_unwind(AssertUnwindSafe(|| self.make(&model, &wish, &live, &gone)))
                    .unwrap_or_else(|_| {
                        // What it left behind is not trusted.
                        self.manager.pictures().let_go();
                        Err(Refusal::failed("a bug in Hob stopped this picture; please report it"))
                    }),
            };
            self.took.store(start.elapsed().as_millis() as u64, Ordering::Relaxed);
            lock(&self.queue).remove(&id);
            let _ = tell.send(made); // one that left needs no answer
        }
    }

    fn make(&self, model: &Known, wish: &Wish, live: &Live, gone: &dyn Fn() -> bool) -> Result<Vec<Made>> {
        let held = self.manager.pictures();
        let mut place = held.take();
        lock(&live.at).doing = "loading";
        let open = match place.take() {
            Some(open) if open.known.same(model) && open.known.modified == model.modified => open,
            other => {
                drop(other);
                held.note(None, 0);
                let threads = self.manager.threads();
                let studio = Studio::open(&model.path, &Extras::default(), threads).map_err(|e| {
                    Refusal::failed(format!("{} cannot be loaded: {e}", terminal::clean(&model.name)))
                })?;
                terminal::note(&format!("{} is loaded", terminal::clean(&model.name)));
                Open { known: model.clone(), studio }
            }
        };
        let studio = &mut place.insert(open).studio;
        held.note(Some(model), held.bytes());
        let begin = wish.begin(studio)?;
        let recipe = wish.recipe(studio, &model.name, begin.as_ref())?;
        let rests = self.settle(studio, &recipe, wish, begin.as_ref())?;
        let made = paint(studio, wish, &recipe, begin.as_ref(), live, gone);
        held.note(Some(model), rests);
        made
    }

    /// Plans the pictures of a recipe, others making room for them, and gives the bytes that stay taken after them.
    fn settle(
        &self,
        studio: &mut Studio,
        recipe: &Recipe,
        wish: &Wish,
        begin: Option<&Begin>,
    ) -> Result<u64> {
        // Tokenizers stay with the model; what is given and what is made are there for this request alone.
        let stays = studio.heap_bytes() as u64;
        let made = wish.count as usize * 3 * recipe.width * recipe.height;
        let beside = stays + (wish.bytes() + begin.map_or(0, Begin::bytes) + made) as u64;
        let plan = |studio: &Studio, again: bool, bytes: u64| {
            let how = Shape { again, ..Shape::default() };
            let room = studio.room(recipe, begin, how, bytes.saturating_sub(beside));
            room.map_err(|e| Refusal::new(Kind::Invalid, e.to_string()))
        };
        let takes = |room: &Room| room.total() as u64 + beside;
        let whole = takes(&plan(studio, false, u64::MAX)?);
        let name = terminal::clean(&recipe.model);
        // Planning takes memory of the process, and others may come meanwhile.
        for _ in 0..TRIES {
            if whole > self.manager.for_picture() {
                studio.rest();
                self.manager.pictures().count(stays);
            }
            let (now, most) = (self.manager.for_picture(), self.manager.most_for_picture());
            // Others go for a picture, but not so that its denoiser stays for the next; and where not all of it fits even
            // then, it is made in less.
            let room = match whole <= now {
                true => plan(studio, true, now)?,
                false => plan(studio, false, most)?,
            };
            if let Some((role, least)) = room.short() {
                let why = room::short((recipe.width, recipe.height), role, least as u64 + beside);
                let free = terminal::bytes(most);
                let why = format!("{why} by {name}, and {free} are free; ask for a smaller one");
                return Err(Refusal::new(Kind::NoRoom, why));
            }
            if self.manager.make_room(takes(&room)) {
                if let Some(note) = room::said(&room) {
                    terminal::note(&format!("{name}: {note}"));
                }
                let rests = room.rests() as u64 + stays;
                studio.settle(room);
                return Ok(rests);
            }
        }
        Err(Refusal::new(Kind::NoRoom, "other models took the memory meanwhile; ask again"))
    }
}

/// The pictures of a wish, in a room that is settled.
fn paint(
    studio: &mut Studio,
    wish: &Wish,
    recipe: &Recipe,
    begin: Option<&Begin>,
    live: &Live,
    gone: &dyn Fn() -> bool,
) -> Result<Vec<Made>> {
    let mut all = Vec::new();
    for index in 0..wish.count {
        let seed = recipe.seed.wrapping_add(index.into());
        let mut recipe = Recipe { seed, count: 1, index: 0, ..recipe.clone() };
        let (start, mut painting) = (Instant::now(), false);
        let picture = studio.make(&recipe, begin, &mut |event| {
            let mut at = lock(&live.at);
            at.picture = index;
            match event {
                Event::Encoding => at.doing = "reading",
                Event::Step { step, steps, .. } => {
                    painting = true;
                    (at.doing, at.step, at.steps) = ("painting", step, steps);
                    at.painting.get_or_insert_with(Instant::now);
                }
                Event::Decoding => at.doing = "developing",
            }
            !gone()
        });
        // Before the first step it is what was asked for that is wrong.
        let picture = picture
            .map_err(|e| Refusal::new(if painting { Kind::Failed } else { Kind::Invalid }, e.to_string()))?;
        let Some(picture) = picture else { break };
        // The first picture of a model may take seconds more, for its hash.
        studio.sign(&mut recipe, &mut |_, _| !gone());
        let png = recipe.png(&picture).map_err(Refusal::failed)?;
        all.push(Made { png, recipe, seconds: start.elapsed().as_secs_f64() });
    }
    match all.is_empty() && wish.count > 0 {
        true => Err(stopped()),
        false => Ok(all),
    }
}

fn stopped() -> Refusal {
    // Clients ask again by themselves where it is the server that is at fault.
    Refusal::new(Kind::Invalid, "this was stopped before a picture was there")
}
