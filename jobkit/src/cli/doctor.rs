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
        let words =
            format!("{} of {} stored jobs do not fit this program", stored.misfits, stored.checked);
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
