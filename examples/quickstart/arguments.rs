//! The command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
Fingerprints every file under a folder, one job a file, and counts the words of the text files.

  cargo run --release --example quickstart -- [FOLDER] [OPTIONS]

  FOLDER          the folder to read; this repository by default
  --db FILE       the database; quickstart.db by default
  --report FILE   where the report goes; quickstart-report.json by default
  --slow MS       each file takes so many milliseconds, to watch and to kill it
  --stay          stay up when everything is finished";

pub struct Arguments {
    pub folder: PathBuf,
    pub db: PathBuf,
    pub report: PathBuf,
    pub slow_ms: u64,
    pub stay: bool,
}

impl Arguments {
    /// `None` where help was asked for, and given.
    pub fn from_env() -> Result<Option<Self>> {
        let mut folder = None;
        let mut db = PathBuf::from("quickstart.db");
        let mut report = PathBuf::from("quickstart-report.json");
        let (mut slow_ms, mut stay) = (0, false);
        let mut arguments = std::env::args_os().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value =
                |name: &str| arguments.next().with_context(|| format!("{name} needs a value"));
            match argument.to_str() {
                Some("--db") => db = value("--db")?.into(),
                Some("--report") => report = value("--report")?.into(),
                Some("--slow") => {
                    let text = value("--slow")?;
                    let text = text.to_string_lossy();
                    slow_ms =
                        text.parse().with_context(|| format!("--slow: {text:?} is no number"))?;
                }
                Some("--stay") => stay = true,
                Some("-h" | "--help") => {
                    println!("{USAGE}");
                    return Ok(None);
                }
                Some(option) if option.starts_with("--") => {
                    bail!("{option} is unknown; see --help")
                }
                _ if folder.is_some() => bail!("two folders are named; see --help"),
                _ => folder = Some(PathBuf::from(argument)),
            }
        }
        let folder = folder.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".."));
        let folder =
            folder.canonicalize().with_context(|| format!("cannot read {}", folder.display()))?;
        if !folder.is_dir() {
            bail!("{} is not a folder", folder.display());
        }
        Ok(Some(Self { folder, db: absolute(&db)?, report: absolute(&report)?, slow_ms, stay }))
    }
}

/// The file need not exist; its folder must.
fn absolute(path: &Path) -> Result<PathBuf> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
    let folder = folder
        .canonicalize()
        .with_context(|| format!("there is no folder {}", folder.display()))?;
    Ok(folder.join(name))
}
