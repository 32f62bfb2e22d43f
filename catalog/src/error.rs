//! What every error of qihui has in common: a stable code and a kind that decides the exit code.

/// How an error ends a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The work could not be done (exit code 1).
    Failed,
    /// The request itself was wrong (exit code 2).
    Usage,
    /// The request was understood and refused (exit code 3).
    Denied,
}

impl Kind {
    /// The exit code of a command that ends with an error of this kind.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Denied => 3,
        }
    }
}

/// An error with a stable code (one page under `docs/errors/`) and a kind.
pub trait Coded: std::error::Error {
    /// The stable `PascalCase` code, the name of a page in `docs/errors/`.
    fn code(&self) -> &'static str;
    /// What kind of failure this is.
    fn kind(&self) -> Kind;
}
