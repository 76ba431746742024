//! [`Server`]: claims jobs and runs them.
//!
//! A server is a handful of background processes around one engine: the dispatcher
//! claims, starts and settles; leases are renewed; the scheduler promotes what is due; the recurring
//! scheduler fires; the janitor rescues, sweeps and purges; the reporter sends what handlers tell. Every
//! one of them may run on every server at once.

mod builder;
mod dispatcher;
mod due_pushes;
mod engine;
mod executor;
mod failed;
mod finished_count;
mod health;
mod held;
mod host;
pub(crate) mod inline;
mod janitor;
mod leases;
mod options;
mod outcomes;
mod queues;
mod recurring_plan;
mod recurring_scheduler;
mod reporter;
mod scheduler;
mod settings;
mod settler;
mod shutdown;
mod supervisor;
mod watch;

pub use builder::{BuildError, Server, ServerBuilder};
pub use failed::FailedJob;
pub use health::{Health, Problem};
pub use host::hostname;
pub use options::{Prefetch, ServerOptions};
pub use shutdown::{ServerHandle, stop_signal};
