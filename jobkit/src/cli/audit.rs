//! `audit`: who did what.

use jobkit_core::redact::hide_in_text;
use jobkit_core::storage::AuditEntry;
use serde_json::{Value, json};

use super::args::Page;
use super::console::Table;
use super::list::Listed;
use super::{Context, Done, view};

pub(super) async fn run(context: &mut Context<'_, '_>, page: &Page) -> Done {
    let storage = context.storage();
    let fetch = async |after: Option<String>, limit| {
        let after = after.map(|id| id.parse()).transpose()?;
        storage.audit(after, limit).await
    };
    let listed = Listed::page(page, fetch, |entry| entry.operation.to_string()).await?;
    context.listed(&listed, "no entries", json, |context, entries| {
        let mut table = Table::new(&["when", "who", "action", "target", "outcome", "reason"]);
        for entry in entries {
            let outcome = if entry.outcome.is_empty() { "not known" } else { &entry.outcome };
            let cells = [
                &context.time(entry.at),
                &hide_in_text(&entry.actor),
                &entry.action,
                &hide_in_text(&entry.target),
                &hide_in_text(outcome),
                &hide_in_text(&entry.reason),
            ];
            table.row(cells.map(String::as_str));
        }
        Ok(context.console.table(&table)?)
    })
}

fn json(entry: &AuditEntry) -> Value {
    json!({
        "operation": entry.operation,
        "at": view::time(entry.at),
        "actor": hide_in_text(&entry.actor),
        "peer": hide_in_text(&entry.peer),
        "action": entry.action,
        "target": hide_in_text(&entry.target),
        "count": entry.count,
        "outcome": hide_in_text(&entry.outcome),
        "reason": hide_in_text(&entry.reason),
    })
}
