//! `hob create NAME`: a model of one's own, made of another.

use std::path::{Path, PathBuf};

use clap::Args;
use toml::{Table, Value};

use super::Global;
use crate::error::{Error, Result};
use crate::preset::{self, Preset};
use crate::{store, terminal};

const EXAMPLES: &str = "Examples:
  hob create pirate --from starter --system \"Talk like a pirate.\" --parameter temperature=0.2
  hob create pirate -f hob.toml
  hob create pirate -f Modelfile                what Ollama's says, imported
  hob create pirate -f Modelfile --print        only show the TOML that it becomes
  hob create mine --from base-model --adapter ./lora
  hob run pirate \"Good morning!\"

hob.toml, of which base alone is needed:
  base = \"starter\"                # a name that hob run knows, a path, or another preset
  system = \"Talk like a pirate.\"
  template = \"chat.jinja\"         # a chat template in Jinja, or a file of one beside this
  adapter = \"./lora\"              # a LoRA: a PEFT folder, or its safetensors
  description = \"…\"
  licence = \"…\"
  messages = [{ role = \"user\", content = \"Hello\" }, { role = \"assistant\", content = \"Ahoy!\" }]
  [parameters]                    # where a request or the command line says nothing else
  temperature = 0.2               # also top_k, top_p, min_p, repeat_penalty, repeat_last_n,
  stop = [\"<|end|>\"]              # presence_penalty, frequency_penalty, seed, max_tokens, ctx

No weight is copied: a preset is a small file, and the server shares its base's weights. hob list shows it,
hob show NAME what it adds, hob rm NAME removes it and leaves the base.";

/// Arguments of `hob create`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct CreateArgs {
    /// What to call it; one of that name is replaced
    name: String,
    /// A file that says what it is: TOML if its name ends in .toml, else Ollama's Modelfile
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The model to begin with
    #[arg(long, value_name = "MODEL")]
    from: Option<String>,
    /// What holds for every conversation that has no system message of its own
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// A default, such as temperature=0.2 or stop=END; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE")]
    parameter: Vec<String>,
    /// A file with a chat template in Jinja
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// A LoRA: a PEFT folder, or its safetensors
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    /// A line for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Print the TOML, and make nothing
    #[arg(long)]
    print: bool,
}

/// Reads the file, if any, puts the options over it, and writes the preset.
pub fn run(args: CreateArgs, _: &Global) -> Result<()> {
    preset::check_name(&args.name)?;
    let (preset, notes) = read(&args)?;
    for note in &notes {
        terminal::note(&terminal::clean(note));
    }
    if args.print {
        print!("{}", terminal::clean_lines(&preset.to_toml()?));
        return Ok(());
    }
    let replaced = preset::save(&args.name, &preset, &store::discover())?;
    let done = if replaced { "replaced" } else { "made" };
    println!("{done} {} of {}; hob run {0} runs it", args.name, terminal::clean(&preset.base));
    Ok(())
}

fn read(args: &CreateArgs) -> Result<(Preset, Vec<String>)> {
    let (file, notes) = match &args.file {
        None => (None, Vec::new()),
        Some(path) if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml")) => {
            (Some(Preset::read(path)?), Vec::new())
        }
        Some(path) => {
            let (preset, notes) = preset::of_modelfile(path)?;
            (Some(preset), notes)
        }
    };
    let options = options(args)?;
    if options.is_empty() {
        return match file {
            Some(preset) => Ok((preset, notes)),
            None => Err(Error::new("say what it is made of: --from MODEL, or -f FILE")),
        };
    }
    let mut table = match &file {
        Some(preset) => Table::try_from(preset).map_err(|e| Error::new(e.to_string()))?,
        None => Table::new(),
    };
    if file.is_none() && !options.contains_key("base") {
        return Err(Error::new("say what it is made of: --from MODEL, or -f FILE"));
    }
    for (key, value) in options {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(before)), Value::Table(more)) => before.extend(more),
            (_, value) => drop(table.insert(key, value)),
        }
    }
    Ok((Preset::of_table(table, Path::new("."))?, notes))
}

/// The options as a preset's file would write them.
fn options(args: &CreateArgs) -> Result<Table> {
    let path = |path: &Option<PathBuf>| match path {
        None => Ok(None),
        Some(path) => match path.to_str() {
            Some(text) => Ok(Some(text.to_string())),
            None => Err(Error::new(format!("{} is not UTF-8 text; rename it", path.display()))),
        },
    };
    let texts = [
        ("base", args.from.clone()),
        ("system", args.system.clone()),
        ("template", path(&args.template)?),
        ("adapter", path(&args.adapter)?),
        ("description", args.description.clone()),
    ];
    let mut table: Table =
        texts.into_iter().filter_map(|(key, text)| Some((key.to_string(), Value::String(text?)))).collect();
    let mut parameters = Table::new();
    for given in &args.parameter {
        let Some((key, text)) = given.split_once('=') else {
            let shown = terminal::clean(given);
            return Err(Error::new(format!(
                "--parameter is '{shown}', and must be NAME=VALUE (temperature=0.2)"
            )));
        };
        let key = key.trim().replace('-', "_");
        if key == "stop" {
            let all = parameters.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            all.as_array_mut().into_iter().for_each(|all| all.push(text.into()));
            continue;
        }
        let number = |text: &str| {
            let float = || text.parse::<f64>().ok().map(Value::Float);
            text.parse::<i64>().ok().map(Value::Integer).or_else(float)
        };
        let value = number(text.trim()).ok_or_else(|| {
            Error::new(format!("--parameter {key} is '{}', and must be a number", terminal::clean(text)))
        })?;
        parameters.insert(key, value);
    }
    if !parameters.is_empty() {
        table.insert("parameters".into(), Value::Table(parameters));
    }
    Ok(table)
}
