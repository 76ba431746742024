//! `move`: everything that is not running, from one storage to another, or to a dump and back.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use jobkit_core::transfer::{self, Copied, Options};
use jobkit_core::{Error, ErrorKind, MemoryStorage, Storage};
use serde_json::{Value, json};

use super::args::Move;
use super::console::Console;
use super::{Done, Exit, source};

/// How many things are copied between two words of progress.
const TOLD_EVERY: u64 = 20_000;

/// Where things come from or go to.
enum End {
    /// Lines of JSON.
    Dump(PathBuf),
    Url(String),
}

impl End {
    fn of(text: &str) -> Self {
        match text.strip_prefix("dump:") {
            Some(path) => Self::Dump(path.strip_prefix("//").unwrap_or(path).into()),
            None => Self::Url(text.to_owned()),
        }
    }
}

pub(super) async fn run(args: &Move, json: bool, console: &mut Console<'_>) -> Done {
    let options = Options::default().force(args.force);
    let copied = match (End::of(&args.from), End::of(&args.to)) {
        (_, End::Url(_)) if args.replace => {
            let words = "--replace is for a dump; a storage keeps what is in it";
            return Err(super::Stop::Usage(words.to_owned()));
        }
        (End::Url(from), End::Dump(to)) => {
            let from = source::existing(&from).await?;
            let Copied { stored, running, .. } = dump(&*from, options, &to, args.replace).await?;
            let mut words = format!("{stored} things are in {}", to.display());
            if running > 0 {
                words.push_str(&format!("; {running} run and were left out"));
            }
            answer(json, console, &words, &json!({ "stored": stored, "running": running }))?;
            return Ok(if running > 0 { Exit::Nothing } else { Exit::Done });
        }
        (End::Url(from), End::Url(to)) => {
            let (from, to) = (source::existing(&from).await?, crate::connect(&to).await?);
            copy(&*from, &*to, options, console).await?
        }
        (End::Dump(from), End::Url(to)) => {
            let memory = load(&from).await?;
            let to = crate::connect(&to).await?;
            copy(&memory, &*to, options, console).await?
        }
        (End::Dump(_), End::Dump(_)) => {
            let words = "one of --from and --to is a storage; copy the file otherwise";
            return Err(super::Stop::Usage(words.to_owned()));
        }
    };
    let words = told(&copied);
    let Copied { stored, already, running, verified, changed, missing, .. } = copied;
    let figures = json!({
        "stored": stored, "already": already, "running": running,
        "verified": verified, "changed": changed, "missing": missing,
    });
    answer(json, console, &words, &figures)?;
    Ok(if missing > 0 || running > 0 { Exit::Nothing } else { Exit::Done })
}

fn answer(
    json: bool,
    console: &mut Console<'_>,
    words: &str,
    figures: &Value,
) -> std::io::Result<()> {
    if json { console.json(figures) } else { console.say(words) }
}

fn told(copied: &Copied) -> String {
    let mut words = format!(
        "{} stored, {} were there already; {} are the same in both",
        copied.stored, copied.already, copied.verified
    );
    for (count, what) in [
        (copied.changed, "went on in the new storage"),
        (copied.running, "run and were left out: move again when they have ended"),
        (copied.missing, "are missing: move again"),
    ] {
        if count > 0 {
            words.push_str(&format!("; {count} {what}"));
        }
    }
    words
}

async fn copy(
    from: &dyn Storage,
    to: &dyn Storage,
    options: Options,
    console: &mut Console<'_>,
) -> Result<Copied, Error> {
    let mut told = 0;
    transfer::copy(from, to, options, |so_far| {
        let seen = so_far.stored + so_far.already + so_far.verified;
        if seen >= told + TOLD_EVERY {
            told = seen;
            let copied = so_far.stored + so_far.already;
            // Whether anybody reads it does not matter.
            let _ = console.tell(&format!("{copied} copied, {} verified", so_far.verified));
        }
    })
    .await
}

fn file(path: &Path, error: std::io::Error) -> Error {
    let words = format!("{} cannot be used: {error}", path.display());
    Error::new(ErrorKind::Unavailable, words)
}

/// Written beside and put in its place at the end, so that half a dump is never taken for a whole one. For
/// its owner alone: it holds arguments and results as they are stored.
async fn dump(
    from: &dyn Storage,
    options: Options,
    to: &Path,
    replace: bool,
) -> Result<Copied, Error> {
    if to.exists() && !replace {
        let words =
            format!("{} is there already; --replace puts the dump in its place", to.display());
        return Err(Error::new(ErrorKind::Conflict, words));
    }
    let mut beside = to.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    // One that an earlier dump left.
    let _ = std::fs::remove_file(&beside);
    let mut new = std::fs::OpenOptions::new();
    new.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut new, 0o600);
    let mut out = BufWriter::new(new.open(&beside).map_err(|it| file(&beside, it))?);
    let copied = transfer::dump(from, options, |line| {
        writeln!(out, "{line}").map_err(|error| file(&beside, error))
    })
    .await?;
    let out = out.into_inner().map_err(|error| file(&beside, error.into_error()))?;
    out.sync_all().map_err(|error| file(&beside, error))?;
    std::fs::rename(&beside, to).map_err(|error| file(to, error))?;
    Ok(copied)
}

async fn load(from: &Path) -> Result<MemoryStorage, Error> {
    let memory = MemoryStorage::new();
    let lines = BufReader::new(std::fs::File::open(from).map_err(|it| file(from, it))?).lines();
    let lines = lines.map(|line| line.map_err(|error| file(from, error)));
    transfer::load(&memory, lines).await?;
    Ok(memory)
}
