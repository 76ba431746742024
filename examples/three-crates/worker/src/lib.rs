//! The code of the jobs that `example-declarations` names.

use example_declarations::{Made, Thumbnail};
use jobkit::{JobContext, Jobs};

/// Everything this worker runs.
pub fn jobs() -> Jobs {
    Jobs::new().handle(thumbnail)
}

async fn thumbnail(job: Thumbnail, ctx: JobContext) -> anyhow::Result<Made> {
    ctx.info(format!("user {}", job.user));
    let (name, ending) = job.path.rsplit_once('.').unwrap_or((&job.path, "png"));
    Ok(Made { path: format!("{name}-{}.{ending}", job.width) })
}
