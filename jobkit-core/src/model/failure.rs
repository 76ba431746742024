//! A handler's failure, as data on the job.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::bounds::ERROR_DETAIL_BYTES;

/// What a storage keeps of one failed attempt. Bounded and free of NUL by construction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// The error's type, or `panic`, `timeout`; `error` where a box hides it. Rows of before may name the box.
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
        let mut chain: Vec<String> = chain.into_iter().collect();
        if chain.len() > CAUSES {
            // The root cause says most.
            chain.drain(CAUSES - 1..chain.len() - 1);
        }
        for cause in chain {
            let cause = cleaned(&cause, left.min(1024));
            if cause.is_empty() {
                break;
            }
            left -= cause.len();
            kept.push(cause);
        }
        let backtrace = backtrace.map(|text| cleaned(&text, left)).filter(|text| !text.is_empty());
        let frame = backtrace.as_deref().and_then(application_frame).unwrap_or("");
        let root = root_cause(&message, &kept).unwrap_or("");
        let fingerprint = fingerprint(kind, &error_type, &message, root, frame);
        Self { error_type, message, chain: kept, backtrace, fingerprint }
    }

    /// What began it: the last of the chain, unless the message says it already.
    pub fn root_cause(&self) -> Option<&str> {
        root_cause(&self.message, &self.chain)
    }

    /// The failure in one line: its message and its root cause, the first line of each, as in
    /// `sending the mail: connection refused`. At most 1 KiB.
    pub fn summary(&self) -> String {
        const HALF: usize = 511;
        let first_line = |text: &str| cleaned(text.lines().next().unwrap_or_default(), HALF);
        match self.root_cause() {
            Some(root) => format!("{}: {}", first_line(&self.message), first_line(root)),
            None => first_line(&self.message),
        }
    }

    /// The same behind the error's type, where that says something: `SmtpError: timed out`.
    pub fn headline(&self) -> String {
        with_type(&self.error_type, &self.summary())
    }
}

/// How many causes are kept of a chain; the last one is always among them.
const CAUSES: usize = 16;

fn root_cause<'a>(message: &str, chain: &'a [String]) -> Option<&'a str> {
    let root = chain.last()?;
    // Many errors write their source into their own message.
    (!message.contains(root.as_str())).then_some(root)
}

/// The words of a failure behind its type, unless the type is merely that of a box or text.
pub fn with_type(error_type: &str, words: &str) -> String {
    match is_box(error_type) {
        true => words.to_owned(),
        false => format!("{error_type}: {words}"),
    }
}

/// Whether a type says nothing of what went wrong, since it holds any error.
pub(crate) fn is_box(error_type: &str) -> bool {
    const BOXES: [&str; 8] = [
        "error",
        "",
        "&str",
        "alloc::string::String",
        "anyhow::Error",
        "eyre::Report",
        "jobkit_core::outcome::Stop",
        "alloc::borrow::Cow<str>",
    ];
    BOXES.contains(&error_type) || error_type.starts_with("alloc::boxed::Box<dyn ")
}

/// Groups failures: the kind, the error's type, its message and root cause with numbers, ids and quoted
/// parts taken out, and the top frame of the application. `root` and `frame` are empty where there is none.
pub fn fingerprint(
    kind: &str,
    error_type: &str,
    message: &str,
    root: &str,
    frame: &str,
) -> Fingerprint {
    let mut hash = Sha256::new();
    for part in [kind, error_type, &normalised(message), frame] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    if !root.is_empty() {
        // Behind the others, so that a failure without causes stays in the group that it had.
        hash.update(normalised(root).as_bytes());
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
        let of = |message| fingerprint("mail", "SmtpError", message, "", "");
        assert_eq!(of("timed out after 30 s for user 17"), of("timed out after 5 s for user 9000"));
        assert_eq!(of("no file \"a.txt\""), of("no file \"b.txt\""));
        assert_ne!(of("timed out"), of("refused"));
        assert_eq!(normalised("id 0197a2c4-8d3e failed"), "id ‹n› failed");
    }

    fn caused(message: &str, chain: &[&str]) -> ErrorDetail {
        let chain = chain.iter().map(|cause| (*cause).to_owned());
        ErrorDetail::new("mail", "error", message, chain, None)
    }

    #[test]
    fn failures_under_one_context_form_a_group_for_each_root_cause() {
        let of = |root: &str| caused("sending the mail", &["step 2", root]).fingerprint;
        assert_ne!(of("mailbox full"), of("connection refused"));
        assert_eq!(of("refused by 10.0.0.1"), of("refused by 10.0.0.2"));
        let plain = caused("sending the mail", &[]);
        assert_eq!(plain.fingerprint, fingerprint("mail", "error", "sending the mail", "", ""));
        let said = caused("sending: mailbox full", &["mailbox full"]);
        assert_eq!(said.root_cause(), None, "its message says it");
    }

    #[test]
    fn one_line_names_the_root_cause_and_no_box() {
        let mut error = caused("sending the mail\nto 3", &["step 2", "mailbox full\nsince 3 h"]);
        assert_eq!(error.headline(), "sending the mail: mailbox full");
        for of_a_box in ["anyhow::Error", "alloc::boxed::Box<dyn core::error::Error>", "&str"] {
            error.error_type = of_a_box.to_owned();
            assert_eq!(error.headline(), "sending the mail: mailbox full");
        }
        error.error_type = "shop::SmtpError".to_owned();
        assert_eq!(error.headline(), "shop::SmtpError: sending the mail: mailbox full");
    }

    #[test]
    fn the_root_cause_of_a_long_chain_is_kept() {
        let causes: Vec<_> = (0..40).map(|n| format!("cause {n}")).collect();
        let error = ErrorDetail::new("k", "error", "outer", causes, None);
        assert_eq!((error.chain.len(), error.root_cause()), (CAUSES, Some("cause 39")));
    }

    #[test]
    fn the_top_frame_is_the_applications() {
        let trace = "   0: std::backtrace::Backtrace::create\n   1: resize::crop\n   2: tokio::x\n";
        assert_eq!(application_frame(trace), Some("resize::crop"));
    }
}
