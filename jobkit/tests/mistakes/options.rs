#[jobkit::job(que = "mail")]
async fn unknown() {}

#[jobkit::job(timeout = "2 minutes")]
async fn length() {}

#[jobkit::job(unique = "k", unique_until = "later")]
async fn until() {}

#[jobkit::job(on_conflict = "reject")]
async fn no_key() {}

#[jobkit::job(priority = 10)]
async fn priority() {}

#[jobkit::job(name = "send@2")]
async fn version_in_name() {}

#[jobkit::job(unique = "card:{card}")]
async fn shown(#[sensitive] card: String) {}

#[jobkit::job]
async fn same_name(a: u8, #[serde(rename = "a")] b: u8) {}

#[jobkit::job]
async fn serde_option(#[serde(flatten)] a: Vec<u8>) {}

#[jobkit::job(sensitive(password))]
async fn secret(user_id: u64) {}

#[jobkit::job(rate_limit("api", 5, "200ms"))]
async fn window() {}

fn main() {}
