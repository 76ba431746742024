//! `servers`.

use jobkit_core::Timestamp;
use jobkit_core::redact::hide_in_text;
use jobkit_core::storage::{Count, ServerCommand, ServerStatus};
use serde_json::{Value, json};

use super::args::{ServersArgs, ServersCommand};
use super::console::{Table, Tone};
use super::list::Listed;
use super::{Context, Done, change, format, view};

pub(super) async fn run(context: &mut Context<'_, '_>, args: &ServersArgs) -> Done {
    let operator = context.operator();
    let (name, words, told) = match &args.command {
        None => return list(context).await,
        Some(ServersCommand::Quiet { name, until }) => {
            let until = until.at(context.now)?;
            operator.quiet_server(name, until).await?;
            let end = until.map(|until| format!(", goes on {},", context.time(until)));
            (name, format!("takes no more jobs{}", end.unwrap_or_default()), "quiet")
        }
        Some(ServersCommand::Stop { name, yes }) => {
            if !yes {
                change::confirm(context.console, &format!("stop server {name}"), Count::Exact(1))?;
            }
            operator.stop_server(name).await?;
            (name, "shuts down".to_owned(), "stop")
        }
        Some(ServersCommand::Resume { name }) => {
            operator.resume_server(name).await?;
            (name, "takes jobs again".to_owned(), "resume")
        }
    };
    let words = format!("server {name} {words} from its next heartbeat on");
    context.done(&words, &json!({ "name": name, "told": told }))
}

fn state(server: &ServerStatus, now: Timestamp) -> (&'static str, Tone) {
    let order = server.order.as_ref().filter(|order| order.given.holds(now));
    match (server.is_silent(now), order.map(|order| order.command)) {
        (true, _) => ("silent", Tone::Bad),
        (_, Some(ServerCommand::Stop)) => ("stopping", Tone::Warning),
        (_, Some(ServerCommand::Quiet)) => ("quiet", Tone::Warning),
        _ if server.info.draining => ("draining", Tone::Warning),
        _ => ("live", Tone::Good),
    }
}

pub(super) fn json(server: &ServerStatus, now: Timestamp) -> Value {
    let info = &server.info;
    json!({
        "name": info.name,
        "state": state(server, now).0,
        "host": hide_in_text(&info.host),
        "pid": info.pid,
        "version": info.version,
        "workers": info.workers,
        "busy": server.busy,
        "queues": info.queues,
        "kinds": info.kinds,
        "started_at": view::time(info.started_at),
        "heartbeat_at": view::time(server.heartbeat_at),
        "order": server.order.as_ref().map(|order| json!({
            "command": order.command,
            "given": view::pause(Some(&order.given)),
        })),
    })
}

pub(super) fn table(context: &mut Context<'_, '_>, servers: &[ServerStatus]) -> Done<()> {
    let mut table =
        Table::new(&["state", "server", ">busy", ">of", "heard", "started", "version", "queues"]);
    for server in servers {
        let info = &server.info;
        let queues: Vec<&str> = info.queues.iter().map(|queue| queue.as_str()).collect();
        let (state, tone) = state(server, context.now);
        let cells = [
            state,
            &info.name,
            &format::number(server.busy.into()),
            &format::number(info.workers.into()),
            &context.time(server.heartbeat_at),
            &context.time(info.started_at),
            &info.version,
            &queues.join(", "),
        ];
        table.row_in(tone, cells);
    }
    Ok(context.console.table(&table)?)
}

async fn list(context: &mut Context<'_, '_>) -> Done {
    let listed = Listed::all(context.storage().servers().await?);
    let now = context.now;
    context.listed(&listed, "no server is announced", |server| json(server, now), table)
}
