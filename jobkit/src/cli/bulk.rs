//! `bulk`: operations on many jobs, which servers carry out, and whoever asked for them.

use std::time::Duration;

use jobkit_core::redact::hide_in_text;
use jobkit_core::storage::{Action, BulkRecord};
use jobkit_core::{OperationId, bulk};
use serde_json::{Value, json};

use super::args::{BulkArgs, BulkCommand};
use super::console::Table;
use super::list::Listed;
use super::{Context, Done, Stop, change, format, view};

pub(super) async fn run(context: &mut Context<'_, '_>, args: &BulkArgs) -> Done {
    match (&args.command, args.id) {
        (Some(BulkCommand::Stop { id }), _) => {
            let was = context.operator().cancel_bulk(*id).await?;
            if !was {
                return Err(Stop::Nothing(format!(
                    "bulk operation {id} has ended, or there is none"
                )));
            }
            let words = format!("bulk operation {id} stops after its present step");
            context.done(&words, &json!({ "id": id, "stopping": true }))
        }
        (Some(BulkCommand::Drive { id }), _) => {
            let record = one(context, *id).await?;
            let ended = drive(context, &record).await?;
            change::finish(context, &ended)
        }
        (None, Some(id)) => {
            let record = one(context, id).await?;
            context.done(&words(&record), &json(&record))
        }
        (None, None) => list(context, args.first.limit()).await,
    }
}

async fn one(context: &Context<'_, '_>, id: OperationId) -> Done<BulkRecord> {
    let found = context.storage().bulk(id).await?;
    found.ok_or_else(|| Stop::Nothing(format!("there is no bulk operation {id}")))
}

async fn list(context: &mut Context<'_, '_>, limit: usize) -> Done {
    let records = context.storage().bulks(limit + 1).await?;
    let listed = Listed::first(records, limit);
    context.listed(&listed, "no bulk operation within a week", json, |context, records| {
        let heads = ["state", "id", "action", ">done", ">of", "begun", "by", "filter"];
        let mut table = Table::new(&heads);
        for record in records {
            let cells = [
                state(record),
                &record.id.to_string(),
                action(&record.action),
                &format::number(record.done),
                &format::number(record.previewed),
                &context.time(record.as_of),
                &hide_in_text(&record.actor),
                &hide_in_text(&record.filter),
            ];
            table.row(cells);
        }
        Ok(context.console.table(&table)?)
    })
}

const fn action(action: &Action) -> &'static str {
    match action {
        Action::Requeue { .. } => "requeue",
        Action::Delete { .. } => "delete",
        Action::Reschedule { .. } => "reschedule",
        Action::RunNow => "run now",
        Action::Move { .. } => "move",
        Action::Retag { .. } => "tag",
    }
}

const fn state(record: &BulkRecord) -> &'static str {
    match (record.ended_at, record.cancelled) {
        (Some(_), true) => "stopped",
        (Some(_), false) => "ended",
        (None, true) => "stopping",
        (None, false) => "running",
    }
}

pub(super) fn words(record: &BulkRecord) -> String {
    format!(
        "{} {}: {} changed, {} had changed meanwhile, {} refused",
        action(&record.action),
        state(record),
        format::number(record.done),
        format::number(record.skipped),
        format::number(record.refused)
    )
}

pub(super) fn json(record: &BulkRecord) -> Value {
    json!({
        "id": record.id,
        "state": state(record),
        "action": action(&record.action),
        "filter": hide_in_text(&record.filter),
        "as_of": view::time(record.as_of),
        "spread_ms": view::millis(record.spread),
        "previewed": record.previewed,
        "done": record.done,
        "skipped": record.skipped,
        "refused": record.refused,
        "actor": hide_in_text(&record.actor),
        "reason": hide_in_text(&record.reason),
        "ended_at": view::time_or_null(record.ended_at),
        "cancelled": record.cancelled,
    })
}

/// Drives one to its end and tells how far it is; a Ctrl-C leaves it to the servers.
pub(super) async fn drive(context: &mut Context<'_, '_>, record: &BulkRecord) -> Done<BulkRecord> {
    let storage = context.storage();
    let id = record.id;
    let program = context.program.clone();
    let console = &mut *context.console;
    console.tell(&format!("bulk operation {id}"))?;
    let mut told = Duration::ZERO;
    let begun = tokio::time::Instant::now();
    let driven = bulk::drive(&*storage, id, |now: &BulkRecord| {
        // Twice a second is enough for eyes.
        if begun.elapsed() >= told || now.ended_at.is_some() {
            told = begun.elapsed() + Duration::from_millis(500);
            let looked = now.done + now.skipped + now.refused;
            let line = format!("{} of {}", format::number(looked), format::number(now.previewed));
            // The operation does not depend on who watches.
            let _ = console.tell(&line);
        }
    });
    tokio::select! {
        ended = driven => Ok(ended?),
        _ = tokio::signal::ctrl_c() => {
            let words = format!(
                "no longer watched; the servers go on with it. `{program} bulk {id}` tells how far it is, \
                 `{program} bulk stop {id}` stops it"
            );
            Err(Stop::Nothing(words))
        }
    }
}
