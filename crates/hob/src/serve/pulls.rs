//! Models being fetched. Whoever asks for one that is on its way joins those who wait for it; when the last of them has
//! left, it is given up, and what came of it stays for the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::watch;

use super::refusal::{Kind, Refusal, Result};
use crate::catalogue::{self, CATALOGUE, Entry};
use crate::commands::pull;
use crate::error::{self, Error};
use crate::hub::{self, Hub, Spec};
use crate::net::{Net, Transfer};
use crate::{places, terminal};

/// Models fetched at a time.
const MOST: usize = 4;

/// What can be fetched.
#[derive(Clone)]
pub enum Source {
    /// a model of the catalogue
    Catalogue(&'static Entry),
    /// a repository of the hub
    Hub(Spec),
}

impl Source {
    /// Reads `starter`, `hf:owner/repo[:file]`, and as Ollama's clients write it, `hf.co/owner/repo[:quantization]`.
    /// `None` where the name is of neither kind.
    pub fn parse(name: &str) -> Option<Result<Source>> {
        let bare = name.strip_suffix(":latest").unwrap_or(name);
        if let Some(entry) = catalogue::find(bare) {
            return Some(Ok(Source::Catalogue(entry)));
        }
        let bare = bare.strip_prefix("https://").unwrap_or(bare);
        let spec = ["hf:", "hf.co/", "huggingface.co/"].iter().find_map(|p| bare.strip_prefix(p))?;
        let spec = Spec::parse(spec).map_err(|e| Refusal::field("model", e.to_string()));
        Some(spec.map(Source::Hub))
    }

    /// The name that a person would type for it.
    pub fn name(&self) -> String {
        match self {
            Source::Catalogue(entry) => entry.name.into(),
            Source::Hub(spec) => spec.to_string(),
        }
    }
}

/// That a name means nothing that can be fetched.
pub fn unknown(name: &str) -> Refusal {
    let known = CATALOGUE.map(|e| e.name).join(", ");
    let shown: String = terminal::clean(name).chars().take(100).collect();
    let message = format!(
        "'{shown}' names nothing to fetch; name one of the catalogue ({known}), or hf.co/OWNER/REPO[:QUANTIZATION]"
    );
    Refusal { field: Some("model".into()), ..Refusal::new(Kind::UnknownModel, message) }
}

/// A model on its way, for one who waits.
#[derive(Clone)]
pub struct Pull(Arc<Fetching>);

struct Fetching {
    transfer: Arc<Transfer>,
    digest: Arc<OnceLock<String>>,
    over: watch::Receiver<Option<Result<()>>>,
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.transfer.give_up();
    }
}

impl Pull {
    /// Bytes that are here, and all; 0 where that is not known yet.
    pub fn seen(&self) -> (u64, u64) {
        self.0.transfer.seen()
    }

    /// The SHA-256 (or git's name) of its largest file, once that is known.
    pub fn digest(&self) -> Option<&str> {
        self.0.digest.get().map(String::as_str)
    }

    /// Bytes that were here when it began.
    pub fn before(&self) -> u64 {
        self.0.transfer.before()
    }

    /// Waits until it is here, or has failed.
    pub async fn over(&self) -> Result<()> {
        self.ended().await
    }

    /// The same, without being one who waits for it: it ends as well when nobody does.
    pub fn ended(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let mut over = self.0.over.clone();
        async move {
            let done = over.wait_for(Option::is_some).await.ok().and_then(|done| done.clone());
            done.unwrap_or_else(|| Err(Refusal::failed("fetching failed by a bug in Hob; please report it")))
        }
    }
}

/// All of them, by name.
#[derive(Default)]
pub struct Pulls(Mutex<HashMap<String, Slot>>);

/// What is known of a name: who waits for it, and whose turn it is to write its files.
#[derive(Default)]
struct Slot {
    now: Weak<Fetching>,
    turn: Arc<Mutex<()>>,
}

impl Pulls {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to fetch, or joins those who do.
    ///
    /// # Errors
    /// So many are being fetched already, or the server is to open no connection.
    pub fn join(&self, source: Source, offline: bool) -> Result<Pull> {
        let name = source.name();
        if offline {
            return Err(Refusal::new(Kind::Forbidden, Net::refusal(&terminal::clean(&name)).to_string()));
        }
        let mut all = self.lock();
        // A slot stays while somebody waits for it or still writes.
        all.retain(|_, slot| slot.now.strong_count() > 0 || Arc::strong_count(&slot.turn) > 1);
        if let Some(fetching) = all.get(&name).and_then(|slot| slot.now.upgrade()) {
            // One that has failed meanwhile is begun anew.
            if !matches!(*fetching.over.borrow(), Some(Err(_))) {
                return Ok(Pull(fetching));
            }
        }
        if all.values().filter(|slot| slot.now.strong_count() > 0).count() >= MOST {
            let message = format!("{MOST} models are being fetched already; wait for one of them");
            return Err(Refusal { retry: Some(10), ..Refusal::new(Kind::Busy, message) });
        }
        let transfer = Arc::new(Transfer::default());
        let digest = Arc::<OnceLock<String>>::default();
        let (tell, over) = watch::channel(None);
        let fetching = Arc::new(Fetching { transfer: transfer.clone(), digest: digest.clone(), over });
        let slot = all.entry(name).or_default();
        slot.now = Arc::downgrade(&fetching);
        let turn = slot.turn.clone();
        tokio::task::spawn_blocking(move || {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            let fetched = match transfer.given_up() {
                true => Err(Error::interrupted("given up")),
                false => fetch(&source, &Net::new(false).watched(transfer.clone()), &digest),
            };
            let came = transfer.seen().0.saturating_sub(transfer.before());
            if fetched.is_ok() {
                terminal::note(&format!("{} is here ({} fetched)", source.name(), terminal::bytes(came)));
            }
            tell.send_replace(Some(fetched.map_err(|e| Refusal::failed(e.to_string()))));
        });
        Ok(Pull(fetching))
    }
}

fn fetch(source: &Source, net: &Net, digest: &OnceLock<String>) -> error::Result<()> {
    match source {
        Source::Catalogue(entry) => {
            let _ = digest.set(entry.sha256.into());
            pull::catalogued(entry, None, net).map(drop)
        }
        // Whether it fits is not asked, as by `hob pull`: measuring would disturb the answers being made.
        Source::Hub(spec) => {
            let hub = Hub::new(net);
            let listing = hub.list(spec)?;
            let files = hub::choose(&listing, spec)?;
            let largest = files.iter().max_by_key(|f| f.size).map(|f| f.checksum.hex().into());
            let _ = largest.map(|hex| digest.set(hex));
            hub::fetch(&hub, &places::hub_cache()?, spec, &listing, &files).map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Option<String> {
        Source::parse(text).map(|s| s.map_or_else(|e| e.message, |s| s.name()))
    }

    #[test]
    fn names_are_those_of_ollamas_clients_too() {
        for same in ["starter", "Starter", "starter:latest"] {
            assert_eq!(name(same).unwrap(), "starter");
        }
        for same in ["hf:o/n:Q8_0", "hf.co/o/n:Q8_0", "huggingface.co/o/n:Q8_0", "https://hf.co/o/n:Q8_0"] {
            assert_eq!(name(same).unwrap(), "hf:o/n:Q8_0", "{same}");
        }
        assert_eq!(name("hf.co/o/n:latest").unwrap(), "hf:o/n");
        assert!(name("hf.co/../etc").unwrap().contains("does not name a repository"));
        for other in ["llama3.2", "", "/etc/passwd", "o/n", "http://example/x"] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn offline_nothing_begins() {
        let refused = Pulls::default().join(Source::parse("starter").unwrap().unwrap(), true).err().unwrap();
        assert_eq!(refused.kind, Kind::Forbidden);
        assert!(refused.message.contains("offline"));
    }
}
