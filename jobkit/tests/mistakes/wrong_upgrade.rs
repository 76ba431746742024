#[derive(serde::Deserialize)]
struct V1 {
    size: String,
}

fn other_types(old: V1) -> (String, u32) {
    (old.size, 1)
}

#[jobkit::job(version = 2, upgrade = other_types)]
async fn types(width: u32, height: u32) {
    let _ = (width, height);
}

fn no_tuple(old: V1) -> u32 {
    old.size.len() as u32
}

#[jobkit::job(version = 2, upgrade = no_tuple)]
async fn tuple(width: u32) {
    let _ = width;
}

struct Opaque;

fn from_opaque(_: Opaque) -> (u32,) {
    (1,)
}

#[jobkit::job(version = 2, upgrade = from_opaque)]
async fn decoded(width: u32) {
    let _ = width;
}

fn main() {}
