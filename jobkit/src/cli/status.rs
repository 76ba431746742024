//! `status`: everything on one screen, problems first.

use std::time::Duration;

use jobkit_core::error_group::ErrorGroup;
use jobkit_core::redact::hide_in_text;
use jobkit_core::state::StateName;
use jobkit_core::storage::{
    Call, Count, ErrorQuery, JobQuery, Lane, PauseRecord, PauseTarget, ServerStatus, Severity,
    Snapshot,
};
use serde_json::{Value, json};

use super::console::{Table, Tone};
use super::{Context, Done, Exit, doctor, format, offered, queues, servers, view};

/// A pause of so long may have been forgotten.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// Groups that are new since so long are told.
const NEW: Duration = Duration::from_secs(3600);
/// Failures that retries overcame are told for so long.
const OVERCOME: Duration = Duration::from_secs(600);
/// Jobs that nobody serves for so long are no deploy.
const UNSERVED: Duration = Duration::from_secs(30);
/// How many lanes are looked at.
const LANES: usize = 1_000;
/// How many of one sort of problem are told one by one.
const TOLD: usize = 10;

/// Something that somebody should look at.
pub(super) struct Problem {
    pub(super) severity: Severity,
    pub(super) code: &'static str,
    /// What it is, and what to do.
    pub(super) words: String,
}

impl Problem {
    pub(super) fn json(&self) -> Value {
        json!({ "severity": doctor::word(self.severity), "code": self.code, "message": self.words })
    }
}

/// What is wrong beside the storage itself.
pub(super) async fn problems(context: &Context<'_, '_>) -> Done<Vec<Problem>> {
    let storage = context.storage();
    let servers = storage.servers().await?;
    let lanes = offered(storage.lanes(LANES).await)?.unwrap_or_default();
    let pauses = offered(storage.pauses(&Call::default()).await)?.unwrap_or_default();
    let query = ErrorQuery { since: Some(context.now.minus(NEW)), ..ErrorQuery::default() };
    let groups = offered(storage.error_groups(&query).await)?.unwrap_or_default();
    let mut found = Vec::new();
    found.extend(silent(context, &servers));
    found.extend(unserved(context, &lanes, &servers));
    found.extend(forgotten(context, &pauses));
    let is_fresh = |group: &&ErrorGroup| {
        context.now.since(group.first_seen_at) < NEW && !group.is_muted(context.now)
    };
    let mut fresh = Vec::new();
    for group in groups.iter().filter(is_fresh) {
        // What is beyond the first few is merely counted.
        if fresh.len() > TOLD || !was_overcome(context, group).await? {
            fresh.push(group);
        }
    }
    found.extend(bounded(fresh.into_iter().map(|group| {
        let words = format!(
            "{} fails in a new way, first {}, {} so far: {}; see `{} jobs group:{:?}`",
            group.kind,
            context.time(group.first_seen_at),
            format::number(group.count),
            hide_in_text(&group.headline()),
            context.program,
            group.fingerprint
        );
        Problem { severity: Severity::Warning, code: "new-error", words }
    })));
    Ok(found)
}

/// Whether retries overcame a group's failures: none came for a while, no job is Failed by one, and the job of
/// the last one has ended well.
async fn was_overcome(context: &Context<'_, '_>, group: &ErrorGroup) -> Done<bool> {
    if context.now.since(group.last_seen_at) < OVERCOME {
        return Ok(false);
    }
    let storage = context.storage();
    let query = JobQuery {
        kind: Some(group.kind.clone()),
        error_group: Some(group.fingerprint),
        ..JobQuery::new(StateName::Failed)
    };
    if offered(storage.count(&query, 1).await)? != Some(Count::Exact(0)) {
        return Ok(false);
    }
    let last = storage.job(group.last_job).await?.map(|details| details.record.state());
    Ok(last.is_none_or(|state| matches!(state, StateName::Succeeded | StateName::Deleted)))
}

/// The first few, and how many more.
fn bounded(problems: impl Iterator<Item = Problem>) -> Vec<Problem> {
    let mut all: Vec<_> = problems.collect();
    let more = all.len().saturating_sub(TOLD);
    if let Some(first) = all.first().filter(|_| more > 0) {
        let words = format!("{more} more of this");
        let rest = Problem { severity: first.severity, code: first.code, words };
        all.truncate(TOLD);
        all.push(rest);
    }
    all
}

fn silent(context: &Context<'_, '_>, servers: &[ServerStatus]) -> Vec<Problem> {
    let silent = servers.iter().filter(|server| server.is_silent(context.now));
    bounded(silent.map(|server| {
        let words = format!(
            "server {} on {} was last seen {} with {} running jobs; live servers recover them when their leases \
             expire: check whether its process is still running",
            server.info.name,
            hide_in_text(&server.info.host),
            context.time(server.heartbeat_at),
            server.busy
        );
        Problem { severity: Severity::Error, code: "server-silent", words }
    }))
}

fn unserved(context: &Context<'_, '_>, lanes: &[Lane], servers: &[ServerStatus]) -> Vec<Problem> {
    let live = || servers.iter().filter(|server| !server.is_silent(context.now));
    let is_served = |lane: &Lane| {
        live().any(|it| it.info.queues.contains(&lane.queue) && it.info.kinds.contains(&lane.kind))
    };
    bounded(lanes.iter().filter(|lane| !is_served(lane)).map(|lane| {
        let waited = lane.first_at.map_or(Duration::ZERO, |at| context.now.since(at));
        let words = format!(
            "jobs of kind {} have waited in queue {} for {}, and no live server serves both: start one that does",
            lane.kind,
            lane.queue,
            format::duration(waited)
        );
        // A deploy leaves jobs alone for some seconds.
        let severity = if waited < UNSERVED { Severity::Warning } else { Severity::Error };
        Problem { severity, code: "kind-unserved", words }
    }))
}

fn forgotten(context: &Context<'_, '_>, pauses: &[PauseRecord]) -> Vec<Problem> {
    let old = pauses.iter().filter(|it| context.now.since(it.pause.since) >= FORGOTTEN);
    bounded(old.map(|record| {
        let (what, name) = match &record.target {
            PauseTarget::Queue(name) => ("queue", name),
            PauseTarget::Kind(name) => ("kind", name),
        };
        let (paused, program) = (queues::paused(context, &record.pause), &context.program);
        let words =
            format!("{what} {name} is {paused}; `{program} resume {what} {name}` resumes it");
        Problem { severity: Severity::Warning, code: "paused-long", words }
    }))
}

/// The same behind what is wrong with the storage itself.
pub(super) async fn all_problems(context: &Context<'_, '_>) -> Done<Vec<Problem>> {
    let findings = context.storage().check().await?.into_iter();
    let findings = findings.filter(|it| it.severity == Severity::Error).map(|finding| {
        let words = hide_in_text(&finding.message);
        Problem { severity: finding.severity, code: finding.code, words }
    });
    Ok(findings.chain(problems(context).await?).collect())
}

pub(super) async fn run(context: &mut Context<'_, '_>) -> Done {
    let storage = context.storage();
    let snapshot = storage.snapshot(&Call::default()).await?;
    let servers = storage.servers().await?;
    let problems = all_problems(context).await?;
    if context.globals.json {
        let counts: serde_json::Map<String, Value> = StateName::ALL
            .into_iter()
            .map(|state| (state.to_string(), json!(snapshot.count(state))))
            .collect();
        let all = json!({
            "backend": storage.backend(),
            "namespace": storage.namespace(),
            "location": storage.location(),
            "now": view::time(snapshot.now),
            "by_state": counts,
            "parked": snapshot.parked,
            "recurring": snapshot.recurring,
            "queues": snapshot.queues.iter().map(queues::json).collect::<Vec<_>>(),
            "servers": servers.iter().map(|it| servers::json(it, context.now)).collect::<Vec<_>>(),
            "problems": problems.iter().map(Problem::json).collect::<Vec<_>>(),
        });
        context.console.json(&all)?;
        return Ok(Exit::Done);
    }
    draw(context, &snapshot, &servers, &problems, None)
}

/// One screen. `rates`: what happened in each second since the screen before.
pub(super) fn draw(
    context: &mut Context<'_, '_>,
    snapshot: &Snapshot,
    servers: &[ServerStatus],
    problems: &[Problem],
    rates: Option<[f64; 7]>,
) -> Done {
    let storage = context.storage();
    let clock = snapshot.now.to_chrono().format("%Y-%m-%d %H:%M:%S UTC");
    let place = storage.location().map(|place| format!(" at {place}")).unwrap_or_default();
    let title = format!("{} ({}){place}, {clock}", storage.backend(), storage.namespace());
    context.console.say_in(Tone::Head, &hide_in_text(&title))?;
    for problem in problems {
        let words = format!("! {}", problem.words);
        context.console.say_in(doctor::tone(problem.severity), &words)?;
    }
    context.console.say("")?;
    let heads = ["state", ">jobs", ">a second"];
    let mut table = Table::new(if rates.is_some() { &heads } else { &heads[..2] });
    for state in StateName::ALL {
        let count = format::number(snapshot.count(state));
        let parked = match (state, snapshot.parked) {
            (StateName::Enqueued, 1..) => format!(" ({} parked)", format::number(snapshot.parked)),
            _ => String::new(),
        };
        let name = format!("{state}{parked}");
        match rates {
            Some(rates) => {
                let rate = format!("{:.1}", rates[state.index()]);
                table.row_in(view::tone(state), [&name, &count, &rate]);
            }
            None => table.row_in(view::tone(state), [&name, &count]),
        }
    }
    context.console.table(&table)?;
    context.console.say("")?;
    if snapshot.queues.is_empty() {
        context.console.say("no queue has jobs, a pause or a server")?;
    } else {
        queues::table(context, &snapshot.queues)?;
    }
    context.console.say("")?;
    if servers.is_empty() {
        context.console.say("no server is announced")?;
    } else {
        servers::table(context, servers)?;
    }
    Ok(Exit::Done)
}
