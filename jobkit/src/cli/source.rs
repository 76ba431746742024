//! Which storage is meant.

use std::sync::Arc;

use jobkit_core::Storage;

use super::args::{Command, Globals};
use super::{Done, Stop};

/// The address, from the option or the environment.
pub(super) fn url(globals: &Globals) -> Done<String> {
    let from_env = || std::env::var("JOBKIT_URL").ok().filter(|url| !url.is_empty());
    globals.url.clone().or_else(from_env).ok_or_else(|| {
        let words =
            "no storage: give --url, or set JOBKIT_URL, such as sqlite:///var/lib/app/jobs.db";
        Stop::Usage(words.to_owned())
    })
}

/// Opens it. Only `migrate` makes or changes a schema: looking at a database must not.
pub(super) async fn open(globals: &Globals, command: &Command) -> Done<Arc<dyn Storage>> {
    let url = url(globals)?;
    if matches!(command, Command::Migrate(_)) {
        return Ok(crate::connect(&url).await?);
    }
    existing(&url).await
}

/// Opens what is there, and leaves it as it is.
pub(super) async fn existing(url: &str) -> Done<Arc<dyn Storage>> {
    #[cfg(feature = "sqlite")]
    if url.starts_with("sqlite:") {
        let options = jobkit_sqlite::SqliteOptions::from_url(url)?.migrate_on_open(false);
        return Ok(Arc::new(options.open().await?));
    }
    Ok(crate::connect(url).await?)
}
