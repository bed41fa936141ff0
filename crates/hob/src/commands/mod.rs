//! The command line: one file per command.

pub mod bench;
mod ceilings;
pub mod completions;
pub mod config;
pub mod create;
pub mod debug;
pub mod doctor;
pub mod embed;
pub mod fit;
mod how;
pub mod image;
pub mod list;
pub mod picture;
mod profile;
pub mod ps;
pub mod pull;
pub mod rm;
pub mod run;
pub mod serve;
pub mod show;
pub mod stop;
pub mod upscale;

use std::num::NonZeroUsize;

use clap::{Args, Parser, Subcommand};

pub use how::chance;

const EXAMPLES: &str = "Examples:
  hob run                                     chat with a model on this machine
  hob run starter \"Why is the sky blue?\"      answer one question
  hob serve                                   a page to chat on, and the APIs of OpenAI, Anthropic and Ollama
  hob image sd15/ \"a lighthouse at dawn\"      a picture from words
  hob pull hf:owner/repo                      fetch a model from the Hugging Face hub
  hob list                                    the models on this machine
  hob show starter                            what is inside a model
  hob create pirate --from starter --system \"Talk like a pirate.\"
  hob fit hf:owner/repo                       can I run this, and how fast?
  hob doctor                                  what this machine has and how fast it is

Hob works offline: only pull, show and fit of a model on the hub (hf:…), run when it offers a
model, and a server's page or client that asks for a pull, open a connection to elsewhere.";

/// Local AI in one native binary: private, offline, fast.
#[derive(Parser)]
#[command(name = "hob", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command understands.
#[derive(Args)]
pub struct Global {
    /// Open no connection, not even to fetch (also HOB_OFFLINE=1)
    #[arg(long, global = true)]
    pub offline: bool,
    /// Print no colours (also NO_COLOR=1)
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Answer a prompt, or chat
    Run(run::RunArgs),
    /// Serve models to other programs over HTTP
    Serve(serve::ServeArgs),
    /// List the models that the server has loaded
    Ps(ps::PsArgs),
    /// End the server, or unload one of its models
    Stop(stop::StopArgs),
    /// List the models on this machine
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// Show what is inside a model
    Show(show::ShowArgs),
    /// Fetch models
    Pull(pull::PullArgs),
    /// Make a model of one's own: of another, with a system message, parameters, examples, an adapter
    Create(create::CreateArgs),
    /// Remove a model
    #[command(visible_alias = "remove")]
    Rm(rm::RmArgs),
    /// Tell whether a model can be run here, or on another machine, and how fast
    Fit(fit::FitArgs),
    /// Make vectors of texts, or tell how near they are
    Embed(embed::EmbedArgs),
    /// Make a picture from words
    Image(Box<image::ImageArgs>),
    /// Make a picture larger
    Upscale(upscale::UpscaleArgs),
    /// Measure speed
    Bench(bench::BenchArgs),
    /// Measure this machine, and say what Hob will use of it
    Doctor(doctor::DoctorArgs),
    /// Look at tokens, logits, graphs and plans
    Debug(debug::DebugArgs),
    /// Show or edit the config file, or list every option that may stand in it
    Config(config::ConfigArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// A number of threads; no machine has more processors than the largest.
pub fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok().filter(|n: &NonZeroUsize| n.get() <= 1024);
    number.ok_or_else(|| "it must be a number from 1 to 1024".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
