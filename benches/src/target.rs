//! The storage that is measured.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use jobkit::sqlite::{SqliteDurability, SqliteOptions};
use jobkit::{MemoryStorage, Storage};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Memory,
    Sqlite,
    SqliteFull,
}

#[derive(Clone, Debug)]
pub struct Target {
    pub name: String,
    pub kind: Kind,
    /// A tenth of the jobs, once.
    pub quick: bool,
}

/// A storage of its own for one measurement; its files go with it.
pub struct Fresh {
    pub storage: Arc<dyn Storage>,
    folder: tempfile::TempDir,
}

impl Target {
    pub fn new(name: &str, quick: bool) -> Result<Self> {
        let kind = match name {
            "memory" => Kind::Memory,
            "sqlite" => Kind::Sqlite,
            "sqlite-full" => Kind::SqliteFull,
            other => bail!("storage {other} is unknown: memory, sqlite, sqlite-full"),
        };
        Ok(Self { name: name.to_owned(), kind, quick })
    }

    pub fn rounds(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    pub fn jobs(&self, jobs: usize) -> usize {
        if self.quick { jobs / 10 } else { jobs }
    }

    pub async fn fresh(&self) -> Result<Fresh> {
        let folder = tempfile::tempdir()?;
        let durability = match self.kind {
            Kind::SqliteFull => SqliteDurability::Full,
            _ => SqliteDurability::Normal,
        };
        let storage: Arc<dyn Storage> = match self.kind {
            Kind::Memory => Arc::new(MemoryStorage::new()),
            Kind::Sqlite | Kind::SqliteFull => {
                let path = folder.path().join("jobs.db");
                Arc::new(SqliteOptions::new(path).durability(durability).open().await?)
            }
        };
        Ok(Fresh { storage, folder })
    }
}

impl Fresh {
    /// Where other processes find it.
    pub fn url(&self) -> String {
        format!("sqlite://{}", self.path().display())
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("jobs.db")
    }
}
