//! Scenarios on any storage, beside the storage's own limit in the same run.
//!
//! ```text
//! cargo run --release -p benches -- sqlite [--scenario NAME] [--json] [--quick]
//! ```

mod bare;
mod jobs;
mod operators;
mod processor;
mod report;
mod scenarios;
mod target;

use anyhow::{Context, Result, bail};

use report::Report;
use target::Target;

const USAGE: &str = "\
cargo run --release -p benches -- STORAGE [OPTIONS]

  STORAGE          memory, sqlite, sqlite-full (synchronous = FULL)
  --scenario NAME  one scenario alone; `list` names them
  --json           one object a line instead of a table
  --quick          a tenth of the jobs, once: to see that everything works";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut storage, mut only, mut json, mut quick) = (None, None, false, false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--scenario" => only = Some(arguments.next().context("--scenario needs a name")?),
            "--json" => json = true,
            "--quick" => quick = true,
            "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(());
            }
            // A server process of `drain-processes`.
            "serve" => {
                let url = arguments.next().context("serve needs a url")?;
                return runtime()?.block_on(jobs::serve(&url));
            }
            name if storage.is_none() && !name.starts_with("--") => storage = Some(name.to_owned()),
            other => bail!("{other} is unknown\n\n{USAGE}"),
        }
    }
    if only.as_deref() == Some("list") {
        for scenario in scenarios::ALL {
            println!("{:<16}{}", scenario.name, scenario.about);
        }
        return Ok(());
    }
    let target =
        Target::new(&storage.with_context(|| format!("name a storage\n\n{USAGE}"))?, quick)?;
    let mut report = Report::new(&target, json);
    let mut known = false;
    for scenario in scenarios::ALL {
        if only.as_deref().is_none_or(|only| only == scenario.name) {
            known = true;
            scenarios::measure(scenario, &target, &mut report)?;
        }
    }
    if !known {
        bail!("there is no such scenario; `--scenario list` names them");
    }
    report.end();
    Ok(())
}

/// Each measurement has a runtime of its own, as a program would.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
