//! `recurring`: schedules, and previews of expressions.

use std::time::Duration;

use jobkit_core::recurring::{RecurringRecord, RecurringRun, RunOutcome};
use jobkit_core::redact::hide_in_text;
use jobkit_core::schedule::{Schedule, TimeZone};
use jobkit_core::{Client, Clock, SystemClock, Timestamp};
use serde_json::{Value, json};

use super::args::{Globals, Page, RecurringArgs, RecurringCommand, What};
use super::console::{Console, Table, Tone};
use super::list::Listed;
use super::{Context, Done, Exit, Stop, format, queues, view};

/// How many instants a preview tells.
const PREVIEWED: usize = 10;
/// How many occurrences are shown.
const RUNS: usize = 20;

pub(super) async fn run(context: &mut Context<'_, '_>, args: &RecurringArgs) -> Done {
    match &args.command {
        None => list(context, &args.page).await,
        Some(RecurringCommand::List(page)) => list(context, page).await,
        Some(RecurringCommand::Show { id }) => show(context, id).await,
        Some(RecurringCommand::Run { id }) => {
            let job = context.operator().run_recurring(id).await?;
            context.done(&format!("{id} runs as job {job}"), &json!({ "id": id, "job": job }))
        }
        Some(RecurringCommand::Pause { id, until }) => {
            queues::pause(context, What::Recurring, id, until).await
        }
        Some(RecurringCommand::Resume { id }) => queues::resume(context, What::Recurring, id).await,
        Some(RecurringCommand::Preview { expression: id, zone, quartz, from }) => {
            let Some(record) = context.storage().recurring(id).await? else {
                return Err(Stop::Nothing(format!(
                    "there is no recurring job {id}; an expression has several words, or begins with @"
                )));
            };
            if *quartz {
                return Err(Stop::Usage("--quartz is for an expression".to_owned()));
            }
            let zone = match zone {
                Some(zone) => TimeZone::parse(zone)?,
                None => record.spec.time_zone,
            };
            let from = from.unwrap_or(context.now);
            show_upcoming(&record.spec.schedule, zone, from, context.globals.json, context.console)
        }
    }
}

async fn list(context: &mut Context<'_, '_>, page: &Page) -> Done {
    let storage = context.storage();
    let fetch =
        async |after: Option<String>, limit| storage.list_recurring(after.as_deref(), limit).await;
    let listed = Listed::page(page, fetch, |record| record.spec.id.clone()).await?;
    let client = context.client.clone();
    let json = |record: &RecurringRecord| json(&client, record);
    context.listed(&listed, "no recurring job", json, |context, records| {
        let mut table = Table::new(&["id", "schedule", "zone", "next", "last", "kind", "pause"]);
        for record in records {
            let spec = &record.spec;
            let holding = record.pause.as_ref().filter(|pause| pause.holds(context.now));
            let cells = [
                &hide_in_text(&spec.id),
                &spec.schedule.to_string(),
                spec.time_zone.name(),
                &context.time_or(record.next.map(|next| next.due_at), "never"),
                &context.time_or(record.last_nominal_at, "never"),
                &spec.job.kind,
                &holding.map(|pause| queues::paused(context, pause)).unwrap_or_default(),
            ];
            table.row_in(if holding.is_some() { Tone::Warning } else { Tone::Plain }, cells);
        }
        Ok(context.console.table(&table)?)
    })
}

fn json(client: &Client, record: &RecurringRecord) -> Value {
    let spec = &record.spec;
    let job = &spec.job;
    json!({
        "id": hide_in_text(&spec.id),
        "schedule": spec.schedule.to_string(),
        "time_zone": spec.time_zone.name(),
        "misfire": spec.misfire,
        "overlap": spec.overlap,
        "jitter_ms": view::millis(spec.jitter),
        "starts_at": view::time_or_null(spec.starts_at),
        "ends_at": view::time_or_null(spec.ends_at),
        "kind": job.kind,
        "queue": job.queue,
        "priority": job.priority,
        "args": view::recurring_args(client, spec),
        "tags": view::redacted(json!(job.tags)),
        "next_at": view::time_or_null(record.next.map(|next| next.due_at)),
        "last_nominal_at": view::time_or_null(record.last_nominal_at),
        "last_job": record.last_job,
        "pause": view::pause(record.pause.as_ref()),
        "created_at": view::time(record.created_at),
        "etag": record.etag,
    })
}

fn told(outcome: &RunOutcome) -> String {
    match outcome {
        RunOutcome::Fired { job } => format!("fired as {job}"),
        RunOutcome::Triggered { job } => format!("run by hand as {job}"),
        RunOutcome::Misfired => "skipped: no server was running in time".to_owned(),
        RunOutcome::Paused => "skipped: paused".to_owned(),
        RunOutcome::Replaced => {
            "skipped: its schedule was replaced or removed before it was fired".to_owned()
        }
        RunOutcome::Overlapping { job } => format!("skipped: {job} had not finished"),
        RunOutcome::KeyHeld { holder } => format!("skipped: {holder} holds its unique key"),
        RunOutcome::Refused { reason } => hide_in_text(&format!("refused: {reason}")),
    }
}

async fn show(context: &mut Context<'_, '_>, id: &str) -> Done {
    let storage = context.storage();
    let Some(record) = storage.recurring(id).await? else {
        return Err(Stop::Nothing(format!("there is no recurring job {id}")));
    };
    let runs = storage.recurring_runs(id, RUNS).await?;
    let spec = &record.spec;
    let from = context.now;
    let next = if record.next.is_some() {
        spec.schedule.upcoming(from, spec.time_zone, 5)
    } else {
        Vec::new()
    };
    if context.globals.json {
        let mut value = json(&context.client, &record);
        let run = |run: &RecurringRun| {
            json!({
                "nominal_at": view::time(run.nominal_at),
                "through": view::time(run.through),
                "count": run.count,
                "outcome": view::redacted(json!(run.outcome)),
                "at": view::time(run.at),
            })
        };
        value["runs"] = runs.iter().map(run).collect();
        value["upcoming"] = next.into_iter().map(view::time).collect();
        context.console.json(&value)?;
        return Ok(Exit::Done);
    }
    let title = format!("{} of kind {} in queue {}", spec.id, spec.job.kind, spec.job.queue);
    context.console.say_in(Tone::Head, &hide_in_text(&title))?;
    context.console.say(&format!("  {} in {}", spec.schedule, spec.time_zone))?;
    if let Some(pause) = record.pause.as_ref().filter(|pause| pause.holds(from)) {
        let words = format!("  {}", queues::paused(context, pause));
        context.console.say_in(Tone::Warning, &words)?;
    }
    for at in next {
        context.console.say(&format!("  next {}", context.time(at)))?;
    }
    for run in &runs {
        let times = if run.count > 1 {
            format!(" ({} times)", format::number(run.count.into()))
        } else {
            String::new()
        };
        let words = format!("  {}{times}: {}", context.time(run.nominal_at), told(&run.outcome));
        context.console.say(&words)?;
    }
    Ok(Exit::Done)
}

/// The next instants of an expression, in its zone's time, with a mark where its clocks change.
pub(super) fn preview(args: &RecurringArgs, globals: &Globals, console: &mut Console<'_>) -> Done {
    let Some(RecurringCommand::Preview { expression, zone, quartz, from }) = &args.command else {
        return Ok(Exit::Done);
    };
    let zone = TimeZone::parse(zone.as_deref().unwrap_or("UTC"))?;
    let schedule =
        if *quartz { Schedule::quartz(expression)? } else { Schedule::cron(expression)? };
    let from = from.unwrap_or_else(|| SystemClock.now());
    show_upcoming(&schedule, zone, from, globals.json, console)
}

fn show_upcoming(
    schedule: &Schedule,
    zone: TimeZone,
    from: Timestamp,
    json: bool,
    console: &mut Console<'_>,
) -> Done {
    let instants = schedule.upcoming(from, zone, PREVIEWED);
    let offsets = instants.iter().map(|at| zone.offset_seconds(*at));
    let mut before = zone.offset_seconds(from);
    let marked: Vec<_> = offsets
        .zip(&instants)
        .map(|(offset, at)| {
            let change = offset - before;
            before = offset;
            (*at, offset, change)
        })
        .collect();
    if json {
        let items: Vec<Value> = marked
            .iter()
            .map(|(at, offset, change)| {
                json!({
                    "at": view::time(*at),
                    "local": local(*at, *offset),
                    "offset_seconds": offset,
                    "clock_change_seconds": change,
                })
            })
            .collect();
        let expression = schedule.to_string();
        let zone = zone.name();
        console.json(
            &json!({ "expression": expression, "time_zone": zone, "items": items, "next": null }),
        )?;
    } else {
        for (at, offset, change) in &marked {
            let utc = at.to_chrono().format("%Y-%m-%d %H:%M:%S UTC");
            let words = format!("{}  {utc}{}", local(*at, *offset), told_change(*change));
            console.say_in(if *change == 0 { Tone::Plain } else { Tone::Warning }, &words)?;
        }
    }
    Ok(if marked.is_empty() { Exit::Nothing } else { Exit::Done })
}

fn told_change(change: i32) -> String {
    let length = Duration::from_secs(change.unsigned_abs().into());
    match change {
        0 => String::new(),
        1.. => format!("  the clocks have gone forward by {}", format::duration(length)),
        _ => format!("  the clocks have gone back by {}", format::duration(length)),
    }
}

/// What a clock on the wall shows.
fn local(at: Timestamp, offset: i32) -> String {
    let shift = Duration::from_secs(offset.unsigned_abs().into());
    let shown = if offset < 0 { at.minus(shift) } else { at.plus(shift) };
    let (hours, minutes) = (offset.abs() / 3600, offset.abs() / 60 % 60);
    let sign = if offset < 0 { '-' } else { '+' };
    format!("{} {sign}{hours:02}:{minutes:02}", shown.to_chrono().format("%a %Y-%m-%d %H:%M:%S"))
}
