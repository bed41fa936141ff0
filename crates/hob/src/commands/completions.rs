//! `hob completions SHELL`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::error::Result;

const EXAMPLES: &str = "Examples:
  hob completions bash > ~/.local/share/bash-completion/completions/hob
  hob completions zsh > ~/.zfunc/_hob
  hob completions fish > ~/.config/fish/completions/hob.fish";

/// Arguments of `hob completions`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

/// Writes the script to stdout.
pub fn run(args: CompletionsArgs) -> Result<()> {
    clap_complete::generate(args.shell, &mut super::Cli::command(), "hob", &mut std::io::stdout());
    Ok(())
}
