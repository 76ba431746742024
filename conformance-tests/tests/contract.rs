//! Every bullet of the contract has a case, and every case quotes a bullet that exists.

use std::collections::{BTreeMap, BTreeSet};

use conformance_tests::{CASES, SOURCES};

/// The contract, as it stands at the traits.
const CONTRACT: &[&str] = &[
    include_str!("../../jobkit-core/src/storage.rs"),
    include_str!("../../jobkit-core/src/storage/jobs.rs"),
    include_str!("../../jobkit-core/src/storage/queue.rs"),
    include_str!("../../jobkit-core/src/storage/lock.rs"),
    include_str!("../../jobkit-core/src/storage/recurring.rs"),
    include_str!("../../jobkit-core/src/storage/batches.rs"),
    include_str!("../../jobkit-core/src/storage/limits.rs"),
    include_str!("../../jobkit-core/src/storage/log.rs"),
    include_str!("../../jobkit-core/src/storage/servers.rs"),
    include_str!("../../jobkit-core/src/storage/monitoring.rs"),
    include_str!("../../jobkit-core/src/storage/operations.rs"),
    include_str!("../../jobkit-core/src/storage/bulk.rs"),
    include_str!("../../jobkit-core/src/storage/audit.rs"),
    include_str!("../../jobkit-core/src/storage/transfer.rs"),
];

/// The ids of the bullets: `- **SUB-1** …`.
fn bullets() -> BTreeSet<String> {
    let bullets = CONTRACT.iter().flat_map(|source| source.split("- **").skip(1));
    let ids = bullets.filter_map(|bullet| bullet.split_once("**")).map(|(id, _)| id.to_owned());
    ids.filter(|id| is_bullet(id)).collect()
}

fn is_bullet(id: &str) -> bool {
    id.split_once('-').is_some_and(|(area, number)| {
        area.len() == 3
            && area.chars().all(|c| c.is_ascii_uppercase())
            && number.parse::<u8>().is_ok()
    })
}

fn is_guarantee(id: &str) -> bool {
    id.strip_prefix('G')
        .is_some_and(|number| number.parse::<u8>().is_ok_and(|n| (1..=21).contains(&n)))
}

/// The ids that cases quote, and which cases do.
fn quoted() -> BTreeMap<String, Vec<&'static str>> {
    let mut quoted: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
    for case in CASES {
        for id in case.contract() {
            quoted.entry(id).or_default().push(case.name);
        }
    }
    quoted
}

#[test]
fn every_bullet_and_guarantee_has_a_case() {
    let quoted = quoted();
    let bullets = bullets();
    assert!(bullets.len() > 80, "the bullets are found: {bullets:?}");
    let missing: Vec<_> = bullets.iter().filter(|id| !quoted.contains_key(*id)).collect();
    assert!(missing.is_empty(), "bullets without a case: {missing:?}");
    let guarantees = (1..=21).map(|number| format!("G{number}"));
    let missing: Vec<_> = guarantees.filter(|id| !quoted.contains_key(id)).collect();
    assert!(missing.is_empty(), "guarantees without a case: {missing:?}");
}

#[test]
fn every_case_quotes_what_exists() {
    let bullets = bullets();
    for case in CASES {
        let ids = case.contract();
        assert!(ids.iter().any(|id| is_bullet(id)), "{case:?} quotes no bullet");
        for id in ids {
            assert!(bullets.contains(&id) || is_guarantee(&id), "{case:?} quotes {id}");
        }
    }
}

#[test]
fn every_case_is_listed_once() {
    let mut listed = BTreeSet::new();
    for case in CASES {
        assert!(listed.insert((case.domain, case.name)), "{case:?} is listed twice");
    }
    for (domain, source) in SOURCES {
        for case in source.split("\npub async fn ").skip(1) {
            let name = case.split_once('(').map_or("", |(name, _)| name);
            assert!(listed.contains(&(*domain, name)), "{domain}::{name} is not listed");
        }
    }
}
