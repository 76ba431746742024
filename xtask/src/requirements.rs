//! What commands need from the machine: found, installed where that is welcome, or named.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::process::{cargo, output_of, root, run};
use crate::{Failure, Outcome};

/// Something without which a command cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requirement {
    Rust,
    CCompiler,
    CoreUtilities,
    Nextest,
    CargoDeny,
    Typos,
}

/// What the tests need.
pub(crate) const OF_TESTS: [Requirement; 4] =
    [Requirement::Rust, Requirement::CCompiler, Requirement::CoreUtilities, Requirement::Nextest];

impl Requirement {
    fn is_met(self) -> bool {
        match self {
            Self::Rust => match (rust_version(), wanted_rust_version()) {
                (Some(found), Some(wanted)) => found >= wanted,
                (found, _) => found.is_some(),
            },
            Self::CCompiler => compiles_c(),
            Self::CoreUtilities => answers("timeout", &["--version"]),
            Self::Nextest => output_of(cargo(&["nextest", "--version"])).is_some(),
            Self::CargoDeny => output_of(cargo(&["deny", "--version"])).is_some(),
            Self::Typos => answers("typos", &["--version"]),
        }
    }

    /// Debian's packages that bring it.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::CCompiler => &["gcc", "libc6-dev"],
            Self::CoreUtilities => &["coreutils"],
            Self::Rust | Self::Nextest | Self::CargoDeny | Self::Typos => &[],
        }
    }

    /// The crate that brings it.
    fn program(self) -> Option<&'static str> {
        match self {
            Self::Nextest => Some("cargo-nextest"),
            Self::CargoDeny => Some("cargo-deny"),
            Self::Typos => Some("typos-cli"),
            Self::Rust | Self::CCompiler | Self::CoreUtilities => None,
        }
    }

    /// What it is, and how to get it.
    fn advice(self) -> String {
        match self {
            Self::Rust => {
                let (major, minor) = wanted_rust_version().unwrap_or_default();
                format!("Rust {major}.{minor} or newer: rustup update stable")
            }
            Self::CCompiler => "a C compiler named `cc`, with the headers of the C library: \
                 sudo apt-get install gcc libc6-dev (or your system's like)"
                .to_owned(),
            Self::CoreUtilities => {
                "the program `timeout`: sudo apt-get install coreutils (or your system's like)"
                    .to_owned()
            }
            Self::Nextest => "cargo-nextest: cargo install --locked cargo-nextest, or a ready \
                 program from https://nexte.st"
                .to_owned(),
            Self::CargoDeny => {
                "cargo-deny, which checks licences: cargo install --locked cargo-deny".to_owned()
            }
            Self::Typos => "typos, which checks spelling: cargo install --locked typos-cli, or a \
                 ready program: pip install typos"
                .to_owned(),
        }
    }
}

/// Makes sure that everything is there, or says what is missing.
///
/// Prints nothing when nothing is to do.
pub(crate) fn ensure(wanted: &[Requirement]) -> Outcome {
    let missing = unmet(wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let host = Host::this();
    if host.may_install(permission().as_deref()) {
        install(&missing, host)?;
    }
    let missing = unmet(wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let advice: Vec<String> = missing.iter().map(|m| format!("\n  {}", m.advice())).collect();
    Err(Failure::Because(format!("this is needed and missing:{}", advice.concat())))
}

/// Whether a program is there, after an attempt to install it where that is welcome. Without it a check is
/// left out, and the caller says so; where the user asked for the installation, its failure is an error.
pub(crate) fn have(wanted: Requirement) -> Result<bool, Failure> {
    match ensure(&[wanted]) {
        Ok(()) => Ok(true),
        Err(failure) if permission().as_deref() == Some("yes") => Err(failure),
        Err(failure) => {
            if let Failure::Because(why) = failure {
                println!("{why}\n(with JOBKIT_INSTALL=no nothing is installed)");
            }
            Ok(false)
        }
    }
}

/// What the user says about installing.
fn permission() -> Option<String> {
    std::env::var("JOBKIT_INSTALL").ok()
}

fn unmet(wanted: &[Requirement]) -> Vec<Requirement> {
    wanted.iter().copied().filter(|requirement| !requirement.is_met()).collect()
}

fn install(missing: &[Requirement], host: Host) -> Outcome {
    let packages: Vec<&str> = missing.iter().flat_map(|m| m.packages()).copied().collect();
    if host.is_root && host.has_apt && !packages.is_empty() {
        run(apt_get(&["update", "-q"]))?;
        run(apt_get(
            &[&["install", "-q", "-y", "--no-install-recommends"], &packages[..]].concat(),
        ))?;
    }
    // Building it needs the compiler.
    if Requirement::CCompiler.is_met() {
        for program in missing.iter().filter_map(|missing| missing.program()) {
            run(cargo(&["install", "--locked", "--quiet", program]))?;
        }
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// What decides whether something may be installed.
#[derive(Clone, Copy, Debug)]
struct Host {
    is_root: bool,
    has_apt: bool,
}

impl Host {
    fn this() -> Self {
        let mut id = Command::new("id");
        id.arg("-u");
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        Self {
            is_root: output_of(id).is_some_and(|id| id.trim() == "0"),
            has_apt: is_debian(&release) && answers("apt-get", &["--version"]),
        }
    }

    fn may_install(self, permission: Option<&str>) -> bool {
        match permission {
            Some("yes") => true,
            Some("no") => false,
            // A machine of which one is root and that is Debian is most often a container made for
            // this; anybody else decides for themselves.
            _ => self.is_root && self.has_apt,
        }
    }
}

/// Whether `/etc/os-release` is Debian's or a descendant's.
fn is_debian(release: &str) -> bool {
    release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split(' '))
        .any(|id| id == "debian" || id == "ubuntu")
}

fn answers(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments);
    output_of(command).is_some()
}

/// Whether `cc` compiles and links a program that uses the C library.
///
/// A compiler without the library's headers is as common as no compiler at all.
fn compiles_c() -> bool {
    let compile = || -> std::io::Result<bool> {
        let mut cc = Command::new("cc")
            .args(["-x", "c", "-", "-o", "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut stdin) = cc.stdin.take() {
            stdin.write_all(b"#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n")?;
        }
        Ok(cc.wait()?.success())
    };
    compile().unwrap_or(false)
}

/// Major and minor version of the compiler that cargo uses.
fn rust_version() -> Option<(u32, u32)> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.arg("--version").current_dir(root());
    let output = output_of(rustc)?;
    major_minor(output.split(' ').nth(1)?)
}

/// The version that the workspace declares.
fn wanted_rust_version() -> Option<(u32, u32)> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).ok()?;
    let line = manifest.lines().find_map(|line| line.strip_prefix("rust-version"))?;
    major_minor(line.trim_matches([' ', '=', '"']))
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(major_minor("1.95.0"), Some((1, 95)));
        assert_eq!(major_minor("1.96.0-nightly"), Some((1, 96)));
        assert_eq!(major_minor("1.89"), Some((1, 89)));
        assert_eq!(major_minor("x"), None);
        assert!(rust_version().unwrap() >= wanted_rust_version().unwrap());
    }

    #[test]
    fn debian_and_its_descendants_are_known() {
        assert!(is_debian("NAME=x\nID=debian\n"));
        assert!(is_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian("ID=\"alpine\"\n"));
        assert!(!is_debian("VERSION_ID=debian\n"));
    }

    #[test]
    fn nothing_is_installed_unasked_but_as_root_on_debian() {
        let rows = [
            (true, true, None, true),
            (true, false, None, false),
            (false, true, None, false),
            (false, false, Some("yes"), true),
            (true, true, Some("no"), false),
        ];
        for (is_root, has_apt, permission, expected) in rows {
            let host = Host { is_root, has_apt };
            assert_eq!(host.may_install(permission), expected, "{host:?} {permission:?}");
        }
    }

    #[test]
    fn each_advice_says_how() {
        for requirement in OF_TESTS.into_iter().chain([Requirement::CargoDeny, Requirement::Typos])
        {
            assert!(requirement.advice().contains(": "), "{requirement:?}");
        }
    }
}
