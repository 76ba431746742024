//! A handler's failure, as data on the job.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bounds::ERROR_DETAIL_BYTES;

/// What a storage keeps of one failed attempt. Bounded and free of NUL by construction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// The error's type, or `panic`, `timeout`.
    pub error_type: String,
    /// Its message.
    pub message: String,
    /// The messages of its sources, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// The backtrace, or a panic's location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
    /// By which the dashboard groups failures: see [`fingerprint`].
    pub fingerprint: Fingerprint,
}

/// The identity of an error group: 8 bytes of SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub u64);

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "E-{:016x}", self.0)
    }
}

impl ErrorDetail {
    /// Cleans and bounds what a handler produced (G20): NUL becomes U+FFFD, and everything
    /// together stays within 16 KiB, the backtrace giving way first, then the chain.
    pub fn new(
        kind: &str,
        error_type: &str,
        message: &str,
        chain: impl IntoIterator<Item = String>,
        backtrace: Option<String>,
    ) -> Self {
        const MESSAGE: usize = ERROR_DETAIL_BYTES / 2;
        const TYPE: usize = 256;
        let error_type = cleaned(error_type, TYPE);
        let message = cleaned(message, MESSAGE);
        // JSON escapes can double a text; keep half of what is left as a reserve.
        let mut left = (ERROR_DETAIL_BYTES - TYPE).saturating_sub(message.len()) / 2;
        let mut kept = Vec::new();
        for cause in chain.into_iter().take(16) {
            let cause = cleaned(&cause, left.min(1024));
            if cause.is_empty() {
                break;
            }
            left -= cause.len();
            kept.push(cause);
        }
        let backtrace = backtrace.map(|text| cleaned(&text, left)).filter(|text| !text.is_empty());
        let frame = backtrace.as_deref().and_then(application_frame).unwrap_or("");
        let fingerprint = fingerprint(kind, &error_type, &message, frame);
        Self { error_type, message, chain: kept, backtrace, fingerprint }
    }
}

/// Groups failures: the kind, the error's type, its message with numbers, ids and quoted parts taken
/// out, and the top frame of the application.
pub fn fingerprint(kind: &str, error_type: &str, message: &str, frame: &str) -> Fingerprint {
    let mut hash = Sha256::new();
    for part in [kind, error_type, &normalised(message), frame] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.finalize()[..8]);
    Fingerprint(u64::from_be_bytes(bytes))
}

/// `message` with what differs from job to job replaced by `‹n›`: words that contain a digit, and
/// everything between quotes.
pub fn normalised(message: &str) -> String {
    let mut out = String::new();
    let mut quoted = None;
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        if word.chars().any(|c| c.is_ascii_digit()) {
            out.push_str("‹n›");
        } else {
            out.push_str(word);
        }
        word.clear();
    };
    for c in message.chars().take(512) {
        match quoted {
            Some(quote) if c == quote => {
                quoted = None;
                out.push_str("‹n›");
            }
            Some(_) => {}
            None if matches!(c, '"' | '`') => {
                flush(&mut word, &mut out);
                quoted = Some(c);
            }
            None if c.is_alphanumeric() || matches!(c, '-' | '_') => word.push(c),
            None => {
                flush(&mut word, &mut out);
                out.push(c);
            }
        }
    }
    flush(&mut word, &mut out);
    out
}

/// The first frame that is neither of the standard library nor of the runtime.
fn application_frame(backtrace: &str) -> Option<&str> {
    const OTHERS: [&str; 9] = [
        "std::",
        "core::",
        "alloc::",
        "tokio::",
        "jobkit",
        "backtrace",
        "anyhow::",
        "rust_begin",
        "__rust",
    ];
    backtrace.lines().map(str::trim).find_map(|line| {
        let (number, frame) = line.split_once(": ")?;
        number.parse::<u32>().ok()?;
        let frame = frame.trim_start_matches('<');
        (!OTHERS.iter().any(|other| frame.starts_with(other))).then_some(frame)
    })
}

/// At most `max` bytes of `text`, cut at a character, NUL replaced.
pub(crate) fn cleaned(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let c = if c == '\0' { char::REPLACEMENT_CHARACTER } else { c };
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_handler_says_is_cleaned_and_bounded() {
        let chain = (0..100).map(|i| format!("cause {i} {}", "y".repeat(5000)));
        let error =
            ErrorDetail::new("k", "T", &"a\0b".repeat(500_000), chain, Some("z".repeat(99_999)));
        assert!(!error.message.contains('\0'));
        let size = serde_json::to_vec(&error).expect("serialises").len();
        assert!(size <= ERROR_DETAIL_BYTES, "{size}");
    }

    #[test]
    fn failures_that_differ_by_number_alone_form_one_group() {
        let of = |message| fingerprint("mail", "SmtpError", message, "");
        assert_eq!(of("timed out after 30 s for user 17"), of("timed out after 5 s for user 9000"));
        assert_eq!(of("no file \"a.txt\""), of("no file \"b.txt\""));
        assert_ne!(of("timed out"), of("refused"));
        assert_eq!(normalised("id 0197a2c4-8d3e failed"), "id ‹n› failed");
    }

    #[test]
    fn the_top_frame_is_the_applications() {
        let trace = "   0: std::backtrace::Backtrace::create\n   1: resize::crop\n   2: tokio::x\n";
        assert_eq!(application_frame(trace), Some("resize::crop"));
    }
}
