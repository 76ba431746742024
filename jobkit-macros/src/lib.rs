#![doc = include_str!("../README.md")]

mod expand;
mod options;

use proc_macro::TokenStream;

/// Turns an async function into a function that makes job values.
///
/// The function keeps its name, documentation, visibility and place; calling it makes a job value that
/// does nothing until it is enqueued. Parameters of type `Data<…>` or `JobContext`, and those marked
/// `#[inject]`, are given by the server; every other one is an argument: owned, and stored as JSON by its
/// name. Attributes such as `#[serde(default)]` may stand on arguments.
///
/// | option | meaning | default |
/// |---|---|---|
/// | `name = "…"` | the stable name of the kind | the function's name |
/// | `aliases("…", …)` | former names that are still served | none |
/// | `queue = "…"` | where it waits | `default` |
/// | `priority = 0…9` | 9 goes first | 5 |
/// | `max_attempts = n` | failures it may have, the first run included | the server's, 11 |
/// | `timeout = "2m"` | how long one attempt may take (`ms`, `s`, `m`, `h`, `d`) | the server's, none |
/// | `unique = "welcome:{user_id}"` | at most one job holds this key; names are arguments | none |
/// | `unique_until = "started"` | until when the key is held: `started` or `finished` | `finished` |
/// | `on_conflict = "reject"` | when it is held: `return_existing`, `reject`, `replace` | `return_existing` |
/// | `limit("smtp", 10)` | at most so many at once under this name, which may hold arguments | none |
/// | `blocking` | the function is not async and runs on the blocking pool | async |
/// | `crate = path` | where JobKit is, if it was renamed | `::jobkit` |
#[proc_macro_attribute]
pub fn job(options: TokenStream, function: TokenStream) -> TokenStream {
    expand::expand(options.into(), function.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
