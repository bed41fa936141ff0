//! Memory as planned and as measured.

use hob_graph::{Graph, Op};
use std::fmt;

/// What a run will hold, in bytes, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// the process before a model was opened: program, libraries, runtime
    pub process: usize,
    /// what the model's file says of itself, its tokenizer, and the graphs
    pub model: usize,
    /// weights as stored in the file; of all experts, though a mapped file's are in memory only once they were chosen
    pub weights: usize,
    /// weights copied into another form
    pub copies: usize,
    /// keys and values of the tokens so far
    pub state: usize,
    /// intermediate results and working memory of kernels
    pub activations: usize,
}

impl Budget {
    /// All together; more than any machine has where it is more than a `usize` counts.
    pub fn total(&self) -> usize {
        let parts = [self.process, self.model, self.weights, self.copies, self.state, self.activations];
        parts.into_iter().fold(0, usize::saturating_add)
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("process", self.process),
            ("model", self.model),
            ("weights", self.weights),
            ("copies", self.copies),
            ("state", self.state),
            ("activations", self.activations),
            ("total", self.total()),
        ];
        for (name, n) in rows {
            writeln!(f, "{name:<12} {:>12}", hob_graph::print::bytes(n))?;
        }
        Ok(())
    }
}

/// Of each weight of `graph`, whether a run reads rows alone, those of its tokens: of an embedding that is nothing else
/// too.
pub fn read_by_rows(graph: &Graph) -> Vec<bool> {
    let reads = |w: usize, op: fn(&Op) -> bool| {
        let reads = |node: &hob_graph::Node| {
            op(&node.op)
                && node.inputs.iter().any(|&x| graph.as_weight(x).is_some_and(|id| id.0 as usize == w))
        };
        graph.nodes.iter().any(reads)
    };
    // Few nodes gather; whether others read their tables is then looked for.
    let alone = |i: usize| reads(i, |op| *op == Op::Gather) && !reads(i, |op| *op != Op::Gather);
    let tables: Vec<usize> = (graph.nodes.iter().filter(|n| n.op == Op::Gather))
        .filter_map(|n| graph.as_weight(n.inputs[0]))
        .map(|id| id.0 as usize)
        .collect();
    (0..graph.weights.len()).map(|i| tables.contains(&i) && alone(i)).collect()
}

/// Of `rows` bytes of weights that are read by rows, those that a run of `tokens` tokens leaves in the file: it reads
/// the tokens' rows, with the pages around them that the system maps along.
pub fn unread(rows: usize, tokens: usize) -> usize {
    /// What Linux maps around a page that is asked for.
    const AROUND: usize = 64 << 10;
    rows.saturating_sub(tokens.saturating_mul(AROUND))
}

/// Bytes of memory the process holds now; `None` where the system does not tell.
pub fn resident() -> Option<usize> {
    status("VmRSS:")
}

/// The most bytes of memory the process has held; `None` where the system does not tell.
pub fn peak() -> Option<usize> {
    status("VmHWM:").or_else(rusage_peak)
}

/// Bytes the process will hold beside its models: its own memory as it is now, and of the program and its libraries what
/// a run comes to use. Their pages are read as they are first needed, so what is resident now would be too little.
pub fn process() -> usize {
    // Much of what is mapped is the server's and the pictures', which an answer does not touch. Measured: 0.41 after a
    // bench, 0.5 after answers, with SmolLM2 and Gemma 3.
    process_using(48)
}

/// The same of a server that makes pictures.
pub fn serving() -> usize {
    process_using(64) // measured: 0.62 of a release build
}

fn process_using(percent: usize) -> usize {
    let maps = || std::fs::read_to_string("/proc/self/maps").ok();
    let known = || Some(status("RssAnon:")? + used(&maps()?, percent));
    known().or_else(resident).or_else(peak).unwrap_or(0)
}

/// So many percent of the bytes of programs and libraries, listed as Linux's `/proc/self/maps` does.
fn used(maps: &str, percent: usize) -> usize {
    let mut files: Vec<(&str, usize, bool)> = Vec::new(); // name, bytes, whether code is among them
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(may), Some(name)) = (fields.next(), fields.next(), fields.nth(3)) else {
            continue;
        };
        let Some((from, to)) = range.split_once('-') else { continue };
        let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16)) else {
            continue;
        };
        let at = files.iter().position(|f| f.0 == name).unwrap_or_else(|| {
            files.push((name, 0, false));
            files.len() - 1
        });
        files[at].1 += to.saturating_sub(from);
        files[at].2 |= may.contains('x');
    }
    files.iter().filter(|f| f.2 && f.0.starts_with('/')).map(|f| f.1 * percent / 100).sum()
}

/// A line of Linux's `/proc/self/status`, which counts in KiB.
fn status(key: &str) -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}

#[cfg(unix)]
fn rusage_peak() -> Option<usize> {
    // SAFETY: a plain struct of numbers, filled by the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_SELF, &mut usage) != 0 {
            return None;
        }
        usage
    };
    // macOS counts bytes, the others KiB.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    Some(usage.ru_maxrss as usize * unit)
}

#[cfg(not(unix))]
fn rusage_peak() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn of_an_embedding_alone_only_rows_are_read() {
        use hob_graph::{Builder, DType};
        let bytes = 4096 * 1024 * 4;
        for (tied, expected) in [(true, 0), (false, bytes - 3 * (64 << 10))] {
            let g = Builder::stateless(2);
            let table = g.weight("embed", &[4096, 1024]);
            let x = table.gather(g.ids());
            let head = if tied { table } else { g.weight("head", &[8, 1024]) };
            g.output("y", x.linear_by(head));
            let mut graph = g.finish().unwrap();
            let shapes = |name: &str| if name == "embed" { vec![4096, 1024] } else { vec![8, 1024] };
            graph.bind(|name| Some((DType::F32, shapes(name)))).unwrap();
            let by_rows = super::read_by_rows(&graph);
            let rows: usize =
                graph.weights.iter().zip(by_rows).filter(|(_, b)| *b).map(|(w, _)| w.bytes()).sum();
            assert_eq!(super::unread(rows, 3), expected);
        }
    }

    #[test]
    fn programs_and_libraries_are_told_from_other_files() {
        let maps = "1000-2000 r--p 00000000 00:1e 12   /bin/hob\n\
                    2000-a000 r-xp 00001000 00:1e 12   /bin/hob\n\
                    b000-c000 rw-p 00000000 00:00 0    [heap]\n\
                    10000-90000 r--s 00000000 00:1e 13 /models/a model.gguf\n\
                    a0000-a1000 r-xp 00000000 00:00 0  [vdso]\n\
                    a1000-a2000 rw-p 00000000 00:00 0\n\
                    b0000-b8000 r-xp 00000000 00:1e 14 /lib/libc.so";
        assert_eq!(super::used(maps, 48), 0x9000 * 48 / 100 + 0x8000 * 48 / 100);
        assert_eq!(super::used("nonsense\n1-2\n\n", 48), 0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_is_known() {
        let (ours, now) = (super::process(), super::resident().unwrap());
        assert!(ours > now / 4 && ours < 4 * now, "{ours} of {now}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_grows_with_what_is_touched() {
        let before = super::peak().unwrap();
        let big = vec![1u8; before + (32 << 20)];
        assert!(super::peak().unwrap() >= before + (32 << 20), "{}", big.len());
        assert!(super::resident().unwrap() <= super::peak().unwrap());
    }
}
