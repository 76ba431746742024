//! What examples share, and the code in the documents, compiled.

pub mod mail;

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}

/// The guide, page by page.
#[cfg(doctest)]
mod guide {
    #[doc = include_str!("../../docs/guide/README.md")]
    mod index {}
    #[doc = include_str!("../../docs/guide/jobs.md")]
    mod jobs {}
    #[doc = include_str!("../../docs/guide/command-line.md")]
    mod command_line {}
    #[doc = include_str!("../../docs/guide/changing-jobs.md")]
    mod changing_jobs {}
    #[doc = include_str!("../../docs/guide/enqueueing.md")]
    mod enqueueing {}
    #[doc = include_str!("../../docs/guide/errors-and-retries.md")]
    mod errors_and_retries {}
    #[doc = include_str!("../../docs/guide/continuations-and-batches.md")]
    mod continuations_and_batches {}
    #[doc = include_str!("../../docs/guide/recurring.md")]
    mod recurring {}
    #[doc = include_str!("../../docs/guide/limits-unique-locks.md")]
    mod limits_unique_locks {}
    #[doc = include_str!("../../docs/guide/inside-a-job.md")]
    mod inside_a_job {}
    #[doc = include_str!("../../docs/guide/operating.md")]
    mod operating {}
    #[doc = include_str!("../../docs/guide/servers.md")]
    mod servers {}
    #[doc = include_str!("../../docs/guide/filters.md")]
    mod filters {}
    #[doc = include_str!("../../docs/guide/context-and-tracing.md")]
    mod context_and_tracing {}
    #[doc = include_str!("../../docs/guide/encryption.md")]
    mod encryption {}
    #[doc = include_str!("../../docs/guide/settings.md")]
    mod settings {}
    #[doc = include_str!("../../docs/guide/testing.md")]
    mod testing {}
    #[doc = include_str!("../../docs/guide/sqlite.md")]
    mod sqlite {}
    #[doc = include_str!("../../docs/guide/coming-from.md")]
    mod coming_from {}
}
