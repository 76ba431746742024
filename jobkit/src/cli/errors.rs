//! `errors`: failures by their group.

use jobkit_core::error_group::ErrorGroup;
use jobkit_core::failure::Fingerprint;
use jobkit_core::redact::hide_in_text;
use jobkit_core::storage::ErrorQuery;
use jobkit_core::{Name, Timestamp};
use serde_json::{Value, json};

use super::args::{ErrorsArgs, ErrorsCommand};
use super::console::{Table, Tone};
use super::list::Listed;
use super::{Context, Done, Stop, format, view};

pub(super) async fn run(context: &mut Context<'_, '_>, args: &ErrorsArgs) -> Done {
    match &args.command {
        None => list(context, args).await,
        Some(ErrorsCommand::Mute { group, until }) => {
            let until = until.at(context.now)?;
            let group = meant(context, group).await?;
            context.operator().mute(group, until).await?;
            let json = json!({ "group": format!("{group:?}"), "muted": true, "until": view::time_or_null(until) });
            context.done(&format!("{group:?} is muted"), &json)
        }
        Some(ErrorsCommand::Unmute { group }) => {
            let group = meant(context, group).await?;
            context.operator().unmute(group).await?;
            let json = json!({ "group": format!("{group:?}"), "muted": false });
            context.done(&format!("{group:?} is not muted any more"), &json)
        }
    }
}

/// The one group whose fingerprint begins so.
async fn meant(context: &Context<'_, '_>, text: &str) -> Done<Fingerprint> {
    let digits = text.strip_prefix("E-").unwrap_or(text).to_ascii_lowercase();
    let groups = context.storage().error_groups(&ErrorQuery::default()).await?;
    let hex = |group: &ErrorGroup| format!("{:016x}", group.fingerprint.0);
    let mut found =
        groups.iter().filter(|group| !digits.is_empty() && hex(group).starts_with(&digits));
    match (found.next(), found.next()) {
        (Some(group), None) => Ok(group.fingerprint),
        (None, _) => Err(Stop::Nothing(format!("there is no error group {text}"))),
        _ => Err(Stop::Usage(format!("{text} is the beginning of several error groups"))),
    }
}

pub(super) fn json(group: &ErrorGroup, now: Timestamp) -> Value {
    json!({
        "group": format!("{:?}", group.fingerprint),
        "kind": group.kind,
        "error_type": hide_in_text(&group.error_type),
        "title": hide_in_text(&group.title),
        "message": hide_in_text(&group.message),
        "count": group.count,
        "trend": group.trend(24, now),
        "first_seen_at": view::time(group.first_seen_at),
        "last_seen_at": view::time(group.last_seen_at),
        "last_job": group.last_job,
        "mute": view::pause(group.mute.as_ref()),
    })
}

/// Bars for counts by the hour.
fn bars(counts: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let bar = |count: &u64| match count {
        0 => '·',
        n => BARS[usize::try_from((n * 7).div_ceil(most)).unwrap_or(7).min(7)],
    };
    counts.iter().map(bar).collect()
}

async fn list(context: &mut Context<'_, '_>, args: &ErrorsArgs) -> Done {
    let kind = args.kind.as_deref().map(|kind| Name::new("kind", kind)).transpose()?;
    let since = args.since.map(|length| context.now.minus(length));
    let query = ErrorQuery { since, kind, fingerprint: None };
    let groups = context.storage().error_groups(&query).await?;
    let listed = Listed::first(groups, args.first.limit());
    let now = context.now;
    context.listed(
        &listed,
        "no failure",
        |group| json(group, now),
        |context, groups| {
            let heads = ["group", "kind", ">count", "last 12 h", "last", "first", "error"];
            let mut table = Table::new(&heads);
            for group in groups {
                let muted = if group.is_muted(context.now) { " (muted)" } else { "" };
                let fingerprint = format!("{:?}", group.fingerprint);
                let cells = [
                    &format!("{}{muted}", &fingerprint[..10]),
                    group.kind.as_str(),
                    &format::number(group.count),
                    &bars(&group.trend(12, context.now)),
                    &context.time(group.last_seen_at),
                    &context.time(group.first_seen_at),
                    &hide_in_text(&group.headline()),
                ];
                table.row_in(if muted.is_empty() { Tone::Bad } else { Tone::Quiet }, cells);
            }
            Ok(context.console.table(&table)?)
        },
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn bars_grow_with_the_counts() {
        assert_eq!(super::bars(&[0, 1, 50, 100]), "·▂▅█");
        assert_eq!(super::bars(&[]), "");
    }
}
