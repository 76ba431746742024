//! Whether a job holds a term.

use std::time::Duration;

use super::filter::{Field, Property, Range, Term, When};
use super::plan::{Plan, span};
use crate::model::clock::Timestamp;
use crate::model::edge::Parent;
use crate::model::record::{JobDetails, JobRecord};
use crate::model::redact::hide_secrets;
use crate::model::state::{State, StateName};

impl Plan {
    /// Whether a record holds all that it can tell; `None` if its details have to be looked at for the
    /// rest.
    pub(super) fn matches_record(&self, job: &JobRecord) -> Option<bool> {
        let mut certain = true;
        for term in &self.rest {
            match record_holds(&term.field, job, self.now) {
                Some(holds) if holds == term.negated => return Some(false),
                Some(_) => {}
                None => certain = false,
            }
        }
        certain.then_some(true)
    }

    /// Whether a job holds every term.
    pub(super) fn matches_details(&self, job: &JobDetails) -> bool {
        self.rest.iter().all(|Term { negated, field }| {
            let holds = record_holds(field, &job.record, self.now)
                .unwrap_or_else(|| details_hold(field, job));
            holds != *negated
        })
    }
}

fn record_holds(field: &Field, job: &JobRecord, now: Timestamp) -> Option<bool> {
    let any_time = |ranges: &[Range<When>], at: Option<Timestamp>, ahead| {
        at.is_some_and(|at| ranges.iter().any(|range| span(*range, ahead, now).contains(at)))
    };
    let finished_at = Some(job.head.entered_at).filter(|_| job.state().is_finished());
    Some(match field {
        Field::State(states) => states.iter().any(|state| state.holds(job)),
        Field::Queue(names) => names.iter().any(|name| is_like(&job.queue, name)),
        Field::Kind(names) => names.iter().any(|name| is_like(&job.kind, name)),
        Field::Tag(tags) => tags.iter().any(|tag| job.tags.contains(tag)),
        Field::Id(ids) => ids.contains(&job.id),
        Field::Batch(batches) => job.batch.is_some_and(|batch| batches.contains(&batch)),
        Field::Recurring(names) => {
            let extras = job.extras.as_deref();
            let occurrence = extras.and_then(|extras| extras.occurrence.as_ref());
            occurrence.is_some_and(|it| names.iter().any(|name| is_like(&it.recurring, name)))
        }
        Field::Server(names) => match &job.head.state {
            State::Processing(hold) => names.iter().any(|name| is_like(&hold.server, name)),
            _ => false,
        },
        Field::Priority(ranges) => in_any(ranges, &u64::from(job.priority)),
        Field::Attempt(ranges) => in_any(ranges, &u64::from(job.head.attempt())),
        Field::Wait(ranges) => waited(job, now).is_some_and(|wait| in_any(ranges, &wait)),
        Field::Run(ranges) => ran(job, now).is_some_and(|run| in_any(ranges, &run)),
        Field::Created(ranges) => any_time(ranges, Some(job.created_at), false),
        Field::Entered(ranges) => any_time(ranges, Some(job.head.entered_at), false),
        Field::Finished(ranges) => any_time(ranges, finished_at, false),
        Field::Failed(ranges) => {
            let failed = finished_at.filter(|_| job.state() == StateName::Failed);
            any_time(ranges, failed, false)
        }
        Field::Due(ranges) => any_time(ranges, job.run_at(), true),
        Field::Meta(key, values) => {
            let extras = job.extras.as_deref();
            let value = extras.and_then(|extras| extras.metadata.get(key));
            value.is_some_and(|it| values.iter().any(|value| is_like(it, value)))
        }
        Field::Context(key, values) => {
            let extras = job.extras.as_deref();
            let value = extras.and_then(|extras| extras.context.get(key));
            value.is_some_and(|it| values.iter().any(|value| is_like(it, value)))
        }
        Field::Has(properties) => {
            let mut unsure = false;
            for property in properties {
                match record_has(*property, job) {
                    Some(true) => return Some(true),
                    Some(false) => {}
                    None => unsure = true,
                }
            }
            if unsure {
                return None;
            }
            false
        }
        Field::Parent(_) if job.parents == 0 => false,
        Field::Parent(_) | Field::Arg(..) | Field::Error(_) | Field::Group(_) | Field::Text(_) => {
            return None;
        }
    })
}

fn details_hold(field: &Field, job: &JobDetails) -> bool {
    let last = job.errors.last().map(|error| &error.detail);
    match field {
        Field::Parent(ids) => job.parents.iter().any(|status| match status.edge.parent {
            Parent::Job(id) => ids.contains(&id),
            Parent::Batch(_) => false,
        }),
        Field::Arg(path, wanted) => arg(job, path).is_some_and(|found| {
            let text = match &found {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            wanted.iter().any(|wanted| is_like(&text, wanted))
        }),
        Field::Error(texts) => last.is_some_and(|error| {
            texts.iter().any(|text| {
                let mut all = error.chain.iter().chain([&error.message, &error.error_type]);
                all.any(|it| it.contains(text.as_str()))
            })
        }),
        Field::Group(groups) => last.is_some_and(|error| {
            let digits = format!("{:016x}", error.fingerprint.0);
            groups.iter().any(|group| digits.starts_with(group.as_str()))
        }),
        Field::Text(text) => {
            let extras = job.record.extras.as_deref();
            let name = extras.and_then(|extras| extras.display_name.as_deref());
            name.is_some_and(|name| name.contains(text.as_str()))
                || String::from_utf8_lossy(&job.args).contains(text.as_str())
        }
        Field::Has(properties) => properties.iter().any(|property| match property {
            Property::Returned => job.result.is_some(),
            Property::Error => !job.errors.is_empty(),
            property => record_has(*property, &job.record) == Some(true),
        }),
        // What the record tells was asked there.
        _ => false,
    }
}

/// The argument at a path, unless it is hidden.
fn arg(job: &JobDetails, path: &[String]) -> Option<serde_json::Value> {
    let mut found = job.shown_args()?;
    for (depth, part) in path.iter().enumerate() {
        let extras = job.record.extras.as_deref();
        if depth == 0 && extras.is_some_and(|extras| extras.sensitive.contains(part)) {
            return None;
        }
        found = match found {
            serde_json::Value::Object(mut fields) => fields.remove(part)?,
            serde_json::Value::Array(mut values) => {
                let index: usize = part.parse().ok()?;
                if index >= values.len() {
                    return None;
                }
                values.swap_remove(index)
            }
            _ => return None,
        };
    }
    hide_secrets(&mut found);
    Some(found)
}

/// `None` where details tell.
fn record_has(property: Property, job: &JobRecord) -> Option<bool> {
    Some(match property {
        Property::Returned if job.state() != StateName::Succeeded => false,
        Property::Returned | Property::Error => return None,
        Property::Batch => job.batch.is_some(),
        Property::Parent => job.parents > 0,
        Property::Key => job.unique.is_some(),
        Property::Limit => !job.limits.is_empty(),
        Property::Tag => !job.tags.is_empty(),
        Property::Recurring => {
            job.extras.as_deref().is_some_and(|extras| extras.occurrence.is_some())
        }
    })
}

fn in_any<T: PartialOrd>(ranges: &[Range<T>], value: &T) -> bool {
    ranges.iter().any(|range| range.contains(value))
}

/// How long it was claimable before its last claim, or has been now.
fn waited(job: &JobRecord, now: Timestamp) -> Option<Duration> {
    let enqueued = job.enqueued_at?;
    match job.state() {
        StateName::Enqueued => Some(now.since(enqueued)),
        _ => job.claimed_at.filter(|claimed| *claimed >= enqueued).map(|it| it.since(enqueued)),
    }
}

/// How long its last attempt ran, or has been running.
fn ran(job: &JobRecord, now: Timestamp) -> Option<Duration> {
    match &job.head.state {
        State::Processing(hold) => Some(now.since(hold.claimed_at)),
        _ => job.duration,
    }
}

/// Whether a text fits a pattern in which `*` stands for any text.
pub(super) fn is_like(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}
