//! Picking the storage by the scheme of a URL.

use std::sync::Arc;

use jobkit_core::{Error, Result, Storage};

/// Opens the storage that a URL names, and brings its schema up to date.
///
/// | URL | storage | feature |
/// |---|---|---|
/// | `sqlite:///var/lib/app/jobs.db`, `sqlite://jobs.db` | a SQLite file, absolute or relative | `sqlite` |
/// | `memory:` | this process's memory, gone with it | |
///
/// Paths are percent-decoded, as `sqlite://my%20jobs.db`.
///
/// # Errors
/// Invalid input for a scheme that is unknown, or whose feature is not compiled in; otherwise what the
/// storage says.
///
/// # Example: the address comes from the environment
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let storage = jobkit::connect(&std::env::var("JOBKIT_URL")?).await?;
/// let client = jobkit::Client::new(storage);
/// # drop(client);
/// # Ok(())
/// # }
/// ```
pub async fn connect(url: &str) -> Result<Arc<dyn Storage>> {
    let scheme = url.split(':').next().unwrap_or_default();
    match scheme {
        "memory" => Ok(Arc::new(jobkit_core::MemoryStorage::new())),
        "sqlite" => sqlite(url).await,
        // The address may hold a password: only the scheme is told.
        other => Err(Error::invalid(
            "url",
            format_args!("begins with {other:?}, where `sqlite:` and `memory:` are known"),
        )),
    }
}

#[cfg(feature = "sqlite")]
async fn sqlite(url: &str) -> Result<Arc<dyn Storage>> {
    Ok(Arc::new(jobkit_sqlite::SqliteStorage::from_url(url).await?))
}

#[cfg(not(feature = "sqlite"))]
#[allow(clippy::unused_async, reason = "the same shape as with the feature")]
async fn sqlite(_: &str) -> Result<Arc<dyn Storage>> {
    Err(Error::invalid(
        "url",
        "names sqlite, which this program was built without; add the feature `sqlite`",
    ))
}
