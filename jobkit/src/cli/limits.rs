//! `limits`.

use jobkit_core::limit::{Limit, Window};
use jobkit_core::redact::hide_in_text;
use jobkit_core::storage::{Call, LimitUsage};
use serde_json::{Value, json};

use super::args::{LimitsArgs, LimitsCommand, Page};
use super::console::{Table, Tone};
use super::list::Listed;
use super::{Context, Done, Exit, Stop, format, view};

pub(super) async fn run(context: &mut Context<'_, '_>, args: &LimitsArgs) -> Done {
    match &args.command {
        None => list(context, &args.page).await,
        Some(LimitsCommand::Set { name, max }) => {
            let known = context.storage().limit(&Call::default(), name).await?;
            let window = known.and_then(|usage| usage.limit.window);
            let limit = Limit { name: name.clone(), max: *max, window };
            limit.check()?;
            context.operator().define_limit(limit).await?;
            context.done(&format!("limit {name} is {max}"), &json!({ "name": name, "max": max }))
        }
        Some(LimitsCommand::Release { name }) => {
            if context.storage().limit(&Call::default(), name).await?.is_none() {
                return Err(Stop::Nothing(format!("there is no limit {name}")));
            }
            let released = context.operator().release_stuck(name).await?;
            let words = format!("{} slots were freed", format::number(released));
            let done = context.done(&words, &json!({ "name": name, "released": released }))?;
            Ok(if released == 0 { Exit::Nothing } else { done })
        }
    }
}

fn window(limit: &Limit) -> String {
    match limit.window {
        None => "at once".to_owned(),
        Some(Window::Sliding(length)) => format!("in any {}", format::duration(length)),
        Some(window) => format!("each {}", format::duration(window.length())),
    }
}

fn json(usage: &LimitUsage) -> Value {
    json!({
        "name": hide_in_text(&usage.limit.name),
        "max": usage.limit.max,
        "window_ms": usage.limit.window.map(|window| view::millis(window.length())),
        "sliding": matches!(usage.limit.window, Some(Window::Sliding(_))),
        "used": usage.used,
        "waiting": usage.waiting,
        "room_at": view::time_or_null(usage.room_at),
        "defined_by_operator": usage.defined_by_operator,
    })
}

async fn list(context: &mut Context<'_, '_>, page: &Page) -> Done {
    let storage = context.storage();
    let fetch = async |after: Option<String>, limit| {
        storage.limits(&Call::default(), after.as_deref(), limit).await
    };
    let listed = Listed::page(page, fetch, |usage| usage.limit.name.clone()).await?;
    context.listed(&listed, "no limit", json, |context, usages| {
        let mut table =
            Table::new(&["limit", ">used", ">of", "counted", ">waiting", "room", "set by"]);
        for usage in usages {
            let by = if usage.defined_by_operator { "operator" } else { "jobs" };
            let cells = [
                &hide_in_text(&usage.limit.name),
                &format::number(usage.used.into()),
                &format::number(usage.limit.max.into()),
                &window(&usage.limit),
                &format::number(usage.waiting),
                &context.time_or(usage.room_at, ""),
                by,
            ];
            let full = usage.used >= usage.limit.max;
            table.row_in(if full { Tone::Warning } else { Tone::Plain }, cells);
        }
        Ok(context.console.table(&table)?)
    })
}
