fn from(_: ()) {}

#[jobkit::job(upgrade = from)]
async fn no_version() {}

#[jobkit::job(version = 3, upgrade(3 = from))]
async fn itself() {}

#[jobkit::job(version = 3, upgrade(1 = from, 1 = from))]
async fn twice() {}

fn main() {}
