//! The command line.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
Fingerprints every file under a folder, one job a file, and counts the words of the text files.

  cargo run --release -p quickstart -- [FOLDER] [OPTIONS]

  FOLDER          the folder to read; by default that of an unfinished scan, or else this repository
  --db FILE       the database; quickstart.db by default
  --report FILE   where the report goes; quickstart-report.json by default
  --slow MS       each file takes this many milliseconds longer, to watch and to kill it
  --stay          stay up when everything is finished

It ends with 0, or with 1 where a file could not be read or the report could not be written.";

pub struct Arguments {
    /// `None` where none is named.
    pub folder: Option<PathBuf>,
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
        let folder = folder.map(|folder| existing(&folder)).transpose()?;
        let (db, report) = (absolute(&db)?, absolute(&report)?);
        check_writable(&report)
            .with_context(|| format!("cannot write the report {}", report.display()))?;
        Ok(Some(Self { folder, db, report, slow_ms, stay }))
    }

    /// The folder of a new scan.
    pub fn folder(&self) -> Result<PathBuf> {
        let repository = || existing(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.."));
        self.folder.clone().map_or_else(repository, Ok)
    }
}

fn existing(folder: &Path) -> Result<PathBuf> {
    let folder =
        folder.canonicalize().with_context(|| format!("cannot read {}", folder.display()))?;
    if !folder.is_dir() {
        bail!("{} is not a folder", folder.display());
    }
    Ok(folder)
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

/// Looks now whether the report can be written, not when everything has been read.
fn check_writable(report: &Path) -> io::Result<()> {
    if report.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let beside = report.with_extension("part");
    std::fs::write(&beside, "")?;
    std::fs::remove_file(&beside)
}
