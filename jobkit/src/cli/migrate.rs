//! `migrate`: the schema.

use jobkit_core::Client;
use serde_json::json;

use super::args::{Globals, Migrate};
use super::console::Console;
use super::{Context, Done, Stop, source};

/// The statements, without touching anything.
pub(super) fn print(
    args: &Migrate,
    globals: &Globals,
    client: Option<&Client>,
    console: &mut Console<'_>,
) -> Done {
    let url = match client {
        // The statements depend on these two alone.
        Some(client) => client.storage().backend().to_owned() + ":",
        None => source::url(globals)?,
    };
    #[cfg(feature = "sqlite")]
    if url.starts_with("sqlite:") {
        let options = match client {
            Some(client) => {
                jobkit_sqlite::SqliteOptions::new("jobs.db").namespace(client.storage().namespace())
            }
            None => jobkit_sqlite::SqliteOptions::from_url(&url)?,
        };
        let statements = options.print_migrations(args.from)?;
        if globals.json {
            console.json(&json!({ "from": args.from, "statements": statements }))?;
        } else {
            console.script(&statements)?;
        }
        return Ok(super::Exit::Done);
    }
    let _ = (args, url, console);
    Err(Stop::Usage("this storage has no migrations to print".to_owned()))
}

/// Opening it brought the schema up to date; this says so, and does it where opening does not.
pub(super) async fn run(context: &mut Context<'_, '_>) -> Done {
    let storage = context.storage();
    let migrated = storage.migrate().await?;
    let words =
        format!("{} has schema {}, which is the present one", storage.backend(), migrated.to);
    let json = json!({ "backend": storage.backend(), "namespace": storage.namespace(), "schema": migrated.to });
    context.done(&words, &json)
}
