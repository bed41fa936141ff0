//! The models' requests: what is here, what fits, fetching, loading, deleting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::response::Response;
use hob_engine::memory;
use hob_io::Checkpoint;
use hob_io::onnx::adm::is_onnx;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{answer, aside, invalid, read};
use crate::catalogue::{self, CATALOGUE};
use crate::commands;
use crate::details::Details;
use crate::error::Error;
use crate::fit::plan::Ask;
use crate::fit::planner::{Planner, better};
use crate::fit::subject::Subject;
use crate::fit::verdict::sentences;
use crate::hub::{Hub, Spec, remote};
use crate::model::options;
use crate::net::Net;
use crate::serve::App;
use crate::serve::asked::Asked;
use crate::serve::images::{About, Loaded};
use crate::serve::known::Known;
use crate::serve::manager::{Ready, Released, Stay};
use crate::serve::pulls::{self, Source};
use crate::serve::refusal::{Kind, Refusal, Result};
use crate::store::{self, Found, Place};
use crate::terminal;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

fn named(body: Value) -> Result<String> {
    let name = read::<Named>(body)?.name;
    let good = !name.trim().is_empty() && name.len() <= 512 && !name.contains(char::is_control);
    if good { Ok(name.trim().into()) } else { Err(Refusal::field("name", "`name` is no model's name")) }
}

fn loaded(r: &Ready) -> Value {
    json!({
        "planned": r.planned, "context": r.context, "pinned": r.pinned,
        "running": r.running(), "waiting": r.waiting(),
    })
}

/// The models of this machine, and what the catalogue has besides.
pub async fn list(State(app): State<Arc<App>>) -> Response {
    let list = async {
        let known = app.manager.known().await;
        let ready = app.manager.loaded();
        let offline = app.offline;
        let pictures = app.images.about(app.images.known().await).await;
        let (open, free) = (app.images.loaded(), app.manager.allowed());
        aside(move || {
            let found = store::discover();
            let pictures: Vec<_> =
                pictures.iter().map(|(k, about)| picture(k, about, &found, open.as_ref(), free)).collect();
            let models = known.iter().map(|k| {
                let of = found.models.iter().find(|m| m.path == k.path);
                let read = Checkpoint::open(k.weights()).map(|c| (Details::of(&c), c.licence()));
                let (d, licence) = read.as_ref().ok().map(|(d, l)| (d, l.clone())).unzip();
                let alias = of.and_then(|m| m.alias);
                let entry = alias.and_then(catalogue::find).map(|e| e.licence.to_string());
                let licence = licence.flatten().or(entry);
                json!({
                    "name": k.name,
                    "alias": alias,
                    "place": of.map_or("a path given at the start", |m| m.place.name()),
                    "bytes": k.bytes,
                    "architecture": d.map(|d| &d.architecture),
                    "parameters": d.map(|d| d.parameters),
                    "quantization": d.map(|d| &d.quantization),
                    "context": d.and_then(|d| d.context),
                    "licence": licence.map(|l| short(&l)),
                    "error": read.as_ref().err().map(|e| e.to_string()),
                    "removable": of.is_some_and(|m| matches!(m.place, Place::Hob | Place::HuggingFace)),
                    "loaded": ready.iter().find(|r| r.is_called(&k.name)).map(|r| loaded(r)),
                })
            });
            let models: Vec<_> = models.collect();
            let offer = |e: &catalogue::Entry| {
                let here = found.models.iter().any(|m| m.alias == Some(e.name));
                json!({"name": e.name, "title": e.title, "bytes": e.size, "licence": e.licence, "here": here})
            };
            Ok(json!({
                "models": models,
                "pictures": pictures,
                // Terrains are made from the command line alone.
                "catalogue": CATALOGUE.iter().filter(|e| !is_onnx(e.file.as_ref())).map(offer).collect::<Vec<_>>(),
                "notes": found.notes,
                "offline": offline,
            }))
        })
        .await
    };
    answer(list.await)
}

/// A model that makes pictures.
fn picture(
    k: &Known,
    about: &std::result::Result<Arc<About>, String>,
    found: &Found,
    open: Option<&Loaded>,
    free: u64,
) -> Value {
    let of = found.models.iter().find(|m| m.path == k.path);
    let a = about.as_ref().ok();
    let needs = |a: &Arc<About>| -> Value {
        let one =
            |(side, bytes): &(usize, u64)| json!({"side": side, "bytes": bytes, "fits": *bytes <= free});
        a.needs.iter().map(one).collect()
    };
    json!({
        "name": k.name,
        "place": of.map_or("a path given at the start", |m| m.place.name()),
        "bytes": a.map_or(k.bytes, |a| a.bytes),
        "family": a.map(|a| &a.details.architecture),
        "parameters": a.map(|a| a.details.parameters),
        "quantization": a.map(|a| &a.details.quantization),
        "purpose": a.map(|a| a.purpose),
        "needs": a.map(needs),
        "free": free,
        "error": a.map_or(about.as_ref().err(), |a| a.missing.as_ref()),
        "removable": of.is_some_and(|m| matches!(m.place, Place::Hob | Place::HuggingFace)),
        "loaded": open.filter(|o| o.name == k.name).map(|o| json!({"planned": o.bytes, "running": o.running, "waiting": o.waiting})),
    })
}

/// Loads a model, as a first question would.
pub async fn load(Asked { app, body, .. }: Asked) -> Response {
    let load = async {
        let name = named(body)?;
        if let Ok(known) = app.images.find(Some(&name)).await {
            app.images.load(known).await?;
            return Ok(json!({}));
        }
        Ok(loaded(&*app.manager.get(Some(&name), Stay::default()).await?))
    };
    answer(load.await)
}

/// Unloads a model, and waits for it a little.
pub async fn unload(Asked { app, body, .. }: Asked) -> Response {
    let unload = async {
        let name = named(body)?;
        let here = || app.manager.loaded().iter().any(|r| r.is_called(&name));
        match app.manager.release(&name) {
            Released::Absent => return app.images.release(&name).map(|_| json!({})),
            Released::Stays(_) => return Ok(json!({})),
            Released::Pinned => {
                let name = terminal::clean(&name);
                let why = format!("{name} was named when the server was started and stays loaded");
                return Err(Refusal::new(Kind::Invalid, why));
            }
            Released::Goes => {}
        }
        for _ in 0..40 {
            if !here() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(json!({}))
    };
    answer(unload.await)
}

/// Deletes a model's files.
pub async fn remove(Asked { app, body, .. }: Asked) -> Response {
    let remove = async {
        let name = named(body)?;
        let loaded = app.manager.loaded();
        let open = app.images.loaded();
        aside(move || {
            let found = store::discover();
            let model = found.models.iter().find(|m| m.name == name);
            let model =
                model.ok_or_else(|| Refusal::new(Kind::UnknownModel, "there is no model of that name"))?;
            if loaded.iter().any(|r| r.name == name) || open.is_some_and(|o| o.name == name) {
                return Err(Refusal::new(Kind::Invalid, "the model is loaded; unload it first"));
            }
            store::remove(model).map(|freed| json!({"freed": freed})).map_err(invalid)
        })
        .await
    };
    answer(remove.await)
}

/// What `hob fit` tells of a name. On the hub only a header is read, and offline not even that.
pub async fn fit(Asked { app, body, .. }: Asked) -> Response {
    let fit = async {
        let name = named(body)?;
        // Measuring beside an answer would measure the answer.
        let idle = app.manager.loaded().iter().all(|r| r.running() == 0);
        let offline = app.offline;
        aside(move || {
            let Meant { subject, licence, fetchable } = meant(&name, &Net::new(offline)).map_err(invalid)?;
            let ask = Ask { ctx: None, sequences: 1, prompt: 512 };
            let mut planner = Planner::new(None, None, ask, options(None), memory::process());
            planner.measures = idle;
            let fit = planner.plan(&subject).map_err(invalid)?;
            let smaller = better(&subject, &fit, &mut planner).map_err(invalid)?;
            let mut value = commands::fit::as_json(&subject, &fit, &planner);
            value["sentences"] = json!(sentences(&fit, &smaller));
            value["licence"] = json!(licence);
            value["variants"] = json!(subject.variants);
            value["pull"] = json!(fetchable.then_some(&name));
            Ok(value)
        })
        .await
    };
    answer(fit.await)
}

/// A model that was asked about.
struct Meant {
    subject: Subject,
    /// as its file or the catalogue says it
    licence: Option<String>,
    /// whether it is elsewhere, and the name says where
    fetchable: bool,
}

/// The model that a name means: one that is here, one of the hub by its header, or a well-known shape. A path is none.
fn meant(name: &str, net: &Net) -> crate::error::Result<Meant> {
    if let Some(m) = store::discover().models.iter().find(|m| is(m, name)) {
        return Ok(Meant { subject: Subject::here(&m.name, &m.path)?, licence: None, fetchable: false });
    }
    if let Some(spec) = name.strip_prefix("hf:") {
        let remote = remote::headers(&Hub::new(net), &Spec::parse(spec)?)?;
        let licence = remote.checkpoint.licence().map(|l| short(&l));
        return Ok(Meant { subject: Subject::remote(remote)?, licence, fetchable: true });
    }
    if let Some(entry) = catalogue::find(name) {
        let (shape, mix) = entry.shape.ok_or_else(|| {
            Error::new(format!(
                "{} makes vectors of texts; it takes about as much memory as its file",
                entry.name
            ))
        })?;
        let subject = Subject::of_shape(shape, mix)?;
        return Ok(Meant { subject, licence: Some(entry.licence.into()), fetchable: true });
    }
    let (shape, mix) = name.split_once(':').unwrap_or((name, "Q4_K_M"));
    Ok(Meant { subject: Subject::of_shape(shape, mix)?, licence: None, fetchable: false })
}

/// A licence's name; some files hold all of its text.
fn short(licence: &str) -> String {
    terminal::clean(licence).chars().take(80).collect()
}

fn is(m: &store::Model, name: &str) -> bool {
    let names = [Some(m.name.as_str()), Some(m.qualified.as_str()), m.alias];
    names.into_iter().flatten().any(|n| n.eq_ignore_ascii_case(name))
}

/// How a transfer stands.
enum Pulling {
    Running,
    Done,
    Cancelled,
    Failed(String),
}

/// A model being fetched.
struct Pull {
    id: u64,
    name: String,
    /// gone when the person does not wait any more
    waits: Mutex<Option<pulls::Pull>>,
    since: Instant,
    state: Mutex<Pulling>,
}

/// All transfers that the page began and nobody put away.
#[derive(Default)]
pub struct Pulls {
    all: Mutex<Vec<Arc<Pull>>>,
    next: AtomicU64,
}

impl Pulls {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Pull>>> {
        self.all.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Pull {
    fn waits(&self) -> MutexGuard<'_, Option<pulls::Pull>> {
        self.waits.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn lock(&self) -> MutexGuard<'_, Pulling> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn view(&self) -> Value {
        let (state, note) = match &*self.lock() {
            Pulling::Running => ("running", None),
            Pulling::Done => ("done", None),
            Pulling::Cancelled => ("cancelled", None),
            Pulling::Failed(why) => ("failed", Some(why.clone())),
        };
        let waits = self.waits();
        let ((done, total), before) = waits.as_ref().map_or(((0, 0), 0), |p| (p.seen(), p.before()));
        let came = done.saturating_sub(before);
        let rate = came as f64 / self.since.elapsed().as_secs_f64().max(0.1);
        json!({"id": self.id, "name": self.name, "state": state, "note": note, "done": done, "total": total, "rate": rate as u64})
    }
}

pub async fn pulls(State(app): State<Arc<App>>) -> Response {
    let all: Vec<_> = app.page.pulls.lock().iter().map(|p| p.view()).collect();
    answer(Ok(json!({"pulls": all})))
}

/// Begins to fetch a model, by a name of the catalogue or of the hub.
pub async fn pull(Asked { app, body, .. }: Asked) -> Response {
    answer(begin(&app, body).map(|id| json!({"id": id})))
}

fn begin(app: &Arc<App>, body: Value) -> Result<u64> {
    let name = named(body)?;
    let source = Source::parse(&name).ok_or_else(|| pulls::unknown(&name))??;
    let fetching = app.pulls.join(source, app.offline)?;
    let mut all = app.page.pulls.lock();
    let running = || all.iter().filter(|p| matches!(*p.lock(), Pulling::Running));
    if let Some(same) = running().find(|p| p.name == name) {
        return Ok(same.id);
    }
    let id = app.page.pulls.next.fetch_add(1, Ordering::Relaxed) + 1;
    let (waits, state) = (Mutex::new(Some(fetching.clone())), Mutex::new(Pulling::Running));
    let pull = Arc::new(Pull { id, name, waits, since: Instant::now(), state });
    all.retain(|p| p.name != pull.name);
    all.push(pull.clone());
    let over = fetching.ended();
    tokio::spawn(async move {
        let over = over.await;
        let mut state = pull.lock();
        if matches!(*state, Pulling::Running) {
            *state = match over {
                Ok(()) => Pulling::Done,
                Err(refusal) => Pulling::Failed(refusal.message),
            };
        }
    });
    Ok(id)
}

/// Gives a transfer up, or puts away one that is over.
pub async fn end_pull(State(app): State<Arc<App>>, Path(id): Path<u64>) -> Response {
    app.page.pulls.lock().retain(|p| {
        let running = matches!(*p.lock(), Pulling::Running);
        if p.id == id && running {
            *p.lock() = Pulling::Cancelled;
            p.waits().take();
        }
        p.id != id || running
    });
    answer(Ok(json!({})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_no_name() {
        let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
        let net = Net::new(true);
        for path in [file.path().to_str().unwrap(), "/etc/passwd", "../x", "src", "Cargo.toml", "~/m", "./m"]
        {
            let why = meant(path, &net).err().expect(path).to_string();
            assert!(!why.contains("No such file") && !why.contains("not a GGUF"), "{why}");
        }
        let Meant { subject, fetchable, .. } = meant("llama-3.1-8b:Q8_0", &net).unwrap();
        assert!(subject.file_bytes > 8_000_000_000 && !fetchable);
        assert!(meant("hf:owner/repo", &net).err().unwrap().to_string().contains("offline"));
        assert!(meant("hf:../../etc:x", &net).is_err());
    }

    #[test]
    fn names_are_short_and_plain() {
        assert!(named(json!({"name": " starter "})).is_ok_and(|n| n == "starter"));
        for bad in [json!({}), json!({"name": ""}), json!({"name": "a\nb"}), json!({"name": "x".repeat(600)})]
        {
            assert!(named(bad).is_err());
        }
    }
}
