//! `top`: the status, drawn again and again.

use jobkit_core::Timestamp;
use jobkit_core::redact::hide_in_text;
use jobkit_core::state::StateName;
use jobkit_core::stats::{Scope, Tally};
use jobkit_core::storage::{Call, Storage};

use super::args::Top;
use super::{Context, Done, Exit, Stop, status};

/// Another screen, without a cursor; and back.
const BEGIN: &str = "\x1b[?1049h\x1b[?25l";
const END: &str = "\x1b[?25h\x1b[?1049l";
/// To the corner, with everything below it gone.
const AGAIN: &str = "\x1b[H\x1b[2J";

pub(super) async fn run(context: &mut Context<'_, '_>, args: &Top) -> Done {
    if !context.console.is_terminal() {
        let words = "top draws on a terminal, and standard output is none; `status` prints it once";
        return Err(Stop::Usage(words.to_owned()));
    }
    context.console.control(BEGIN)?;
    let ended = tokio::select! {
        ended = draw_on(context, args) => ended,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
        () = q() => Ok(Exit::Done),
    };
    context.console.control(END)?;
    ended
}

/// Ends with a line that begins with `q`: without raw mode a key is read with its Enter.
async fn q() {
    let (pressed, wait) = tokio::sync::oneshot::channel::<()>();
    // Ends with the process, at the latest.
    std::thread::spawn(move || {
        let mut line = String::new();
        while std::io::stdin().read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            if line.trim_start().starts_with(['q', 'Q']) {
                let _ = pressed.send(());
                return;
            }
            line.clear();
        }
        // Nobody types: only Ctrl-C ends it.
        std::mem::forget(pressed);
    });
    if wait.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What one second brought, by state.
fn rates(before: &(Timestamp, Tally), now: Timestamp, counted: &Tally) -> [f64; 7] {
    let seconds = now.since(before.0).as_secs_f64();
    StateName::ALL.map(|state| {
        let more = counted.transitions_to(state).saturating_sub(before.1.transitions_to(state));
        #[allow(clippy::cast_precision_loss, reason = "a rate for eyes")]
        let more = more as f64;
        if seconds > 0.0 { more / seconds } else { 0.0 }
    })
}

async fn draw_on(context: &mut Context<'_, '_>, args: &Top) -> Done {
    let storage = context.storage();
    let mut interval =
        tokio::time::interval(args.interval.max(std::time::Duration::from_millis(100)));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before: Option<(Timestamp, Tally)> = None;
    loop {
        interval.tick().await;
        let drawn = draw(context, &*storage, &mut before).await;
        match drawn {
            // A storage that is away for a moment is told, and asked again.
            Err(Stop::Library(error)) if error.is_retryable() => {
                context.console.control(AGAIN)?;
                context.console.say(&hide_in_text(&error.to_string()))?;
            }
            drawn => drawn?,
        }
        context.console.flush()?;
    }
}

async fn draw(
    context: &mut Context<'_, '_>,
    storage: &dyn Storage,
    before: &mut Option<(Timestamp, Tally)>,
) -> Done<()> {
    let snapshot = storage.snapshot(&Call::default()).await?;
    let servers = storage.servers().await?;
    let counted = storage.counters(&Scope::Total).await?;
    context.now = snapshot.now;
    let problems = status::all_problems(context).await?;
    let rates = before.as_ref().map(|before| rates(before, snapshot.now, &counted));
    *before = Some((snapshot.now, counted));
    context.console.control(AGAIN)?;
    status::draw(context, &snapshot, &servers, &problems, Some(rates.unwrap_or_default()))?;
    Ok(())
}
