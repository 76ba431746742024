//! What is found out about one file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

#[derive(Debug, Serialize, Deserialize)]
pub struct Facts {
    pub sha256: String,
    pub bytes: u64,
    /// Of files that are valid UTF-8.
    pub words: Option<u64>,
}

/// Reads the file once, piece by piece.
pub fn read(path: &Path) -> io::Result<Facts> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 256 << 10];
    let (mut hash, mut bytes, mut text) = (Sha256::new(), 0, Text::default());
    loop {
        let piece = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => &buffer[..length],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(piece);
        bytes += piece.len() as u64;
        text.read(piece);
    }
    Ok(Facts { sha256: hex(&hash.finalize()), bytes, words: text.words() })
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Counts words, and looks whether everything is UTF-8, over pieces.
#[derive(Default)]
struct Text {
    words: u64,
    in_word: bool,
    /// The beginning of a character that the last piece cut.
    cut: Vec<u8>,
    invalid: bool,
}

impl Text {
    fn read(&mut self, piece: &[u8]) {
        for byte in piece {
            // ASCII white space, the vertical tab included.
            let space = matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r');
            self.words += u64::from(!space && !self.in_word);
            self.in_word = !space;
        }
        if self.invalid {
            return;
        }
        let mut joined = std::mem::take(&mut self.cut);
        joined.extend_from_slice(piece);
        if let Err(error) = std::str::from_utf8(&joined) {
            match error.error_len() {
                None => self.cut = joined.split_off(error.valid_up_to()),
                Some(_) => self.invalid = true,
            }
        }
    }

    fn words(&self) -> Option<u64> {
        (!self.invalid && self.cut.is_empty()).then_some(self.words)
    }
}

#[cfg(test)]
mod tests {
    use super::Text;

    #[test]
    fn words_and_characters_may_lie_across_pieces() {
        let text = "eins zwei\tdrei\n grüße".as_bytes();
        for cut in 0..text.len() {
            let mut counted = Text::default();
            counted.read(&text[..cut]);
            counted.read(&text[cut..]);
            assert_eq!(counted.words(), Some(4), "cut at {cut}");
        }
        let mut broken = Text::default();
        broken.read(b"a \xff b");
        assert_eq!(broken.words(), None);
        let mut cut = Text::default();
        cut.read("ü".as_bytes().split_at(1).0);
        assert_eq!(cut.words(), None);
    }
}
