//! The jobs of an application, in a library that its web processes and its workers share.

use std::time::Duration;

use jobkit::{JobContext, Jobs, jobs};

/// All of them, for servers.
pub fn jobs() -> Jobs {
    jobs![send_welcome]
}

/// Greets a new user, in the language of the request that signed them up.
#[jobkit::job(queue = "mail", max_attempts = 5, timeout = "1m")]
pub async fn send_welcome(name: String, ctx: JobContext) -> anyhow::Result<String> {
    let tenant = ctx.captured("tenant").unwrap_or("our house");
    let hello = match ctx.captured("locale") {
        Some("de") => "Hallo",
        Some("fr") => "Bonjour",
        _ => "Hello",
    };
    tracing::info!(tenant, "writing to {name}");
    // Here a mail server would be asked.
    tokio::time::sleep(Duration::from_millis(200)).await;
    tracing::info!("the mail is out");
    Ok(format!("{hello} {name}, welcome at {tenant}!"))
}
