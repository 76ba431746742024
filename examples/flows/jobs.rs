//! The jobs.

use std::time::Duration;

use anyhow::{Result, bail};
use jobkit::{FromParent, FromParents, JobContext, Jobs, jobs, permanent};

pub fn all() -> Jobs {
    jobs![charge, ship, page_somebody, ware, sum, report, watch_the_oven]
}

#[jobkit::job]
pub async fn charge(cents: u64) -> Result<u64> {
    if cents > 100_000 {
        println!("   charge: refused");
        // Another attempt would not help.
        return Err(permanent(format!("the card does not cover {cents} cents")).into());
    }
    println!("   charge: {cents} cents");
    Ok(cents)
}

/// Its parent's output comes as a parameter.
#[jobkit::job]
pub async fn ship(#[inject] paid: FromParent<u64>) -> Result<String> {
    Ok(format!("on its way, paid with {} cents", paid.0))
}

/// Runs when its parent has failed, and asks why.
#[jobkit::job]
pub async fn page_somebody(ctx: JobContext) -> Result<String> {
    let parents = ctx.parents().await?;
    let why = parents.iter().filter_map(|parent| parent.error.as_ref());
    let why: Vec<_> = why.map(|error| error.detail.message.as_str()).collect();
    Ok(format!("paged, since {}", why.join(", ")))
}

#[jobkit::job]
pub async fn ware(pieces: u64) -> Result<u64> {
    Ok(pieces)
}

/// The outputs of all of its parents, in their order.
#[jobkit::job]
pub async fn sum(of: String, #[inject] parts: FromParents<u64>) -> Result<u64> {
    let sum = parts.0.iter().sum();
    println!("   {of}: {sum}");
    Ok(sum)
}

#[jobkit::job]
pub async fn report() -> Result<String> {
    Ok("the whole house is counted".into())
}

/// Stops between two looks when it is asked to.
#[jobkit::job]
pub async fn watch_the_oven(ctx: JobContext) -> Result<String> {
    for look in 1.. {
        ctx.progress(look, 0);
        tokio::select! {
            () = ctx.cancelled() => break,
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
    println!("   oven: turned off");
    bail!("stopped before the cake was done")
}
