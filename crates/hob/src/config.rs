//! The config file: a table for each command, a key for each of its options.
//!
//! What the file says becomes an option's default, so that the command line wins, and every option is in it by being one.

use std::io::ErrorKind;
use std::path::Path;

use clap::error::ErrorKind as Refused;
use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use crate::error::{Error, Result};
use crate::{near, places, terminal};

/// The file as it stands; empty where there is none.
///
/// # Errors
/// It cannot be read, or is no TOML.
pub fn read(path: &Path) -> Result<Table> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        // Nor is there one where its folder is none.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Table::new());
        }
        Err(e) => return Err(Error::io("read", path, &e)),
    };
    text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        Error::new(format!("{}, line {line}: {}", places::short(path), e.message()))
    })
}

/// The command line with the file's values as defaults.
///
/// # Errors
/// The file names what is no option, or gives one a value that it does not take.
pub fn apply(command: Command) -> Result<Command> {
    let Ok(path) = places::config() else { return Ok(command) };
    let table = read(&path)?;
    with(command, &table, "").map_err(|e| Error::new(format!("{}: {e}", places::short(&path))))
}

fn with(mut command: Command, table: &Table, at: &str) -> Result<Command, String> {
    for (key, value) in table {
        let shown = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        if let Value::Table(inner) = value {
            let Some(sub) = command.find_subcommand(key).map(|c| c.get_name().to_string()) else {
                let names = command.get_subcommands().map(|c| (c.get_name().to_string(), c.get_name()));
                return Err(unknown(&shown, "command", key, names));
            };
            let mut failed = None;
            command = command.mut_subcommand(&sub, |c| {
                let whole = c.clone();
                with(c, inner, &shown).unwrap_or_else(|e| {
                    failed = Some(e);
                    whole
                })
            });
            if let Some(failed) = failed {
                return Err(failed);
            }
            continue;
        }
        let Some(arg) = command.get_arguments().find(|arg| name(arg) == normal(key)) else {
            let names: Vec<String> = command.get_arguments().map(name).collect();
            return Err(unknown(
                &shown,
                "option",
                &normal(key),
                names.iter().map(|n| (n.clone(), n.as_str())),
            ));
        };
        let values = values(value)
            .ok_or_else(|| format!("{shown} is {value}, and must be a text, a number, or true"))?;
        let (id, flag) = (arg.get_id().clone(), !arg.get_action().takes_values());
        if values.len() != 1 && !matches!(arg.get_action(), ArgAction::Append) {
            return Err(format!("{shown} takes one value"));
        }
        if flag && !["true", "false"].contains(&values[0].as_str()) {
            return Err(format!("{shown} is true or false"));
        }
        check(arg, flag, &values).map_err(|why| format!("{shown}: {why}"))?;
        command = command.mut_arg(id, |arg| match flag {
            // A flag that the file sets has no value to be given.
            true => arg.default_value(values[0].clone()),
            false => arg.default_values(values.clone()).required(false),
        });
    }
    Ok(command)
}

/// Whether an option takes these values, as its own reader says.
fn check(arg: &Arg, flag: bool, values: &[String]) -> Result<(), String> {
    if flag {
        return Ok(());
    }
    let alone = Command::new("hob").no_binary_name(true).arg(arg.clone());
    let words: Vec<String> = match arg.get_long() {
        Some(long) => values.iter().map(|v| format!("--{long}={v}")).collect(),
        None => values.to_vec(),
    };
    match alone.try_get_matches_from(words) {
        Err(e) if matches!(e.kind(), Refused::InvalidValue | Refused::ValueValidation) => {
            let text = e.to_string();
            let line = text.lines().next().unwrap_or_default();
            Err(line.trim_start_matches("error: ").to_string())
        }
        _ => Ok(()),
    }
}

fn unknown<'a>(shown: &str, kind: &str, key: &str, names: impl Iterator<Item = (String, &'a str)>) -> String {
    let near = near::near(&near::plain(key), names.map(|(n, shown)| (near::plain(&n), shown)));
    let meant = if near.is_empty() {
        "hob config --all lists all".into()
    } else {
        format!("did you mean {}?", near.join(", "))
    };
    format!("{} is no {kind}; {meant}", terminal::clean(shown))
}

/// What an option is called in the file: its long name, with _ between words.
pub fn name(arg: &Arg) -> String {
    normal(arg.get_long().unwrap_or(arg.get_id().as_str()))
}

fn normal(key: &str) -> String {
    key.replace('-', "_")
}

fn values(value: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Some(value.to_string()),
        _ => None,
    };
    match value {
        Value::Array(all) => all.iter().map(one).collect(),
        value => one(value).map(|text| vec![text]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn of(text: &str) -> Result<Command, String> {
        with(crate::commands::Cli::command(), &text.parse().unwrap(), "")
    }

    fn value(text: &str, words: &[&str], id: &str) -> Vec<String> {
        let matches = of(text).unwrap().try_get_matches_from(words).unwrap();
        let (_, sub) = matches.subcommand().unwrap();
        sub.get_raw(id).unwrap().map(|v| v.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn the_file_gives_defaults_and_the_command_line_wins() {
        let file = "offline = true\n[serve]\nport = 9000\nallow-origin = ['http://a.example', 'http://b.example']\nmapped = true\n[run]\ntemperature = 0.2\n[debug.plan]\nctx = 100";
        assert_eq!(value(file, &["hob", "serve"], "port"), ["9000"]);
        assert_eq!(value(file, &["hob", "serve", "--port", "1"], "port"), ["1"]);
        assert_eq!(value(file, &["hob", "serve"], "allow_origin").len(), 2);
        assert_eq!(value(file, &["hob", "run"], "temperature"), ["0.2"]);
        let matches = of(file).unwrap().try_get_matches_from(["hob", "serve"]).unwrap();
        assert!(matches.get_flag("offline") && matches.subcommand().unwrap().1.get_flag("mapped"));
        of(file).unwrap().debug_assert();
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (file, says) in [
            ("[serv]\nport = 1", "serv is no command; did you mean serve?"),
            ("[serve]\nprot = 1", "serve.prot is no option; did you mean port?"),
            ("[serve]\nport = 'x'", "serve.port: invalid value 'x' for '--port <N>'"),
            ("[serve]\nport = [1, 2]", "serve.port takes one value"),
            ("[serve]\nmapped = 3", "serve.mapped is true or false"),
            ("[run]\ntemperature = 1979-05-27", "must be a text, a number, or true"),
        ] {
            let e = of(file).unwrap_err();
            assert!(e.contains(says), "{e}");
        }
    }
}
