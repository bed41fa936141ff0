//! `hob serve`: models answer other programs over HTTP.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;

use super::Global;
use super::how::{Loading, Sampling};
use crate::error::{Error, Result};
use crate::model::Load;
use crate::serve::{self, Config, Keep, Known, Limits};
use crate::{file, store, terminal};

const EXAMPLES: &str = "Examples:
  hob serve                                     models are loaded when they are asked for
  hob serve --model starter                     loaded at once, and kept
  hob serve --host 0.0.0.0                      for the whole network, with a token
  curl http://127.0.0.1:8421/v1/chat/completions -d '{\"model\": \"starter\", \"messages\":
    [{\"role\": \"user\", \"content\": \"Why is the sky blue?\"}]}'

The port is 8421 because no common program listens there: 11434 is Ollama's, 8080 and 8000 are everyone's.
Programs that speak OpenAI's API use http://127.0.0.1:8421/v1 as their base URL.

How long a context is: --ctx says it for all. Without it, num_ctx in a request to Ollama's API, or a preset's ctx, bounds that
request's prompt and answer together; a model that is loaded with less is loaded anew once nobody uses it, with no more than
it was trained for. What does not fit into memory is refused, and nothing is cut from a prompt.";

/// Arguments of `hob serve`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    /// The address to listen on; others than this machine's own need a token
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub host: String,
    /// The port; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8421)]
    pub port: u16,
    /// Load this model at once and keep it; may be given several times
    #[arg(long, value_name = "MODEL")]
    pub model: Vec<String>,
    /// Requests that each model answers at the same time
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub parallel: u16,
    /// Requests that wait beyond those; more are refused with status 503
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub queue: u16,
    /// Do not guess tokens from what was said before; guesses change no answer, and are made where they save time
    #[arg(long)]
    pub no_guess: bool,
    /// Unload a model that was not used for so long: 5m, 1h, 0, or -1 for never
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = Keep::parse, allow_hyphen_values = true)]
    pub keep_alive: Keep,
    /// Memory for the keys and values of conversations, for each model [default: an eighth of what is free]
    #[arg(long, value_name = "SIZE", value_parser = crate::room::parse)]
    pub cache: Option<u64>,
    /// What every request must show as Authorization: Bearer TEXT; beyond this machine one is made up and printed if
    /// none is given (also HOB_TOKEN)
    #[arg(long, value_name = "TEXT")]
    pub token: Option<String>,
    /// Let pages of this origin ask (http://HOST:PORT); may be given several times
    #[arg(long, value_name = "URL", value_parser = serve::origin)]
    pub allow_origin: Vec<String>,
    /// Answer for this host name as well, as behind a proxy; may be given several times
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// A picture model to answer with, a folder or a file, beside those of hob list; may be given several times
    #[arg(long, value_name = "PATH")]
    pub image_model: Vec<PathBuf>,
    /// The largest request [default: 32M, and 64M where pictures are sent]
    #[arg(long, value_name = "SIZE", value_parser = crate::room::parse)]
    pub max_body: Option<u64>,
    /// Connections open at the same time; more wait
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_connections: u16,
    /// Write what is asked and answered into the log, for whoever looks for a fault; without this nothing of it is
    #[arg(long)]
    pub log_prompts: bool,
    #[command(flatten)]
    pub loading: Loading,
    #[command(flatten)]
    pub sampling: Sampling,
}

/// Finds the models named, and serves.
pub fn run(args: ServeArgs, global: &Global) -> Result<()> {
    let host = args.host.trim_start_matches('[').trim_end_matches(']');
    let ip: IpAddr = match host {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        _ => host.parse().map_err(|_| {
            let shown = terminal::clean(host);
            Error::new(format!(
                "--host is '{shown}', and must be an address of this machine, such as 127.0.0.1 or 0.0.0.0"
            ))
        })?,
    };
    let models = args.model.iter().map(|name| find(name)).collect::<Result<_>>()?;
    // Where none is given, each answer has its own; 0 stands for that.
    let seed = args.sampling.seed.map_or(0, |seed| seed.max(1));
    let sampling = hob_engine::Sampling { seed, ..args.sampling.settings() };
    sampling.check().map_err(Error::new)?;
    let config = Config {
        address: SocketAddr::new(ip, args.port),
        models,
        load: Load { sampling, ..args.loading.load() },
        limits: Limits { parallel: args.parallel.into(), queue: args.queue.into(), guess: !args.no_guess },
        keep: args.keep_alive,
        cache: args.cache,
        token: token(args.token.or_else(|| std::env::var("HOB_TOKEN").ok().filter(|t| !t.is_empty())), ip)?,
        hosts: args.allow_host,
        origins: args.allow_origin,
        max_body: most(args.max_body, 32 << 20),
        max_pictures: most(args.max_body, 64 << 20),
        pictures: args.image_model.iter().map(|path| picture(path)).collect::<Result<_>>()?,
        connections: args.max_connections.max(1).into(),
        offline: crate::net::Net::new(global.offline).offline(),
        log_prompts: args.log_prompts,
    };
    serve::run(config)
}

/// A model for the start: as `hob run` finds it, but nothing is fetched.
fn find(text: &str) -> Result<Known> {
    let found = store::discover();
    if let Some(kept) = found.preset(text) {
        return Known::of_preset(kept, &found);
    }
    Known::here(store::resolve(text, &found)?, text)
}

fn most(given: Option<u64>, otherwise: usize) -> usize {
    given.map_or(otherwise, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// A picture model by its path, called by its name without the ending. Its headers are read, so that what is wrong with it
/// is said at once.
fn picture(path: &Path) -> Result<Known> {
    hob_io::Pipeline::open(path)?.check()?;
    let path = path.canonicalize().map_err(|e| Error::io("open", path, &e))?;
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let name = name.unwrap_or_default().to_string_lossy().into_owned();
    Ok(Known::at(name, path))
}

/// The token to ask for: the one given, and beyond this machine one made up.
fn token(given: Option<String>, ip: IpAddr) -> Result<Option<String>> {
    match given {
        Some(token) if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) => {
            Err(Error::new("--token must be letters, digits and signs without spaces"))
        }
        Some(token) => Ok(Some(token)),
        None if ip.to_canonical().is_loopback() => Ok(None),
        None => {
            let token = random()?;
            println!("token: {token}");
            Ok(Some(token))
        }
    }
}

/// 128 bits that nobody can guess.
fn random() -> Result<String> {
    let mut bytes = [0; 16];
    #[cfg(unix)]
    {
        use std::io::Read;
        let path = std::path::Path::new("/dev/urandom");
        let read = std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut bytes));
        read.map_err(|e| Error::io("read", path, &e))?;
    }
    #[cfg(not(unix))]
    for part in bytes.chunks_mut(8) {
        // The standard library keys its hashers with what the system's generator gives.
        part.copy_from_slice(&super::chance().to_le_bytes());
    }
    Ok(file::hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_this_machine_there_is_a_token() {
        let made = |ip: &str| token(None, ip.parse().unwrap()).unwrap();
        for local in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(made(local), None);
        }
        let tokens: Vec<String> = ["0.0.0.0", "::", "10.0.0.7"].into_iter().filter_map(made).collect();
        assert!(tokens.len() == 3 && tokens.iter().all(|t| t.len() == 32) && tokens[0] != tokens[1]);
        assert_eq!(token(Some("mine".into()), IpAddr::from([10, 0, 0, 7])).unwrap(), Some("mine".into()));
        assert!(token(Some("".into()), IpAddr::from([127, 0, 0, 1])).is_err());
    }
}
