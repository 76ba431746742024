//! The filter language, in which people say which jobs they mean: the same in the command line, the
//! dashboard and its API.
//!
//! ```text
//! state:failed queue:mail kind:Send* failed:<2h -tag:vip
//! ```
//!
//! Terms stand beside each other and all have to hold; values of one term are separated by commas and
//! one of them has to. A `-` in front turns a term round; a value with spaces or commas stands in double
//! quotes. What stands alone is searched in arguments and display names, or is a job's id.
//!
//! | term | means |
//! |---|---|
//! | `state:failed` | in this state; also `retrying`, `throttled`, `cancelled`, `dead` |
//! | `queue:mail`, `kind:Send*`, `tag:vip` | of this queue, of kinds that begin so, with this tag |
//! | `id:…`, `parent:…`, `batch:…`, `recurring:nightly` | this job; who waits for it; members; fired by |
//! | `server:web-1` | held by this server now |
//! | `priority:>5`, `attempt:2..4`, `run:>1m`, `wait:<10s` | in this range |
//! | `created:>2h`, `entered:<1d`, `failed:…`, `finished:…`, `due:…` | so long ago, or at these days |
//! | `arg.user.id:42`, `meta.tenant:acme`, `ctx.tenant:acme` | with this argument, metadata, captured context |
//! | `error:"timed out"`, `group:E-91c3` | whose last failure, or its cause, says so, or is of this group |
//! | `has:result` | also `error`, `batch`, `parent`, `key`, `limit`, `tag`, `recurring` |
//!
//! Lengths of time are ages: `failed:>2h` failed more than two hours ago, `due:<10m` is due within ten
//! minutes. Days are UTC, and `2026-11-01..2026-11-02` holds both.
//!
//! # Example: what failed in the last hour
//! ```
//! use jobkit::ops::search::{self, JobFilter};
//! use jobkit::{Client, MemoryStorage, Storage};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), jobkit::Error> {
//! # let storage: std::sync::Arc<dyn Storage> = std::sync::Arc::new(MemoryStorage::new());
//! let filter: JobFilter = "failed:<1h kind:send_*".parse()?;
//! let page = search::page(&*storage, &filter, None, 50).await?;
//! assert!(page.jobs.is_empty() && page.next.is_none());
//! # Ok(())
//! # }
//! ```

mod filter;
mod matching;
mod parse;
mod plan;
#[cfg(test)]
mod tests;
mod walk;

pub use filter::{Field, JobFilter, Property, Range, StateTerm, Term, When};
pub use plan::Plan;
pub use walk::{Page, Place, count, page, walk};
