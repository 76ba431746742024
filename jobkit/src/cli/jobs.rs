//! `jobs`, `job`, `why`.

use std::collections::BTreeMap;
use std::time::Duration;

use jobkit_core::edge::Parent;
use jobkit_core::failure::with_type;
use jobkit_core::record::{JobDetails, JobRecord};
use jobkit_core::redact::hide_in_text;
use jobkit_core::search::{self, JobFilter};
use jobkit_core::state::{Reason, State, StateName};
use jobkit_core::storage::{Call, Count, LogPage, Relation, Storage};
use jobkit_core::{JobId, bounds};
use serde_json::{Value, json};

use super::args::{JobArgs, JobsArgs, OneJob, Page};
use super::console::{Table, Tone};
use super::list::Listed;
use super::{Context, Done, Exit, Stop, format, offered, view};

/// How many failed jobs of a list are shown with their error.
const ERRORS: usize = 200;
/// How many relations are shown.
const RELATIONS: usize = 50;
/// After this many rows that were looked at a page ends, found or not.
const SEARCHED: u64 = 100_000;

pub(super) async fn list(context: &mut Context<'_, '_>, args: &JobsArgs) -> Done {
    let filter = view::filter(&args.filter.join(" "))?;
    let storage = context.storage();
    if args.count {
        let count = search::count(&*storage, &filter, bounds::COUNTED).await?;
        let (number, exact) = match count {
            Count::Exact(n) => (Some(n), true),
            Count::AtLeast(n) | Count::About(n) => (Some(n), false),
            Count::Unknown => (None, false),
        };
        return context.done(&format::count(count), &json!({ "count": number, "exact": exact }));
    }
    let (found, next, searched) = look(&*storage, &filter, &args.page, SEARCHED).await?;
    let none = none(next.as_deref(), searched);
    let mut errors = BTreeMap::new();
    // The record does not hold the error. A page is bounded, and so are these looks.
    if !context.globals.json {
        for job in found.iter().filter(|job| job.state() == StateName::Failed).take(ERRORS) {
            let details = storage.job(job.id).await?;
            if let Some(error) = details.as_ref().and_then(|details| details.errors.last()) {
                errors.insert(job.id, hide_in_text(&error.detail.summary()));
            }
        }
    }
    let listed = Listed::with_next(found, next);
    context.listed(&listed, &none, view::record, |context, jobs| table(context, jobs, &errors))
}

/// A page of what matches, its `next`, and how many rows were looked at: few more than `most`.
async fn look(
    storage: &dyn Storage,
    filter: &JobFilter,
    page: &Page,
    most: u64,
) -> Done<(Vec<JobRecord>, Option<String>, u64)> {
    let mut after = page.after.clone();
    let mut found: Vec<JobRecord> = Vec::new();
    let mut searched = 0;
    loop {
        let full = found.len() >= page.limit();
        let limit = page.limit().saturating_sub(found.len()).clamp(1, bounds::PAGE);
        let part = search::page(storage, filter, after.as_deref(), limit).await?;
        searched += part.searched;
        // One more look tells whether anything stands behind a page that is full.
        if full && !(part.jobs.is_empty() && part.next.is_none()) {
            break;
        }
        found.extend(part.jobs);
        after = part.next;
        // A bounded look that found nothing yet goes on for a while.
        if after.is_none() || searched >= most {
            break;
        }
    }
    Ok((found, after, searched))
}

/// What is said where no job is shown: none matches, or none so far.
fn none(next: Option<&str>, searched: u64) -> String {
    match next {
        None => "no job matches".to_owned(),
        Some(_) => {
            let searched = format::number(searched);
            format!("none matches of the {searched} that were looked at, and there are others")
        }
    }
}

/// What is to be said of a job beside its state.
fn remark(context: &Context<'_, '_>, job: &JobRecord) -> String {
    let head = &job.head;
    match (&head.state, &job.parked_at) {
        (_, Some(limit)) => format!("parked at limit {}", hide_in_text(limit)),
        (State::Scheduled { run_at }, _) => {
            format!("{}, {}", context.time(*run_at), head.reason.as_str())
        }
        (State::Processing(hold), _) => format!("on {}", hold.server),
        _ => match job.duration {
            Some(took) => format!("{}, ran {}", head.reason.as_str(), format::duration(took)),
            None => head.reason.as_str().to_owned(),
        },
    }
}

/// The present attempt, or the last one.
fn attempt(job: &JobRecord) -> u32 {
    match job.state() {
        StateName::Failed => job.head.failures.max(1),
        _ => job.head.attempt(),
    }
}

fn table(
    context: &mut Context<'_, '_>,
    jobs: &[JobRecord],
    errors: &BTreeMap<JobId, String>,
) -> Done<()> {
    let mut table = Table::new(&["state", "id", "kind", "queue", "since", ">attempt", "remark"]);
    for job in jobs {
        let name = job.extras.as_deref().and_then(|extras| extras.display_name.as_deref());
        let kind = match name {
            Some(name) => format!("{} ({})", job.kind, hide_in_text(name)),
            None => job.kind.to_string(),
        };
        let cells = [
            job.state().as_str(),
            &job.id.to_string(),
            &kind,
            &job.queue,
            &context.time(job.head.entered_at),
            &attempt(job).to_string(),
            &match errors.get(&job.id) {
                Some(error) => format!("{}: {error}", job.head.reason.as_str()),
                None => remark(context, job),
            },
        ];
        table.row_in(view::tone(job.state()), cells);
    }
    Ok(context.console.table(&table)?)
}

pub(super) async fn why(context: &mut Context<'_, '_>, args: &OneJob) -> Done {
    let storage = context.storage();
    let Some(why) = jobkit_core::why::why(&*storage, &Call::default(), args.id).await? else {
        return Err(unknown(args.id));
    };
    let sentences: Vec<_> = why.sentences().iter().map(|it| hide_in_text(it)).collect();
    if context.globals.json {
        let now = view::time(why.now);
        let answer = json!({ "id": args.id, "state": why.state, "causes": sentences, "now": now });
        context.console.json(&answer)?;
    } else {
        for sentence in sentences {
            context.console.say(&sentence)?;
        }
    }
    Ok(Exit::Done)
}

fn unknown(id: JobId) -> Stop {
    Stop::Nothing(format!("there is no job {id}, or it was removed"))
}

/// What is told of a job beside its record.
struct Told {
    why: Vec<String>,
    relations: Vec<Value>,
    more: bool,
    log: Option<LogPage>,
    misfit: Option<String>,
}

impl Told {
    async fn read(context: &Context<'_, '_>, job: &JobDetails, lines: usize) -> Done<Self> {
        let storage = context.storage();
        let id = job.record.id;
        let why = jobkit_core::why::why(&*storage, &Call::default(), id).await?;
        let why = why.map(|why| why.sentences()).unwrap_or_default();
        let found = offered(storage.relations(id, None, RELATIONS).await)?.unwrap_or_default();
        let relations = relations_with_reasons(&*storage, &found.relations).await?;
        let misfit = context.jobs.as_ref().and_then(|jobs| jobs.check_job(&context.client, job));
        Ok(Self {
            why: why.iter().map(|it| hide_in_text(it)).collect(),
            more: found.next.is_some(),
            relations,
            log: last_lines(&*storage, id, lines).await?,
            misfit: misfit.map(|misfit| hide_in_text(&misfit.to_string())),
        })
    }
}

fn relation(relation: &Relation) -> Value {
    match relation {
        Relation::Parent { parent, on, decided, state } => {
            let (what, id) = match parent {
                Parent::Job(id) => ("job", id.to_string()),
                Parent::Batch(id) => ("batch", id.to_string()),
            };
            json!({ "is": "parent", "of": what, "id": id, "on": on, "decided": decided, "state": state })
        }
        Relation::Child { child, on, decided, state } => {
            json!({ "is": "child", "of": "job", "id": child, "on": on, "decided": decided, "state": state })
        }
    }
}

/// Relations, each with the reason for its state where that is Deleted.
async fn relations_with_reasons(storage: &dyn Storage, relations: &[Relation]) -> Done<Vec<Value>> {
    let deleted = |relation: &Relation| match relation {
        Relation::Parent { parent: Parent::Job(id), state: Some(StateName::Deleted), .. }
        | Relation::Child { child: id, state: Some(StateName::Deleted), .. } => Some(*id),
        _ => None,
    };
    let ids: Vec<_> = relations.iter().filter_map(deleted).collect();
    let reasons = view::reasons(storage, &ids).await?;
    let with_reason = |it: &Relation| {
        let mut value = relation(it);
        value["reason"] = json!(deleted(it).and_then(|id| reasons.get(&id)));
        value
    };
    Ok(relations.iter().map(with_reason).collect())
}

/// The last lines of the latest attempt.
async fn last_lines(storage: &dyn Storage, id: JobId, lines: usize) -> Done<Option<LogPage>> {
    if lines == 0 {
        return Ok(None);
    }
    let most = bounds::LOG_LINES;
    let Some(mut page) = offered(storage.read_log(id, None, 0, most).await)? else {
        return Ok(None);
    };
    let beyond = page.lines.len().saturating_sub(lines);
    page.lines.drain(..beyond);
    page.dropped += beyond as u64;
    Ok((!page.lines.is_empty()).then_some(page))
}

pub(super) async fn show(context: &mut Context<'_, '_>, args: &JobArgs) -> Done {
    let storage = context.storage();
    let Some(job) = storage.job(args.job.id).await? else { return Err(unknown(args.job.id)) };
    let told = Told::read(context, &job, args.logs).await?;
    if context.globals.json {
        let value = as_json(context, &job, &told);
        context.console.json(&value)?;
    } else {
        as_text(context, &job, &told, args.backtrace)?;
    }
    Ok(Exit::Done)
}

fn as_json(context: &Context<'_, '_>, job: &JobDetails, told: &Told) -> Value {
    let mut value = view::job(&context.client, job);
    value["why"] = json!(told.why);
    value["relations"] = json!(told.relations);
    value["log"] = json!(told.log.as_ref().map(view::log));
    value["misfit"] = json!(told.misfit);
    value
}

fn as_text(
    context: &mut Context<'_, '_>,
    job: &JobDetails,
    told: &Told,
    backtrace: bool,
) -> Done<()> {
    let record = &job.record;
    let title = format!("{} {} in queue {}", record.kind, record.id, record.queue);
    context.console.say_in(Tone::Head, &title)?;
    for sentence in &told.why {
        context.console.say_in(view::tone(record.state()), &format!("  {sentence}"))?;
    }
    if let Some(misfit) = &told.misfit {
        context.console.say_in(Tone::Bad, &format!("  does not fit this program: {misfit}"))?;
    }
    facts(context, record)?;
    let pretty = |value: &Value| format!("{value:#}");
    section(context, "arguments", &pretty(&view::args(&context.client, job)))?;
    if let Some(result) = view::result(&context.client, job) {
        section(context, "result", &pretty(&result))?;
    }
    history(context, job)?;
    for error in &job.errors {
        let detail = &error.detail;
        let head = format!(
            "failure {} ({}, {:?})",
            error.failures,
            context.time(error.at),
            detail.fingerprint
        );
        let mut text = with_type(&detail.error_type, &detail.message);
        for cause in &detail.chain {
            text += &format!("\ncaused by: {cause}");
        }
        if let Some(trace) = detail.backtrace.as_deref().filter(|_| backtrace) {
            text += &format!("\n{trace}");
        }
        section(context, &head, &hide_in_text(&text))?;
    }
    relations(context, told)?;
    for progress in &job.progress {
        let of = if progress.total > 0 {
            format!(" of {}", format::number(progress.total))
        } else {
            String::new()
        };
        let words = format!(
            "progress{}: {}{of} {}",
            if progress.name.is_empty() {
                String::new()
            } else {
                format!(" {}", hide_in_text(&progress.name))
            },
            format::number(progress.done),
            hide_in_text(&progress.message)
        );
        context.console.say(&words)?;
    }
    if let Some(page) = &told.log {
        let left_out =
            if page.dropped > 0 { format!(", {} before", page.dropped) } else { String::new() };
        context.console.say_in(Tone::Head, &format!("log of attempt {}{left_out}", page.fence))?;
        for (_, line) in &page.lines {
            let level = format!("{:?}", line.level).to_lowercase();
            let at = line.at.to_chrono().format("%H:%M:%S%.3f");
            let text = format!("{at} {level:5} {}", hide_in_text(&line.text));
            context.console.block("  ", &text)?;
        }
    }
    Ok(())
}

fn section(context: &mut Context<'_, '_>, head: &str, text: &str) -> Done<()> {
    context.console.say_in(Tone::Head, head)?;
    Ok(context.console.block("  ", text)?)
}

fn facts(context: &mut Context<'_, '_>, record: &JobRecord) -> Done<()> {
    let head = &record.head;
    let mut facts: Vec<(&str, String)> = vec![
        (
            "state",
            format!(
                "{} ({}), {}",
                record.state(),
                head.reason.as_str(),
                context.time(head.entered_at)
            ),
        ),
        ("priority", record.priority.to_string()),
        (
            "attempt",
            format!("{}, {} failures, {} crashes", attempt(record), head.failures, head.crashes),
        ),
        ("created", context.time(record.created_at)),
    ];
    if let Some(took) = record.duration {
        facts.push(("ran", format::duration(took)));
    }
    if let (Some(enqueued), Some(claimed)) = (record.enqueued_at, record.claimed_at) {
        facts.push(("waited", format::duration(claimed.since(enqueued))));
    }
    if let Some(at) = record.expires_at {
        facts.push(("kept until", context.time(at)));
    }
    if let Some(at) = record.start_by {
        facts.push(("start by", context.time(at)));
    }
    if !record.tags.is_empty() {
        facts.push(("tags", hide_in_text(&record.tags.join(", "))));
    }
    if let Some(unique) = &record.unique {
        facts.push(("unique key", hide_in_text(&unique.key)));
    }
    if !record.limits.is_empty() {
        let names: Vec<_> = record.limits.iter().map(|limit| hide_in_text(&limit.name)).collect();
        facts.push(("limits", names.join(", ")));
    }
    if let Some(batch) = record.batch {
        facts.push(("batch", batch.to_string()));
    }
    if let Some(extras) = record.extras.as_deref() {
        if let Some(name) = &extras.display_name {
            facts.push(("name", hide_in_text(name)));
        }
        if let Some(it) = &extras.occurrence {
            facts.push((
                "recurring",
                format!("{} at {}", hide_in_text(&it.recurring), it.nominal_at),
            ));
        }
        if let Some(from) = extras.made_from {
            facts.push(("made from", from.to_string()));
        }
        for (what, values) in [("metadata", &extras.metadata), ("context", &extras.context)] {
            if let Value::Object(values) = view::redacted(json!(values)) {
                for (key, value) in values {
                    facts.push((what, format!("{key} = {}", value.as_str().unwrap_or_default())));
                }
            }
        }
    }
    for (name, value) in facts {
        context.console.say(&format!("  {name:<10}  {value}"))?;
    }
    Ok(())
}

fn history(context: &mut Context<'_, '_>, job: &JobDetails) -> Done<()> {
    context.console.say_in(Tone::Head, "history")?;
    let mut table = Table::new(&["  state", "why", "when", ">after", ">ran", "server", "by"]);
    let mut before = None;
    for entry in &job.history.entries {
        let after = before.map_or(Duration::ZERO, |before| entry.at.since(before));
        let cells = [
            &format!("  {}", entry.state),
            entry.reason.as_str(),
            &context.time(entry.at),
            &before.map(|_| format::duration(after)).unwrap_or_default(),
            &entry.duration.map(format::duration).unwrap_or_default(),
            entry.server.as_deref().unwrap_or_default(),
            &entry.actor.as_deref().map(hide_in_text).unwrap_or_default(),
        ];
        table.row_in(view::tone(entry.state), cells);
        before = Some(entry.at);
    }
    context.console.table(&table)?;
    if job.history.dropped > 0 {
        let dropped = format::number(job.history.dropped);
        context.console.say(&format!("  {dropped} transitions after the fourth are not kept"))?;
    }
    Ok(())
}

fn relations(context: &mut Context<'_, '_>, told: &Told) -> Done<()> {
    if told.relations.is_empty() {
        return Ok(());
    }
    context.console.say_in(Tone::Head, "relations")?;
    for relation in &told.relations {
        let word = |key: &str| relation[key].as_str().unwrap_or_default().to_owned();
        let state = match (relation["state"].as_str(), relation["decided"].as_bool()) {
            (Some(state), _) => {
                match serde_json::from_value::<Reason>(relation["reason"].clone()) {
                    Ok(reason) => format!("{state} ({})", reason.as_str()),
                    Err(_) => state.to_owned(),
                }
            }
            (None, Some(true)) => "decided".to_owned(),
            (None, _) => "open".to_owned(),
        };
        let (is, of, id, on) = (word("is"), word("of"), word("id"), word("on"));
        context.console.say(&format!("  {is} {of} {id} on {on}: {state}"))?;
    }
    if told.more {
        context.console.say("  and more")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jobkit_core::{Client, MemoryStorage, job_by_name};

    use super::*;

    #[tokio::test]
    async fn who_stopped_looking_does_not_say_that_there_is_none() {
        let client = Client::new(MemoryStorage::new());
        let jobs = (0..1_100).map(|n| {
            let args = json!({ "n": n });
            job_by_name("mail", args.as_object().expect("an object")).expect("a job")
        });
        client.enqueue_many(jobs).await.expect("are stored");
        let filter = "arg.n:none".parse().expect("a filter");
        let mut page = Page { limit: 50, after: None };
        let storage = client.storage();
        let (found, next, searched) = look(storage, &filter, &page, 1_000).await.expect("is read");
        assert!(found.is_empty() && searched < 1_100, "{searched}");
        assert!(none(next.as_deref(), searched).contains("there are others"));
        page.after = next;
        let (found, next, searched) = look(storage, &filter, &page, 1_000).await.expect("is read");
        assert!(found.is_empty());
        assert_eq!(none(next.as_deref(), searched), "no job matches");
    }
}
