//! Checkpoints: C2SP tlog-checkpoint texts in C2SP signed notes.
//!
//! ```text
//! hub.example/log
//! 923748
//! nND/nri/U0xuHUrYSy0HtMeal2vzD9V4k/BO79C+QeI=
//!
//! — hub.example/log <base64 of key id and signature>
//! ```
//!
//! The lines are origin, size, and base64 of the root; the log's key name is its origin. A note may carry further
//! signature lines (witnesses, a second hub key): those of unknown keys are passed over.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use signed_note::{Note, Signature, Verifier, VerifierList};
use tlog_tiles::Checkpoint;

use crate::error::{LogError, Result};
use crate::format::Head;
use crate::keys::PublicKey;
use crate::merkle::Hash;

/// The text that is signed.
pub(crate) fn checkpoint_text(origin: &str, size: u64, root: &Hash) -> String {
    format!("{origin}\n{size}\n{}\n", STANDARD.encode(root))
}

/// The signed note of a head.
pub(crate) fn signed(origin: &str, head: &Head) -> Result<String> {
    let malformed = |_| LogError::Checkpoint {
        why: "its text or key name cannot be written as a signed note".into(),
    };
    let signature = Signature::new(origin.to_owned(), head.key_id, head.signature.to_vec())
        .map_err(malformed)?;
    let text = checkpoint_text(origin, head.size, &head.root);
    let note = Note::new(text.as_bytes(), &[signature]).map_err(malformed)?;
    String::from_utf8(note.to_bytes()).map_err(|_| LogError::Checkpoint {
        why: "it is not UTF-8".into(),
    })
}

/// A checkpoint whose signature was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

/// Why a note is no checkpoint of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotOpened {
    Malformed,
    NotSigned,
    OtherOrigin,
}

impl From<NotOpened> for LogError {
    fn from(why: NotOpened) -> LogError {
        let why = match why {
            NotOpened::Malformed => "it is not a signed note with origin, size and root",
            NotOpened::NotSigned => "it has no valid signature of this log's key",
            NotOpened::OtherOrigin => "it is of another origin",
        };
        LogError::Checkpoint { why: why.into() }
    }
}

/// Reads a signed note and verifies the log's signature on it.
pub(crate) fn open(text: &[u8], public: &PublicKey) -> std::result::Result<Opened, NotOpened> {
    let note = Note::from_bytes(text).map_err(|_| NotOpened::Malformed)?;
    let known = VerifierList::new(vec![Box::new(NoteVerifier(public.clone()))]);
    note.verify(&known).map_err(|_| NotOpened::NotSigned)?;
    let checkpoint = Checkpoint::from_bytes(note.text()).map_err(|_| NotOpened::Malformed)?;
    if checkpoint.origin() != public.origin {
        return Err(NotOpened::OtherOrigin);
    }
    Ok(Opened {
        size: checkpoint.size(),
        root: checkpoint.hash().0,
    })
}

/// Verifies with ring what `signed_note` parses.
struct NoteVerifier(PublicKey);

impl Verifier for NoteVerifier {
    fn name(&self) -> &str {
        &self.0.origin
    }

    fn key_id(&self) -> u32 {
        self.0.id
    }

    fn verify(&self, text: &[u8], signature: &[u8]) -> bool {
        self.0.verify(text, signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::LogKeys;

    #[test]
    fn aud_2_only_the_logs_own_checkpoints_open() {
        let keys = LogKeys::from_seeds(&[1; 32], &[2; 32]).unwrap();
        let public = keys.public("hub");
        let text = signed("hub", &keys.sign_head(&public, 3, [5; 32])).unwrap();
        assert_eq!(
            open(text.as_bytes(), &public),
            Ok(Opened {
                size: 3,
                root: [5; 32]
            })
        );

        let other = LogKeys::from_seeds(&[3; 32], &[2; 32]).unwrap();
        assert_eq!(
            open(text.as_bytes(), &other.public("hub")),
            Err(NotOpened::NotSigned)
        );
        assert_eq!(
            open(text.as_bytes(), &keys.public("hob")),
            Err(NotOpened::NotSigned)
        );
        assert_eq!(
            open(text.replace("\n3\n", "\n4\n").as_bytes(), &public),
            Err(NotOpened::NotSigned)
        );
        assert_eq!(open(b"", &public), Err(NotOpened::Malformed));

        // A witness's line does not disturb.
        let witness = other.public("witness");
        let line = signed("witness", &other.sign_head(&witness, 3, [5; 32])).unwrap();
        let both = format!("{text}{}", line.rsplit_once("\n\n").unwrap().1);
        assert_eq!(
            open(both.as_bytes(), &public),
            Ok(Opened {
                size: 3,
                root: [5; 32]
            })
        );
    }
}
