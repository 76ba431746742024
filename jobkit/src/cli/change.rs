//! `retry`, `requeue`, `delete`, `run-now`: jobs by id at once, or all that match a filter.

use std::time::Duration;

use jobkit_core::bounds;
use jobkit_core::redact::hide_in_text;
use jobkit_core::refusal::Refusal;
use jobkit_core::search::{self, Field, JobFilter};
use jobkit_core::state::{Reason, StateName};
use jobkit_core::storage::{Action, BulkRecord, ChangeOutcome, Count, Guard};
use serde_json::{Value, json};

use super::args::{Change, RunAgain};
use super::console::{Console, Table, Tone};
use super::{Context, Done, Exit, Stop, bulk, format, view};

/// From here on a yes is not enough: the number is to be typed.
const MANY: u64 = 1_000;
/// How many examples are shown.
const EXAMPLES: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Retry,
    Requeue,
    Delete,
    RunNow,
}

impl Verb {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Requeue => "requeue",
            Self::Delete => "delete",
            Self::RunNow => "run-now",
        }
    }

    fn action(self) -> Action {
        match self {
            Self::Retry | Self::Requeue => Action::Requeue { run_at: None },
            Self::Delete => Action::Delete { keep: None },
            Self::RunNow => Action::RunNow,
        }
    }

    /// What a named job has to be: to retry is meant for what failed.
    const fn guard(self) -> Guard {
        match self {
            Self::Retry => Guard::State(StateName::Failed),
            Self::Requeue | Self::Delete | Self::RunNow => Guard::None,
        }
    }

    /// The filter as the verb means it: to retry is meant for what failed, unless it says otherwise.
    fn meant(self, filter: JobFilter) -> JobFilter {
        let says = |field: &Field| matches!(field, Field::State(_) | Field::Failed(_));
        let said = filter.terms.iter().any(|term| !term.negated && says(&term.field));
        if self == Self::Retry && !said {
            let mut failed = JobFilter::state(StateName::Failed);
            failed.terms.extend(filter.terms);
            return failed;
        }
        filter
    }
}

pub(super) async fn run(context: &mut Context<'_, '_>, verb: Verb, args: &Change) -> Done {
    act(context, verb, args, Duration::ZERO).await
}

/// The verbs that bring many jobs back at once, and so can spread them.
pub(super) async fn run_again(context: &mut Context<'_, '_>, verb: Verb, args: &RunAgain) -> Done {
    act(context, verb, &args.change, args.spread.unwrap_or(Duration::ZERO)).await
}

async fn act(context: &mut Context<'_, '_>, verb: Verb, args: &Change, spread: Duration) -> Done {
    match &args.filter {
        Some(filter) => {
            let filter = verb.meant(view::filter(filter)?);
            // Not all jobs: what forgets to say which is most often a script's empty variable.
            if filter.terms.is_empty() {
                let words = "the filter is empty: say which jobs are meant, such as state:enqueued";
                return Err(Stop::Usage(words.to_owned()));
            }
            matching(context, verb, filter, args.yes, spread).await
        }
        None => named(context, verb, args).await,
    }
}

async fn named(context: &mut Context<'_, '_>, verb: Verb, args: &Change) -> Done {
    let operator = context.operator();
    let outcomes = operator.change_guarded(&args.ids, verb.action(), verb.guard()).await?;
    let refused = outcomes.iter().filter(|outcome| !outcome.is_done()).count();
    let deleted = outcomes.iter().filter(|it| is_refused_as_deleted(&it.outcome)).map(|it| it.job);
    // The outcomes are reported even if what would explain them cannot be read.
    let reasons = view::reasons(&*context.storage(), &deleted.collect::<Vec<_>>()).await;
    let reasons = reasons.unwrap_or_default();
    let told = outcomes.iter().map(|it| (it.job, told(&it.outcome, reasons.get(&it.job))));
    if context.globals.json {
        let items: Vec<Value> = told
            .map(|(job, (outcome, words))| json!({ "id": job, "outcome": outcome, "words": words }))
            .collect();
        let done = outcomes.len() - refused;
        context
            .console
            .json(&json!({ "items": items, "done": done, "refused": refused, "next": null }))?;
    } else {
        for (job, (outcome, words)) in told {
            let tone = if outcome == "refused" { Tone::Bad } else { Tone::Plain };
            context.console.say_in(tone, &format!("{job}: {words}"))?;
        }
    }
    Ok(if refused > 0 { Exit::Nothing } else { Exit::Done })
}

const fn is_refused_as_deleted(outcome: &ChangeOutcome) -> bool {
    matches!(outcome, ChangeOutcome::Refused(Refusal::Changed { state: StateName::Deleted, .. }))
}

/// How it ended, as a word and a sentence; `reason` is that of a job that is Deleted.
fn told(outcome: &ChangeOutcome, reason: Option<&Reason>) -> (&'static str, String) {
    match outcome {
        ChangeOutcome::Changed { state, .. } => ("changed", format!("now {state}")),
        ChangeOutcome::Cancelling => ("cancelling", "runs, and was asked to stop".to_owned()),
        ChangeOutcome::AlreadyApplied => ("changed", "changed already".to_owned()),
        // Of these only a retry says how they must be.
        ChangeOutcome::Refused(Refusal::Changed { state, .. }) => {
            let why = reason.map(|reason| format!(" ({})", reason.as_str())).unwrap_or_default();
            ("refused", format!("refused: the job is {state}{why}{}", instead_of_retry(*state)))
        }
        ChangeOutcome::Refused(refusal) => {
            ("refused", hide_in_text(&format!("refused: {refusal}")))
        }
        ChangeOutcome::Busy => {
            ("refused", "refused: another transaction holds it; try again".to_owned())
        }
    }
}

/// What runs a job that has not failed.
const fn instead_of_retry(state: StateName) -> &'static str {
    match state {
        StateName::Succeeded | StateName::Deleted => "; `requeue` runs it again",
        StateName::Scheduled | StateName::Awaiting => "; `run-now` runs it now",
        StateName::Enqueued | StateName::Processing | StateName::Failed => "",
    }
}

async fn matching(
    context: &mut Context<'_, '_>,
    verb: Verb,
    filter: JobFilter,
    yes: bool,
    spread: Duration,
) -> Done {
    let storage = context.storage();
    // What comes after this look is not meant.
    let as_of = storage.now().await?;
    let count = search::count(&*storage, &filter, bounds::COUNTED).await?;
    if count == Count::Exact(0) {
        return Err(Stop::Nothing(format!("no job matches {filter}")));
    }
    if !yes {
        let page = search::page(&*storage, &filter, None, EXAMPLES).await?;
        preview(context, verb, &filter, count, &page.jobs)?;
        confirm(context.console, verb.as_str(), count)?;
    }
    let previewed = match count {
        Count::Exact(n) | Count::AtLeast(n) | Count::About(n) => n,
        Count::Unknown => 0,
    };
    let operator = context.operator();
    let record =
        operator.begin_bulk_as_of(filter, verb.action(), previewed, spread, Some(as_of)).await?;
    let ended = bulk::drive(context, &record).await?;
    finish(context, &ended)
}

/// What would be done, on standard error, so that standard output is the answer alone.
fn preview(
    context: &mut Context<'_, '_>,
    verb: Verb,
    filter: &JobFilter,
    count: Count,
    examples: &[jobkit_core::record::JobRecord],
) -> Done<()> {
    let matching = match count {
        Count::Exact(1) => "1 job that matches".to_owned(),
        count => format!("{} jobs that match", format::count(count)),
    };
    let words = format!("{} would change {matching} {filter}", verb.as_str());
    context.console.tell(&hide_in_text(&words))?;
    let mut table = Table::new(&["state", "id", "kind", "queue", "since", "why"]);
    for job in examples.iter().take(EXAMPLES) {
        let cells = [
            job.state().as_str(),
            &job.id.to_string(),
            &job.kind,
            &job.queue,
            &context.time(job.head.entered_at),
            job.head.reason.as_str(),
        ];
        table.row(cells);
    }
    context.console.tell_table(&table)?;
    Ok(())
}

/// Asks; whoever cannot be asked is refused.
pub(super) fn confirm(console: &mut Console<'_>, what: &str, count: Count) -> Done<()> {
    let refused = |words: &str| Err(Stop::Unconfirmed(words.to_owned()));
    let (many, number) = match count {
        Count::Exact(n) => (n > MANY, n),
        Count::AtLeast(n) | Count::About(n) => (true, n),
        Count::Unknown => (true, 0),
    };
    let question = match many {
        true => format!("type {number} to {what} them:"),
        false => format!("{what}? [y/N]"),
    };
    let Some(answer) = console.ask(&hide_in_text(&question))? else {
        return refused("confirmation required: there is no terminal to ask on; pass --yes");
    };
    let agreed = match many {
        true => answer.replace([',', ' ', '+'], "") == number.to_string(),
        false => matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"),
    };
    if agreed { Ok(()) } else { refused("not confirmed: nothing was changed") }
}

/// Tells how a bulk operation ended.
pub(super) fn finish(context: &mut Context<'_, '_>, record: &BulkRecord) -> Done {
    let done = context.done(&bulk::words(record), &bulk::json(record))?;
    Ok(if record.refused > 0 || record.done == 0 { Exit::Nothing } else { done })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(answers: &[u8], count: Count) -> Done<()> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console::plain(&mut out, &mut err).answering(answers);
        confirm(&mut console, "delete", count)
    }

    #[test]
    fn a_few_are_confirmed_by_a_yes_and_many_by_their_number() {
        assert!(answer(b"y\n", Count::Exact(5)).is_ok());
        assert!(answer(b"YES\n", Count::Exact(1_000)).is_ok());
        for (answers, count) in [
            (&b"\n"[..], Count::Exact(5)),
            (b"", Count::Exact(5)),
            (b"y\n", Count::Exact(1_001)),
            (b"1002\n", Count::Exact(1_001)),
            (b"y\n", Count::AtLeast(10_000)),
            (b"y\n", Count::AtLeast(5)),
        ] {
            let stop = answer(answers, count).expect_err("is refused");
            assert_eq!(stop.exit(), Exit::Unconfirmed);
        }
        assert!(answer(b"1,001\n", Count::Exact(1_001)).is_ok());
        assert!(answer(b"10000\n", Count::AtLeast(10_000)).is_ok());
    }

    #[test]
    fn nobody_asked_is_nobody_who_agreed() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console::plain(&mut out, &mut err);
        let stop = confirm(&mut console, "delete", Count::Exact(1)).expect_err("is refused");
        assert!(stop.to_string().contains("--yes"));
    }

    #[test]
    fn to_retry_means_what_failed_unless_it_says_otherwise() {
        let meant = |text: &str| Verb::Retry.meant(text.parse().expect("a filter")).to_string();
        assert_eq!(meant("kind:mail"), "state:failed kind:mail");
        assert_eq!(meant("kind:mail state:deleted"), "kind:mail state:deleted");
        assert_eq!(meant("failed:<2h"), "failed:<2h");
    }
}
