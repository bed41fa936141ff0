//! `hob config`: the config file and what may stand in it.

use std::path::Path;

use clap::{Arg, Args, Command, CommandFactory};

use super::Cli;
use crate::error::{Error, Result, plain};
use crate::{config, file, places, terminal};

const EXAMPLES: &str = "Examples:
  hob config              where the file is and what it says
  hob config --all        every option there is, as a file to begin with
  hob config --edit       open it in $EDITOR

The file has a table for each command and a key for each of its options; what the command line says wins:

  offline = true          an option of every command
  [serve]
  port = 9000
  model = [\"starter\"]";

/// Arguments of `hob config`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ConfigArgs {
    /// Print every option with what it means and its default
    #[arg(long, conflicts_with_all = ["path", "edit"])]
    pub all: bool,
    /// Print the file's path alone
    #[arg(long, conflicts_with = "edit")]
    pub path: bool,
    /// Open the file in the editor that VISUAL or EDITOR names
    #[arg(long)]
    pub edit: bool,
}

/// Shows or edits.
pub fn run(args: ConfigArgs) -> Result<()> {
    let path = places::config()?;
    if args.path {
        println!("{}", path.display());
        return Ok(());
    }
    if args.all {
        print!("{}", all(&Cli::command()));
        return Ok(());
    }
    if args.edit {
        return edit(&path);
    }
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            println!("{}", terminal::dim(&format!("# {}", places::short(&path))));
            print!("{}", terminal::clean_lines(&text));
            config::apply(Cli::command()).map(drop)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            println!("There is no config file; {} would be it (hob config --edit).", places::short(&path));
            Ok(())
        }
        Err(e) => Err(Error::io("read", &path, &e)),
    }
}

fn edit(path: &Path) -> Result<()> {
    let named = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
    let editor = named("VISUAL").or_else(|| named("EDITOR")).ok_or_else(|| {
        Error::new(format!(
            "neither VISUAL nor EDITOR names an editor; open {} in yours",
            places::short(path)
        ))
    })?;
    if !path.exists() {
        file::make_dir(path.parent().unwrap_or(Path::new(".")))?;
        std::fs::write(path, all(&Cli::command())).map_err(|e| Error::io("write", path, &e))?;
    }
    // As shells and git do, it may come with options.
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or_default();
    let status = std::process::Command::new(program).args(words).arg(path).status();
    match status {
        Ok(status) if status.success() => config::apply(Cli::command()).map(drop),
        Ok(_) => Err(Error::new(format!("{program} ended with an error"))),
        Err(e) => Err(Error::new(format!("cannot start {program}: {}", plain(&e)))),
    }
}

/// Every option as a line that is commented out, under its command.
fn all(command: &Command) -> String {
    let mut text = String::from("# Hob's options. Take away the # before those that should differ.\n\n");
    table(command, "", &mut text);
    text
}

fn table(command: &Command, at: &str, text: &mut String) {
    let skipped = ["help", "version"];
    let options: Vec<&Arg> = (command.get_arguments())
        .filter(|arg| {
            arg.get_long().is_some() && !skipped.contains(&arg.get_id().as_str()) && !arg.is_hide_set()
        })
        .collect();
    if !at.is_empty() && !options.is_empty() {
        text.push_str(&format!("# [{at}]\n"));
    }
    for arg in &options {
        let help = arg.get_help().map(|h| h.to_string().replace('\n', " ")).unwrap_or_default();
        let default = arg.get_default_values().first().map(|v| v.to_string_lossy().into_owned());
        let takes = arg.get_action().takes_values();
        let value = match default {
            _ if !takes => "true".to_string(),
            Some(v) if v.parse::<f64>().is_ok() => v,
            Some(v) => format!("{v:?}"),
            None => "\"…\"".into(),
        };
        text.push_str(&format!("# {} = {value}  # {help}\n", config::name(arg)));
    }
    if !options.is_empty() {
        text.push('\n');
    }
    for sub in
        command.get_subcommands().filter(|c| !["help", "config", "completions"].contains(&c.get_name()))
    {
        let at = if at.is_empty() { sub.get_name().to_string() } else { format!("{at}.{}", sub.get_name()) };
        table(sub, &at, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_listed_and_the_list_is_a_config_file() {
        let text = all(&Cli::command());
        for line in
            ["# [serve]", "# port = 8421", "# temperature = 0.7", "# offline = true", "# [debug.plan]"]
        {
            assert!(text.lines().any(|l| l.starts_with(line)), "{line}");
        }
        // With the # taken away, it is TOML.
        let bare: String =
            text.lines().filter_map(|l| l.strip_prefix("# ")).skip(1).map(|l| format!("{l}\n")).collect();
        bare.parse::<toml::Table>().unwrap();
    }
}
