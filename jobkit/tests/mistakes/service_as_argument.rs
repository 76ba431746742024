struct Mailer;

#[jobkit::job]
async fn send(user: u64, mailer: Mailer) {
    let _ = (user, mailer);
}

fn main() {}
