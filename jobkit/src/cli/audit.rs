//! `audit`: who did what.

use jobkit_core::redact::hide_in_text;
use jobkit_core::storage::AuditEntry;
use serde_json::{Value, json};

use super::args::Page;
use super::console::Table;
use super::{Context, Done, Exit, view};

pub(super) async fn run(context: &mut Context<'_, '_>, page: &Page) -> Done {
    let limit = page.limit().min(jobkit_core::bounds::PAGE);
    let after = page.after.as_deref().map(str::parse).transpose()?;
    let entries = context.storage().audit(after, limit).await?;
    let next = entries.last().filter(|_| entries.len() == limit).map(|entry| entry.operation);
    if context.globals.json {
        let items: Vec<Value> = entries.iter().map(json).collect();
        context.console.json(&json!({ "items": items, "next": next }))?;
    } else if entries.is_empty() {
        context.console.tell("nobody did anything")?;
    } else {
        let mut table = Table::new(&["when", "who", "action", "target", "outcome", "reason"]);
        for entry in &entries {
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
        context.console.table(&table)?;
        if let Some(next) = next {
            context.console.tell(&format!("more: --after {next}"))?;
        }
    }
    Ok(if entries.is_empty() { Exit::Nothing } else { Exit::Done })
}

fn json(entry: &AuditEntry) -> Value {
    json!({
        "operation": entry.operation,
        "at": view::instant(entry.at),
        "actor": hide_in_text(&entry.actor),
        "peer": hide_in_text(&entry.peer),
        "action": entry.action,
        "target": hide_in_text(&entry.target),
        "count": entry.count,
        "outcome": hide_in_text(&entry.outcome),
        "reason": hide_in_text(&entry.reason),
    })
}
