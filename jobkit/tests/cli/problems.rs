//! How long failures stay among the problems.

use std::time::Duration;

use jobkit::state::Ending;
use jobkit::state::Reason;
use jobkit::storage::{Call, SettleRequest};
use serde_json::json;

use crate::world::{World, job, name, settled};

/// The kinds that `status` says fail in a new way.
fn failing(world: &World) -> Vec<String> {
    let status = world.run(&["status", "--json"]).expect(0).json();
    let problems = status["problems"].as_array().expect("a list").iter();
    let words = problems.filter(|it| it["code"] == "new-error").map(|it| it["message"].as_str());
    let mut kinds: Vec<_> = words
        .map(|words| words.and_then(|it| it.split(' ').next()).expect("words").to_owned())
        .collect();
    kinds.sort();
    kinds
}

/// Jobs of a kind run to an end that is noted this many minutes ago.
async fn end_ago(world: &mut World, kind: &str, ending: Ending, minutes: u64) {
    world.enqueue(job(kind, &json!({}))).await;
    let leases = world.claim(&[kind]).await;
    let storage = world.client.storage();
    let then = storage.now().await.expect("answers").minus(Duration::from_secs(60 * minutes));
    let settles = leases.iter().map(|lease| settled(*lease, ending, kind)).collect();
    let request = SettleRequest { server: name("web-1"), settles };
    storage.settle(&Call::at(then), &request).await.expect("is settled");
}

#[tokio::test]
async fn failures_that_retries_overcame_leave_the_problems_after_a_while() {
    let mut world = World::empty().await;
    let again = Ending::Retry { delay: Duration::ZERO };
    end_ago(&mut world, "mail", again, 15).await;
    end_ago(&mut world, "sync", Ending::Failed(Reason::Permanent), 15).await;
    end_ago(&mut world, "report", again, 5).await;
    assert_eq!(failing(&world), ["mail", "report", "sync"]);
    world.end("mail", Ending::Succeeded).await;
    world.end("report", Ending::Succeeded).await;
    assert_eq!(failing(&world), ["report", "sync"], "one is fresh, and one is Failed");
}

#[tokio::test]
async fn an_asked_for_cancellation_is_no_problem() {
    let mut world = World::empty().await;
    world.enqueue(job("mail", &json!({}))).await;
    let leases = world.claim(&["mail"]).await;
    world.run(&["delete", &leases[0].job.to_string(), "--yes"]).expect(0);
    let failed = Ending::Failed(Reason::Permanent);
    world.settle(vec![settled(leases[0], failed, "mail")]).await;
    assert_eq!(failing(&world), Vec::<String>::new());
}
