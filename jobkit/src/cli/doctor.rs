//! `doctor`: what the storage's own check finds, and what else is wrong, with what to do.

use jobkit_core::redact::hide_in_text;
use jobkit_core::storage::{Finding, Severity};
use serde_json::{Value, json};

use super::console::Tone;
use super::status::{Problem, problems};
use super::{Context, Done, Exit};

pub(super) async fn run(context: &mut Context<'_, '_>) -> Done {
    let storage = context.storage();
    let findings = storage.check().await?;
    let problems = problems(context).await?;
    let stored = match &context.jobs {
        Some(jobs) => Some(jobs.check_stored(&context.client).await?),
        None => None,
    };
    let failed = findings.iter().any(|it| it.severity == Severity::Error)
        || problems.iter().any(|it| it.severity == Severity::Error)
        || stored.as_ref().is_some_and(|stored| !stored.is_ok());
    let misfits = stored.as_ref().map(|stored| {
        stored.told.iter().map(|misfit| hide_in_text(&misfit.to_string())).collect::<Vec<_>>()
    });
    if context.globals.json {
        let findings: Vec<Value> = findings.iter().map(json).collect();
        let problems: Vec<Value> = problems.iter().map(Problem::json).collect();
        let stored = stored
            .as_ref()
            .map(|it| json!({ "checked": it.checked, "misfits": it.misfits, "told": misfits }));
        let all = json!({
            "ok": !failed,
            "findings": findings,
            "problems": problems,
            "stored_jobs": stored,
        });
        context.console.json(&all)?;
        return Ok(if failed { Exit::Nothing } else { Exit::Done });
    }
    let mut quiet = true;
    for finding in &findings {
        quiet = false;
        let words = format!("{} {}: {}", word(finding.severity), finding.code, finding.message);
        context.console.say_in(tone(finding.severity), &hide_in_text(&words))?;
    }
    for problem in &problems {
        quiet = false;
        let words = format!("{} {}: {}", word(problem.severity), problem.code, problem.words);
        context.console.say_in(tone(problem.severity), &words)?;
    }
    if let Some(stored) = &stored {
        quiet = false;
        let tone = if stored.is_ok() { Tone::Good } else { Tone::Bad };
        let words = fitting(stored.checked, stored.misfits);
        context.console.say_in(tone, &words)?;
        for misfit in misfits.iter().flatten() {
            context.console.say(&format!("  {misfit}"))?;
        }
    }
    if quiet {
        context.console.say_in(Tone::Good, "nothing is wrong")?;
    }
    Ok(if failed { Exit::Nothing } else { Exit::Done })
}

/// How many of the stored jobs this program could run.
fn fitting(checked: impl Into<u64>, misfits: impl Into<u64>) -> String {
    match (checked.into(), misfits.into()) {
        (0, _) => "no stored job to check against this program".to_owned(),
        (1, 0) => "the one stored job fits this program".to_owned(),
        (checked, 0) => format!("all {checked} stored jobs fit this program"),
        (checked, 1) => format!("1 of {checked} stored jobs does not fit this program"),
        (checked, misfits) => {
            format!("{misfits} of {checked} stored jobs do not fit this program")
        }
    }
}

fn json(finding: &Finding) -> Value {
    json!({
        "severity": word(finding.severity),
        "code": finding.code,
        "message": hide_in_text(&finding.message),
    })
}

pub(super) const fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

pub(super) const fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Info => Tone::Plain,
        Severity::Warning => Tone::Warning,
        Severity::Error => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::fitting;

    #[test]
    fn what_fits_is_said_without_a_denial() {
        assert_eq!(fitting(9_u64, 0_u64), "all 9 stored jobs fit this program");
        assert_eq!(fitting(1_u64, 0_u64), "the one stored job fits this program");
        assert_eq!(fitting(9_u64, 1_u64), "1 of 9 stored jobs does not fit this program");
        assert_eq!(fitting(9_u64, 2_u64), "2 of 9 stored jobs do not fit this program");
    }
}
