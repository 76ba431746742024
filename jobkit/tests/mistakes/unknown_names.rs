#[jobkit::job(unique = "welcome:{user}")]
async fn unique(user_id: u64) {
    let _ = user_id;
}

#[jobkit::job(limit("smtp:{host}", 2))]
async fn limited(user_id: u64) {
    let _ = user_id;
}

#[jobkit::job(tags("{nobody}"))]
async fn tagged(user_id: u64) {
    let _ = user_id;
}

fn main() {}
