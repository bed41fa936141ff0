//! Local AI in one native binary: the commands, the models on this machine, and the terminal.

mod catalogue;
mod chat;
mod client;
mod commands;
mod config;
mod details;
mod error;
mod file;
mod fit;
mod hashes;
mod hub;
mod interrupt;
mod machine;
mod model;
mod naming;
mod net;
mod picture;
mod places;
mod preset;
mod room;
mod seen;
mod serve;
mod store;
mod terminal;
mod wheel;

#[cfg(test)]
#[path = "../../../tests/common/models.rs"]
mod real;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use commands::{Cli, Command};
use hob_engine::{isa, near};

fn main() -> ExitCode {
    install_panic_hook(true);
    interrupt::on_closed(false); // Rust's own way would turn `hob list | head` into a panic
    let cli = match read() {
        Ok(cli) => cli,
        Err(e) => {
            eprintln!("hob: {e}");
            return ExitCode::FAILURE;
        }
    };
    terminal::set_color(cli.global.no_color);
    interrupt::install();
    match std::panic::catch_unwind(|| dispatch(cli)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(e)) => {
            eprintln!("hob: {e}");
            ExitCode::from(e.exit_code())
        }
        Err(_) => ExitCode::FAILURE, // the hook has said it
    }
}

/// The command line, over what the config file says. A mistake in that must not keep anybody from looking at it.
fn read() -> error::Result<Cli> {
    let mut command = match std::env::args().nth(1).as_deref() {
        Some("config") => Cli::command(),
        _ => config::apply(Cli::command())?,
    };
    let matches = command.get_matches_mut();
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.format(&mut command).exit());
    if let (Command::Run(args), Some((_, said))) = (&mut cli.command, matches.subcommand()) {
        args.said = commands::run::said(said);
    }
    Ok(cli)
}

fn dispatch(cli: Cli) -> error::Result<()> {
    let global = &cli.global;
    if let Err(name) = isa::limit() {
        let known = isa::Isa::ALL.map(isa::Isa::name).join(", ");
        return Err(error::Error::new(format!("{} is {name}, and may be {known}", isa::LIMIT)));
    }
    match cli.command {
        Command::Run(args) => commands::run::run(args, global),
        Command::Serve(args) => commands::serve::run(args, global),
        Command::Ps(args) => commands::ps::run(args),
        Command::Stop(args) => commands::stop::run(args),
        Command::List(args) => commands::list::run(args, global),
        Command::Show(args) => commands::show::run(args, global),
        Command::Pull(args) => commands::pull::run(args, global),
        Command::Create(args) => commands::create::run(args, global),
        Command::Rm(args) => commands::rm::run(args, global),
        Command::Embed(args) => commands::embed::run(args, global),
        Command::Image(args) => commands::image::run(*args, global),
        Command::Upscale(args) => commands::upscale::run(args, global),
        Command::Bench(args) => commands::bench::run(args, global),
        Command::Fit(args) => commands::fit::run(args, global),
        Command::Doctor(args) => commands::doctor::run(args, global),
        Command::Debug(args) => commands::debug::run(args, global),
        Command::Config(args) => commands::config::run(args),
        Command::Completions(args) => commands::completions::run(args),
    }
}

/// A panic is a bug in Hob: one sentence that helps to report it, in place of a trace. Its message `quotes` values, where it
/// may.
fn install_panic_hook(quotes: bool) {
    std::panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let why = payload.downcast_ref::<&str>().copied();
        let why =
            why.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given");
        // The standard library panics where stdout cannot be written, as on a full disk.
        if let Some(system) = why.strip_prefix("failed printing to stdout: ") {
            eprintln!("hob: cannot write the output: {system}");
            return;
        }
        let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        let why = if quotes { format!("{} ", terminal::clean(why)) } else { String::new() };
        eprintln!(
            "hob: a bug in Hob {} stopped this ({why}at {place}); please report this line and the command to Hob's issues",
            env!("CARGO_PKG_VERSION"),
        );
    }));
}
