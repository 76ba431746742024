#![deny(unused_must_use)]

#[jobkit::job]
async fn send(user: u64) {
    let _ = user;
}

fn main() {
    send(42);
    send(42).priority(9);
}
