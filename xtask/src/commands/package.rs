//! `cargo xtask package`: packs every crate, and builds from the packed files what a user would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{cargo, output_of, root, run};
use crate::{Failure, Outcome};

/// The crates that are published, in the order in which they can be.
const CRATES: [&str; 5] =
    ["jobkit-core", "jobkit-macros", "conformance-tests", "jobkit-sqlite", "jobkit"];

/// A storage of somebody else's, which is packed and not published.
const TOY: &str = "toy-backend";

/// The cases that it has to pass as a stranger's crate: some of each.
const TOY_CASES: [&str; 4] = ["core::submit", "core::locks", "core::servers", "standard::log"];

/// What a packed manifest has to say.
const FIELDS: [&str; 6] =
    ["description", "license", "keywords", "categories", "rust-version", "readme"];

/// The storages, by the feature that brings them, and the URL at which the program finds one.
const STORAGES: [(&str, &str); 2] = [("", "memory:"), ("sqlite", "sqlite://jobs.db")];

/// The same for every storage.
const PROGRAM: &str = r#"
use std::time::Duration;
use jobkit::{Client, Server, jobs};

#[jobkit::job]
async fn add(a: u32, b: u32) -> anyhow::Result<u32> {
    Ok(a + b)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let storage = jobkit::connect(&std::env::args().nth(1).unwrap_or_default()).await?;
    let client = Client::new(storage.clone());
    let server = Server::builder(storage).jobs(jobs![add]).build()?.start().await?;
    let sum = client.enqueue(add(2, 3)).await?.wait(Duration::from_secs(30)).await?;
    println!("2 + 3 = {sum}");
    server.shutdown().await?;
    Ok(())
}
"#;

pub(crate) fn run_package(_: &[String]) -> Outcome {
    let mut pack = vec!["package", "--no-verify", "--allow-dirty"];
    for name in CRATES.into_iter().chain([TOY]) {
        pack.extend(["-p", name]);
    }
    run(cargo(&pack))?;
    let place = std::env::temp_dir().join(format!("jobkit-package-{}", std::process::id()));
    let outcome = build_from_packed(&place);
    // What is left of a failure can be looked at.
    if outcome.is_ok() {
        fs::remove_dir_all(&place).map_err(because(&place))?;
    }
    outcome
}

fn build_from_packed(place: &Path) -> Outcome {
    fs::create_dir_all(place).map_err(because(place))?;
    let version = version()?;
    for name in CRATES.into_iter().chain([TOY]) {
        let packed = target().join(format!("package/{name}-{version}.crate"));
        let mut unpack = Command::new("tar");
        unpack.arg("-xzf").arg(&packed).arg("-C").arg(place);
        run(unpack)?;
        check_manifest(&place.join(format!("{name}-{version}")))?;
    }
    for (feature, url) in STORAGES {
        let program = place.join(if feature.is_empty() { "with-none" } else { feature });
        run_program(&program, &manifest_of(feature, "", &version), PROGRAM, url)?;
    }
    build_toy(place, &version)?;
    println!("packed and built: {}, {TOY}", CRATES.join(", "));
    Ok(())
}

fn run_program(program: &Path, manifest: &str, source: &str, url: &str) -> Outcome {
    fs::create_dir_all(program.join("src")).map_err(because(program))?;
    for (file, text) in [("Cargo.toml", manifest), ("src/main.rs", source)] {
        let path = program.join(file);
        fs::write(&path, text).map_err(because(&path))?;
    }
    let mut build = cargo(&["run", "--quiet", "--", url]);
    build.current_dir(program).env("CARGO_TARGET_DIR", target().join("packed"));
    run(build)
}

/// The storage of a stranger, from its packed files: a program runs a job on it, and the suite runs in it.
fn build_toy(place: &Path, version: &str) -> Outcome {
    let dependency = format!("{TOY} = {{ path = \"../{TOY}-{version}\" }}\n");
    let open = "toy_backend::ToyStorage::open(std::env::args().nth(1).unwrap_or_default())?";
    let connect = "jobkit::connect(&std::env::args().nth(1).unwrap_or_default()).await?";
    let manifest = manifest_of("", &dependency, version);
    run_program(&place.join("with-toy"), &manifest, &PROGRAM.replace(connect, open), "jobs.toy")?;
    let mut test = cargo(&["test", "--quiet", "--test", "conformance"]);
    for name in CRATES {
        let path = place.join(format!("{name}-{version}"));
        test.arg("--config").arg(format!("patch.crates-io.{name}.path={path:?}"));
    }
    test.arg("--").args(TOY_CASES);
    let folder = place.join(format!("{TOY}-{version}"));
    test.current_dir(folder).env("CARGO_TARGET_DIR", target().join("packed"));
    run(test)
}

/// The manifest of a program that uses one storage, with every crate taken from where it was unpacked.
fn manifest_of(feature: &str, dependency: &str, version: &str) -> String {
    let features = if feature.is_empty() { String::new() } else { format!("\"{feature}\"") };
    let patches: String = CRATES
        .iter()
        .map(|name| format!("{name} = {{ path = \"../{name}-{version}\" }}\n"))
        .collect();
    format!(
        "[package]\nname = \"program\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [dependencies]\nanyhow = \"1\"\n\
         jobkit = {{ version = \"{version}\", features = [{features}] }}\n{dependency}\
         tokio = {{ version = \"1\", features = [\"macros\", \"rt-multi-thread\"] }}\n\n\
         [patch.crates-io]\n{patches}\n[workspace]\n"
    )
}

fn check_manifest(folder: &Path) -> Outcome {
    let path = folder.join("Cargo.toml");
    let manifest = fs::read_to_string(&path).map_err(because(&path))?;
    let package = manifest.split("[package]").nth(1).unwrap_or_default();
    let package = package.split("\n[").next().unwrap_or_default();
    let has = |field: &str| package.lines().any(|line| line.starts_with(&format!("{field} = ")));
    let missing: Vec<_> = FIELDS.into_iter().filter(|field| !has(field)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::Because(format!("{} lacks {}", path.display(), missing.join(", "))))
}

/// The version that all crates share.
fn version() -> Result<String, Failure> {
    let id = output_of(cargo(&["pkgid", "-p", "jobkit"]));
    let version = id.as_deref().and_then(|id| id.trim().rsplit(['#', '@']).next());
    version.map(str::to_owned).ok_or_else(|| Failure::Because("cargo pkgid failed".to_owned()))
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn because(path: &Path) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |error| Failure::Because(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_takes_every_crate_from_where_it_was_unpacked() {
        let manifest = manifest_of("sqlite", "other = \"2\"\n", "1.2.3");
        assert!(manifest.contains("jobkit = { version = \"1.2.3\", features = [\"sqlite\"] }"));
        assert!(manifest.contains("\nother = \"2\"\n"));
        for name in CRATES {
            assert!(manifest.contains(&format!("{name} = {{ path = \"../{name}-1.2.3\" }}")));
        }
    }
}
