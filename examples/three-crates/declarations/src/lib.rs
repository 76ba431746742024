//! What the web process and the worker agree on: kinds of jobs, without the code that runs them.

use std::time::Duration;

use jobkit::{Job, JobOptions};
use serde::{Deserialize, Serialize};

/// Makes a small picture of a large one.
#[derive(Debug, Serialize, Deserialize)]
pub struct Thumbnail {
    /// Whose picture.
    pub user: u64,
    /// Where it is.
    pub path: String,
    /// How wide the small one is; older releases did not say.
    #[serde(default = "usual_width")]
    pub width: u32,
}

fn usual_width() -> u32 {
    200
}

/// Its outcome.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Where the small picture is.
    pub path: String,
}

impl Job for Thumbnail {
    const KIND: &'static str = "thumbnail";
    type Output = Made;

    fn options() -> JobOptions {
        JobOptions::new().queue("images").max_attempts(3).timeout(Duration::from_secs(60))
    }

    fn display_name(&self) -> Option<String> {
        Some(format!("{} at {} px", self.path, self.width))
    }
}
