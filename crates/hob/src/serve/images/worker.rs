//! The thread that makes pictures, one request after another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use hob_engine::diffuse::{Event, Room};
use hob_io::picture::Recipe;

use super::held::Open;
use super::{Job, Live, Made, Queue, lock};
use crate::error::Error;
use crate::picture::room;
use crate::picture::{Extras, Studio};
use crate::serve::known::Known;
use crate::serve::manager::Manager;
use crate::serve::refusal::{Kind, Refusal, Result};
use crate::terminal;

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

    fn make(
        &self,
        model: &Known,
        wish: &super::Wish,
        live: &Live,
        gone: &dyn Fn() -> bool,
    ) -> Result<Vec<Made>> {
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
        held.note(Some(model), 0);
        let begin = wish.begin(studio)?;
        let recipe = wish.recipe(studio, &model.name, begin.as_ref())?;
        let room = |bytes| studio.room(&recipe, begin.as_ref(), true, bytes);
        let fits = |of: &Room| self.manager.make_room(of.total() as u64);
        let unfit = |e: Error| Refusal::new(Kind::Invalid, e.to_string());
        let mut planned = room(u64::MAX).map_err(unfit)?;
        // Where not all of it fits, it is made in less.
        if let Err(limit) = fits(&planned) {
            planned = room(limit).map_err(unfit)?;
            let size = (recipe.width, recipe.height);
            if let Some((role, least)) = planned.short() {
                let why = room::short(size, role, least as u64);
                let (name, free) = (terminal::clean(&model.name), terminal::bytes(limit));
                return Err(Refusal::new(
                    Kind::NoRoom,
                    format!("{why} by {name}, and {free} are free; ask for a smaller one"),
                ));
            }
            fits(&planned).map_err(|_| {
                Refusal::new(Kind::NoRoom, "other models took the memory meanwhile; ask again")
            })?;
            if let Some(note) = room::said(&planned) {
                terminal::note(&format!("{}: {note}", terminal::clean(&model.name)));
            }
        }
        let rests = planned.rests() as u64;
        studio.settle(planned);
        let mut all = Vec::new();
        for index in 0..wish.count {
            let seed = recipe.seed.wrapping_add(index.into());
            let mut recipe = Recipe { seed, count: 1, index: 0, ..recipe.clone() };
            let (start, mut painting) = (Instant::now(), false);
            let picture = studio.make(&recipe, begin.as_ref(), &mut |event| {
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
            let picture = picture.map_err(|e| {
                Refusal::new(if painting { Kind::Failed } else { Kind::Invalid }, e.to_string())
            })?;
            let Some(picture) = picture else { break };
            // The first picture of a model may take seconds more, for its hash.
            studio.sign(&mut recipe, &mut |_, _| !gone());
            let png = recipe.png(&picture).map_err(Refusal::failed)?;
            all.push(Made { png, recipe, seconds: start.elapsed().as_secs_f64() });
        }
        held.note(Some(model), rests);
        match all.is_empty() && wish.count > 0 {
            true => Err(stopped()),
            false => Ok(all),
        }
    }
}

fn stopped() -> Refusal {
    // Clients ask again by themselves where it is the server that is at fault.
    Refusal::new(Kind::Invalid, "this was stopped before a picture was there")
}
