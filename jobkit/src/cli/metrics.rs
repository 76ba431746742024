//! `metrics`: figures for Prometheus.

use jobkit_core::prometheus::Figures;
use serde_json::json;

use super::{Context, Done, Exit};

pub(super) async fn run(context: &mut Context<'_, '_>) -> Done {
    let text = Figures::read(&*context.storage()).await?.to_string();
    if context.globals.json {
        let content_type = jobkit_core::prometheus::CONTENT_TYPE;
        context.console.json(&json!({ "content_type": content_type, "text": text }))?;
    } else {
        context.console.block("", &text)?;
    }
    Ok(Exit::Done)
}
