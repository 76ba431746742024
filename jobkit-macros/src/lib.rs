#![doc = include_str!("../README.md")]

mod arguments;
#[allow(
    unreachable_pub,
    dead_code,
    reason = "a copy of the file in jobkit-core, where they are public"
)]
mod duration;
mod expand;
mod options;

use proc_macro::TokenStream;

/// Turns an async function into a function that makes job values.
///
/// The function keeps its name, documentation, visibility and place; calling it makes a job value that
/// does nothing until it is enqueued. Parameters of type `Data<…>` or `JobContext`, and those marked
/// `#[inject]`, are given by the server; every other one is an argument: owned, and stored as JSON by its
/// name. On arguments may stand `#[serde(default)]`, `rename`, `alias`, `with` and their like, and
/// `#[sensitive]` on those that are not to be shown to people.
///
/// The body may not name `Self`: in an `impl` block, name the type.
///
/// | option | meaning | default |
/// |---|---|---|
/// | `name = "…"` | the stable name of the kind | the function's name |
/// | `aliases("…", …)` | former names that are still served | none |
/// | `version = 2` | the version of the arguments; from 2 on stored as `name@2` | 1 |
/// | `upgrade = path` | a function from the stored arguments of the version before to a tuple of the present ones | none |
/// | `upgrade(1 = a, 2 = b)` | the same, for several older versions | none |
/// | `queue = "…"` | where it waits | `default` |
/// | `priority = 0…9` | 9 goes first | 5 |
/// | `max_attempts = n` | failures it may have, the first run included | the server's, 11 |
/// | `retry = expression` | its `RetryPolicy` | the server's |
/// | `classify = path` | `fn(&E) -> Retry`, asked about errors that carry no advice | by policy |
/// | `timeout = "2m"` | how long one attempt may take, such as `90s` or `1h30m` | the server's, none |
/// | `retention = "7d"` | how long finished ones are kept: a duration, `"forever"`, or a `Retention` | the server's |
/// | `unique = "welcome:{user_id}"` | at most one job holds this key; names are arguments | none |
/// | `unique_until = "started"` | until when the key is held: `started`, `finished`, or a duration such as `"10m"` | `finished` |
/// | `on_conflict = "reject"` | when it is held: `return_existing`, `reject`, `replace` | `return_existing` |
/// | `limit("smtp", 10)` | at most this many at once under this name, which may hold arguments | none |
/// | `rate_limit("api", 100, "1m")` | at most this many starts in any period of this length | none |
/// | `display_name = "Welcome {user_id}"` | a name of each job for people | the kind |
/// | `tags("vip", "user:{user_id}")` | tags of each job | none |
/// | `sensitive(card, pin)` | as `#[sensitive]` on these arguments | none |
/// | `blocking` | the function is not async and runs on the blocking pool | async |
/// | `crate = path` | where JobKit is, if it was renamed | `::jobkit` |
#[proc_macro_attribute]
pub fn job(options: TokenStream, function: TokenStream) -> TokenStream {
    expand::expand(options.into(), function.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
