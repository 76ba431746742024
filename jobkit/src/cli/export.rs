//! `export`: all jobs that match, page by page.

use jobkit_core::bounds;
use jobkit_core::search::{self, Plan};
use jobkit_core::storage::Storage;
use serde_json::Value;

use super::args::{Export, Form};
use super::{Context, Done, Exit, view};

/// The columns of the CSV form: names of fields of the record.
const COLUMNS: [&str; 18] = [
    "id",
    "kind",
    "display_name",
    "queue",
    "priority",
    "state",
    "reason",
    "attempt",
    "failures",
    "created_at",
    "enqueued_at",
    "claimed_at",
    "entered_at",
    "duration_ms",
    "tags",
    "unique",
    "batch",
    "args",
];

pub(super) async fn run(context: &mut Context<'_, '_>, args: &Export) -> Done {
    let filter = view::filter(&args.filter.join(" "))?;
    let storage = context.storage();
    let plan = Plan::on(&*storage, &filter).await?;
    let mut after = None;
    let mut written: u64 = 0;
    if matches!(args.format, Form::Csv) {
        context.console.raw_line(&COLUMNS.join(","))?;
    }
    loop {
        let page = search::walk(&*storage, &plan, after.as_deref(), bounds::PAGE).await?;
        for job in &page.jobs {
            // Removed since its page was read.
            let Some(value) = value(context, &*storage, job.id).await? else { continue };
            match args.format {
                Form::Ndjson => context.console.json_line(&value)?,
                Form::Csv => context.console.raw_line(&line(&value))?,
            }
            written += 1;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok(if written == 0 { Exit::Nothing } else { Exit::Done })
}

async fn value(
    context: &Context<'_, '_>,
    storage: &dyn Storage,
    id: jobkit_core::JobId,
) -> Done<Option<Value>> {
    let Some(job) = storage.job(id).await? else { return Ok(None) };
    let mut value = view::record(&job.record);
    value["args"] = view::args(&context.client, &job);
    value["result"] = serde_json::json!(view::result(&context.client, &job));
    value["errors"] = job.errors.iter().map(view::error).collect();
    Ok(Some(value))
}

fn line(value: &Value) -> String {
    COLUMNS.map(|column| cell(&value[column])).join(",")
}

/// One cell. A text that a spreadsheet would take for a formula begins with an apostrophe.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.iter().all(Value::is_string) => {
            values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    };
    let formula = !value.is_number() && text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula() {
        for (value, shown) in [
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@a", "'@a"),
            ("\ta", "'\ta"),
            ("\r=a", "\"'\r=a\""),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("plain", "plain"),
        ] {
            assert_eq!(cell(&value.into()), shown);
        }
        assert_eq!(cell(&serde_json::json!(-5)), "-5");
        assert_eq!(cell(&serde_json::json!(["=a", "b"])), "'=a b");
    }
}
