//! `queues`, `pause`, `resume`.

use std::collections::BTreeSet;

use jobkit_core::redact::hide_in_text;
use jobkit_core::storage::{Call, PauseTarget, QueueSnapshot};
use jobkit_core::{Name, recurring, search};
use serde_json::{Value, json};

use super::args::{Until, What};
use super::console::{Table, Tone};
use super::{Context, Done, Exit, Stop, format, offered, view};

pub(super) async fn list(context: &mut Context<'_, '_>) -> Done {
    let storage = context.storage();
    let snapshot = storage.snapshot(&Call::default()).await?;
    let pauses = offered(storage.pauses(&Call::default()).await)?.unwrap_or_default();
    let kinds = pauses.into_iter().filter_map(|record| match record.target {
        PauseTarget::Kind(kind) => Some((kind, record.pause)),
        PauseTarget::Queue(_) => None,
    });
    let kinds: Vec<_> = kinds.collect();
    let nothing = snapshot.queues.is_empty() && kinds.is_empty();
    let exit = if nothing { Exit::Nothing } else { Exit::Done };
    if context.globals.json {
        let items: Vec<Value> = snapshot.queues.iter().map(json).collect();
        let kind = |(kind, pause): &(jobkit_core::Name, recurring::Pause)| json!({ "kind": kind, "pause": view::pause(Some(pause)) });
        let paused: Vec<_> = kinds.iter().map(kind).collect();
        context.console.json(&json!({ "items": items, "next": null, "paused_kinds": paused }))?;
        return Ok(exit);
    }
    if snapshot.queues.is_empty() {
        context.console.tell("no queue has jobs, a pause or a server")?;
    } else {
        table(context, &snapshot.queues)?;
    }
    for (kind, pause) in kinds {
        let words = format!("kind {kind} is {}", paused(context, &pause));
        context.console.say_in(Tone::Warning, &words)?;
    }
    Ok(exit)
}

pub(super) fn json(queue: &QueueSnapshot) -> Value {
    json!({
        "name": queue.name,
        "enqueued": queue.enqueued,
        "processing": queue.processing,
        "scheduled": queue.scheduled,
        "oldest_at": view::time_or_null(queue.oldest_at),
        "pause": view::pause(queue.pause.as_ref()),
    })
}

/// `paused by ann 5 min ago, goes on in 2 h: why`.
pub(super) fn paused(context: &Context<'_, '_>, pause: &recurring::Pause) -> String {
    let until = pause.until.map(|until| format!(", goes on {}", context.time(until)));
    let reason = match pause.reason.as_str() {
        "" => String::new(),
        reason => format!(": {}", hide_in_text(reason)),
    };
    format!(
        "paused by {} {}{}{reason}",
        hide_in_text(&pause.by),
        context.time(pause.since),
        until.unwrap_or_default()
    )
}

pub(super) fn table(context: &mut Context<'_, '_>, queues: &[QueueSnapshot]) -> Done<()> {
    let mut table =
        Table::new(&["queue", ">enqueued", ">running", ">scheduled", "oldest", "pause"]);
    for queue in queues {
        let holding = queue.pause.as_ref().filter(|pause| pause.holds(context.now));
        let oldest = queue.oldest_at.map(|at| format::duration(context.now.since(at)));
        let cells = [
            queue.name.as_str(),
            &format::number(queue.enqueued),
            &format::number(queue.processing),
            &format::number(queue.scheduled),
            &oldest.unwrap_or_default(),
            &holding.map(|pause| paused(context, pause)).unwrap_or_default(),
        ];
        table.row_in(if holding.is_some() { Tone::Warning } else { Tone::Plain }, cells);
    }
    Ok(context.console.table(&table)?)
}

/// Refuses what no server and no job names: most often a slip of the finger, which would pause nothing.
pub(super) async fn check_known(context: &Context<'_, '_>, what: What, name: &str) -> Done<()> {
    let field = match what {
        What::Queue => "queue",
        What::Kind => "kind",
        // The pause itself says that there is none.
        What::Recurring => return Ok(()),
    };
    let name = Name::new(field, name)?;
    let storage = context.storage();
    let mut known: BTreeSet<String> = BTreeSet::new();
    for server in storage.servers().await? {
        let names = if field == "queue" { server.info.queues } else { server.info.kinds };
        known.extend(names.iter().map(ToString::to_string));
    }
    if field == "queue" {
        let snapshot = storage.snapshot(&Call::default()).await?;
        known.extend(snapshot.queues.iter().map(|queue| queue.name.to_string()));
    } else {
        known.extend(context.jobs.iter().flat_map(jobkit_core::Jobs::names));
        let lanes = offered(storage.lanes(1_000).await)?.unwrap_or_default();
        known.extend(lanes.iter().map(|lane| lane.kind.to_string()));
    }
    if known.contains(name.as_str()) {
        return Ok(());
    }
    // Jobs that have finished, or wait for an instant, name it too.
    let filter = view::filter(&format!("{field}:{name}"))?;
    if !search::page(&*storage, &filter, None, 1).await?.jobs.is_empty() {
        return Ok(());
    }
    let near = known.iter().map(|other| (distance(other, name.as_str()), other)).min();
    let meant = match near {
        Some((distance, other)) if distance <= 2 => format!("; did you mean `{other}`?"),
        _ => String::new(),
    };
    let text =
        format!("no job or server names {field} `{name}`{meant} (--force pauses it all the same)");
    Err(Stop::Nothing(text))
}

/// How many characters are inserted, removed, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

pub(super) async fn pause(
    context: &mut Context<'_, '_>,
    what: What,
    name: &str,
    until: &Until,
) -> Done {
    let until = until.at(context.now)?;
    let operator = context.operator();
    match what {
        What::Queue => operator.pause_queue(name, until).await?,
        What::Kind => operator.pause_kind(name, until).await?,
        What::Recurring => operator.pause_recurring(name, until).await?,
    }
    let what = what.as_str();
    let end = match until {
        Some(until) => format!(", and goes on {}", context.time(until)),
        None => " until somebody resumes it".to_owned(),
    };
    let words = format!("{what} {name} is paused{end}");
    context
        .done(&words, &json!({ "paused": what, "name": name, "until": view::time_or_null(until) }))
}

pub(super) async fn resume(context: &mut Context<'_, '_>, what: What, name: &str) -> Done {
    let operator = context.operator();
    let was = match what {
        What::Queue => operator.resume_queue(name).await?,
        What::Kind => operator.resume_kind(name).await?,
        What::Recurring => operator.resume_recurring(name).await.map(|()| true)?,
    };
    let what = what.as_str();
    if !was {
        return Err(Stop::Nothing(format!("{what} {name} was not paused")));
    }
    let words = format!("{what} {name} goes on");
    context.done(&words, &json!({ "resumed": what, "name": name }))
}
