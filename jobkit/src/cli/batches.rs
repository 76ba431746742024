//! `batches`.

use std::collections::BTreeMap;

use jobkit_core::batch::{BatchRecord, BatchState};
use jobkit_core::redact::hide_in_text;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::storage::{Count, JobQuery};
use jobkit_core::{BatchId, bounds};
use serde_json::{Value, json};

use super::args::{BatchesArgs, BatchesCommand, Page};
use super::console::{Table, Tone};
use super::list::Listed;
use super::{Context, Done, Stop, change, format, offered, view};

pub(super) async fn run(context: &mut Context<'_, '_>, args: &BatchesArgs) -> Done {
    match (&args.command, args.id) {
        (Some(BatchesCommand::Cancel { id, yes }), _) => {
            let batch = one(context, *id).await?;
            if !yes {
                let open = batch.counts.open();
                let words = format!("{} members have not finished", format::number(open));
                context.console.tell(&words)?;
                change::confirm(context.console, "cancel", Count::Exact(open))?;
            }
            context.operator().cancel_batch(*id).await?;
            context
                .done(&format!("batch {id} is cancelled"), &json!({ "id": id, "cancelled": true }))
        }
        (None, Some(id)) => {
            let batch = one(context, id).await?;
            let reasons = deleted_by_reason(context, &batch).await?;
            let named: Vec<_> =
                reasons.iter().map(|(reason, n)| format!("{}: {n}", reason.as_str())).collect();
            let named = match reasons.values().sum::<u64>() {
                0 => String::new(),
                // More than a page, or batches inside.
                n if n < batch.counts.deleted => {
                    format!(" (of the latest {n}: {})", named.join(", "))
                }
                _ => format!(" ({})", named.join(", ")),
            };
            let words = format!(
                "{}: {} of {} finished, {} failed, {} deleted{named}; created {}",
                state(&batch),
                format::number(batch.counts.total - batch.counts.open()),
                format::number(batch.counts.total),
                format::number(batch.counts.failed),
                format::number(batch.counts.deleted),
                context.time(batch.created_at)
            );
            let words = format!("{} {id} {words}", hide_in_text(&batch.name));
            let mut value = json(&batch);
            value["deleted_by_reason"] = json!(reasons);
            context.done(&words, &value)
        }
        (None, None) => list(context, &args.page).await,
    }
}

async fn one(context: &Context<'_, '_>, id: BatchId) -> Done<BatchRecord> {
    let found = context.storage().batch(id).await?;
    found.ok_or_else(|| Stop::Nothing(format!("there is no batch {id}")))
}

/// Why members are Deleted: the reasons of those that were deleted last.
async fn deleted_by_reason(
    context: &Context<'_, '_>,
    batch: &BatchRecord,
) -> Done<BTreeMap<Reason, u64>> {
    let mut reasons = BTreeMap::new();
    if batch.counts.deleted == 0 {
        return Ok(reasons);
    }
    let query = JobQuery {
        batch: Some(batch.id),
        limit: bounds::PAGE,
        ..JobQuery::new(StateName::Deleted)
    };
    let page = offered(context.storage().list(&query).await)?.unwrap_or_default();
    for job in page.jobs {
        *reasons.entry(job.head.reason).or_default() += 1;
    }
    Ok(reasons)
}

const fn state_name(state: BatchState) -> &'static str {
    match state {
        BatchState::Open => "open",
        BatchState::Started => "started",
        BatchState::Completed => "completed",
        BatchState::Succeeded => "succeeded",
        BatchState::Cancelled => "cancelled",
    }
}

fn state(batch: &BatchRecord) -> &'static str {
    state_name(batch.state())
}

fn json(batch: &BatchRecord) -> Value {
    json!({
        "id": batch.id,
        "name": hide_in_text(&batch.name),
        "state": state(batch),
        "parent": batch.parent,
        "total": batch.counts.total,
        "open": batch.counts.open(),
        "succeeded": batch.counts.succeeded,
        "failed": batch.counts.failed,
        "deleted": batch.counts.deleted,
        "created_at": view::time(batch.created_at),
        "started_at": view::time_or_null(batch.started_at),
        "completed_at": view::time_or_null(batch.completed_at),
        "succeeded_at": view::time_or_null(batch.succeeded_at),
        "cancelled_at": view::time_or_null(batch.cancelled_at),
    })
}

async fn list(context: &mut Context<'_, '_>, page: &Page) -> Done {
    let storage = context.storage();
    let fetch = async |before: Option<String>, limit| {
        let before = before.map(|id| id.parse()).transpose()?;
        storage.batches(None, before, limit).await
    };
    let listed = Listed::page(page, fetch, |batch| batch.id.to_string()).await?;
    context.listed(&listed, "no batch", json, |context, batches| {
        let mut table = Table::new(&[
            "state",
            "id",
            "name",
            ">finished",
            ">of",
            ">failed",
            ">deleted",
            "created",
        ]);
        for batch in batches {
            let counts = &batch.counts;
            let cells = [
                state(batch),
                &batch.id.to_string(),
                &hide_in_text(&batch.name),
                &format::number(counts.total - counts.open()),
                &format::number(counts.total),
                &format::number(counts.failed),
                &format::number(counts.deleted),
                &context.time(batch.created_at),
            ];
            let tone = match (batch.state(), counts.failed) {
                (BatchState::Succeeded, _) => Tone::Good,
                (_, 0) => Tone::Plain,
                _ => Tone::Bad,
            };
            table.row_in(tone, cells);
        }
        Ok(context.console.table(&table)?)
    })
}
