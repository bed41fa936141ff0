//! What runs in the memory that people have: models by classes of GPU memory, and on this machine.

use serde_json::json;

use super::formula;
use super::plan::Fit;
use super::planner::Planner;
use super::quants::Mix;
use super::subject::Subject;
use super::verdict::{Verdict, rate};
use super::zoo;
use crate::error::Result;
use crate::terminal;

/// Memory of GPUs that people have, in GiB.
const CLASSES: [u64; 6] = [8, 12, 16, 24, 32, 128];

/// Tokens of context that a comfortable run has, where the model was trained for as many.
const CONTEXT: usize = 8192;

/// From fine to coarse. Below 4 bits models lose what makes them worth their size.
const MIXES: [Mix; 4] = [Mix::Q8_0, Mix::Q6_K, Mix::Q5_K_M, Mix::Q4_K_M];

/// Tokens a second that are comfortable to read.
const COMFORTABLE: f64 = 7.0;

/// Of a GPU's memory, what a desktop leaves.
fn left(gib: u64) -> u64 {
    (gib << 30) / 16 * 15
}

/// A language model's line.
struct Line {
    row: &'static zoo::Row,
    /// for each class, the finest mix that lies fully in such a GPU
    classes: [Option<Mix>; CLASSES.len()],
    /// what runs here: the finest mix that is comfortable, or else the coarsest that runs at all
    here: Option<(Mix, Fit)>,
}

/// Plans every shape and prints the table.
pub fn run(planner: &mut Planner, as_json: bool) -> Result<()> {
    planner.ask.ctx.get_or_insert(CONTEXT);
    let rows: Vec<_> = zoo::built().collect();
    let wait = terminal::delayed("planning");
    let mut lines = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        wait.set(i as u64, rows.len() as u64);
        lines.push(line(row, planner)?);
    }
    drop(wait);
    if as_json {
        println!("{}", json(&lines, planner));
        return Ok(());
    }
    print!("{}", text(&lines, planner));
    Ok(())
}

fn line(row: &'static zoo::Row, planner: &mut Planner) -> Result<Line> {
    let asked = planner.ask.ctx;
    planner.ask.ctx = asked.map(|n| n.min(row.context));
    let mut line = Line { row, classes: [None; CLASSES.len()], here: None };
    for mix in MIXES {
        let subject = Subject::imagined(row, mix)?;
        let needed = planner.on_gpu(&subject)?;
        for (class, best) in CLASSES.iter().zip(&mut line.classes) {
            if best.is_none() && needed <= left(*class) {
                *best = Some(mix);
            }
        }
        if line.here.as_ref().is_none_or(|(_, fit)| !comfortable(fit)) {
            let fit = planner.plan(&subject)?;
            if fit.verdict != Verdict::No {
                line.here = Some((mix, fit));
            }
        }
    }
    planner.ask.ctx = asked;
    Ok(line)
}

fn comfortable(fit: &Fit) -> bool {
    fit.verdict != Verdict::Disk && fit.speed.is_some_and(|s| s.tps >= COMFORTABLE)
}

fn text(lines: &[Line], planner: &Planner) -> String {
    let classes = CLASSES.map(|n| format!("{n} GB"));
    let header: Vec<&str> = ["MODEL", "PARAMETERS"]
        .into_iter()
        .chain(classes.iter().map(String::as_str))
        .chain(["HERE"])
        .collect();
    let mut rows = Vec::new();
    for l in lines {
        let mut cells = vec![l.row.name.clone(), parameters(l.row)];
        cells.extend(l.classes.iter().map(|m| m.map_or("·".into(), |m| m.to_string())));
        cells.push(here(l));
        rows.push(cells);
    }
    let mut out = format!(
        "Language models with {} tokens of context: the finest weights that lie fully in a GPU of that memory, and what \
         this machine runs.\n\n{}",
        planner.ask.ctx.unwrap_or(CONTEXT),
        terminal::table(&header, &rows, &[1])
    );
    let header: Vec<&str> =
        ["PICTURES, VIDEO, TRAINING", ""].into_iter().chain(classes.iter().map(String::as_str)).collect();
    let rows: Vec<Vec<String>> = formula::rows().iter().map(by_formula).collect();
    out.push_str(&format!(
        "\nPlanned by formula, as their graphs do not exist yet (~ with parts read from working memory in turn):\n\n{}",
        terminal::table(&header, &rows, &[])
    ));
    let mut best: Vec<&Line> =
        lines.iter().filter(|l| l.here.as_ref().is_some_and(|h| comfortable(&h.1))).collect();
    best.sort_by_key(|l| std::cmp::Reverse(l.row.parameters));
    let names: Vec<String> = best.iter().take(6).map(|l| format!("{} ({})", l.row.name, here(l))).collect();
    out.push_str(&match names.is_empty() {
        true => format!(
            "\nThis machine has {} free: none of these runs comfortably.\n",
            terminal::bytes(planner.target.ram)
        ),
        false => format!(
            "\nThis machine has {} free. It runs comfortably, best first: {}.\n",
            terminal::bytes(planner.target.ram),
            names.join(", ")
        ),
    });
    out.push_str("hob fit MODEL tells more of one; hob fit MODEL --gpu NAME plans for a GPU.\n");
    out
}

/// All of them, and of a model with experts those that a token takes.
fn parameters(row: &zoo::Row) -> String {
    let all = terminal::count(row.parameters);
    if row.active < row.parameters { format!("{all} ({} active)", terminal::count(row.active)) } else { all }
}

fn here(line: &Line) -> String {
    let Some((mix, fit)) = &line.here else { return "no".into() };
    let speed = fit.speed.map_or(String::new(), |s| format!(" {}/s", rate(s.tps)));
    let disk = if fit.verdict == Verdict::Disk { " from disk" } else { "" };
    format!("{mix}{speed}{disk}")
}

/// The finest precision of which all lies in the GPU, or else one that does with parts in working memory.
fn by_formula(row: &formula::Row) -> Vec<String> {
    let mut cells = vec![row.title.to_string(), row.setting.clone()];
    for class in CLASSES {
        let whole = row.variants.iter().find(|v| v.total_bytes <= left(class));
        let part = row.variants.iter().find(|v| v.least_bytes <= left(class));
        cells.push(match (whole, part) {
            (Some(v), _) => v.precision.name().into(),
            (None, Some(v)) => format!("~{}", v.precision.name()),
            (None, None) => "·".into(),
        });
    }
    cells
}

fn json(lines: &[Line], planner: &Planner) -> serde_json::Value {
    let classes = |l: &Line| {
        let cell = |(n, mix): (&u64, &Option<Mix>)| (n.to_string(), json!(mix.map(Mix::name)));
        CLASSES.iter().zip(&l.classes).map(cell).collect::<serde_json::Map<_, _>>()
    };
    let language = lines.iter().map(|l| {
        let here = l.here.as_ref().map(|(mix, fit)| {
            json!({
                "quantization": mix.name(),
                "verdict": fit.verdict.name(),
                "total_bytes": fit.total(),
                "tps": fit.speed.map(|s| s.tps),
                "comfortable": comfortable(fit),
            })
        });
        json!({
            "model": l.row.name,
            "title": l.row.title,
            "family": l.row.family,
            "licence": l.row.licence,
            "released": l.row.released,
            "checkpoint": l.row.checkpoint,
            "gguf": l.row.gguf,
            "parameters": l.row.parameters,
            "active": l.row.active,
            "classes": classes(l),
            "here": here,
        })
    });
    let others = formula::rows().into_iter().map(|row| {
        let cells = by_formula(&row);
        let classes = CLASSES.iter().zip(&cells[2..]).map(|(n, cell)| (n.to_string(), json!(cell)));
        json!({
            "model": row.name,
            "planned_by": "formula",
            "classes": classes.collect::<serde_json::Map<_, _>>(),
        })
    });
    json!({
        "ctx": planner.ask.ctx,
        "free_bytes": planner.target.ram,
        "language": language.collect::<Vec<_>>(),
        "others": others.collect::<Vec<_>>(),
    })
}
