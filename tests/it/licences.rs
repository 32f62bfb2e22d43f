//! Every package that is built comes from crates.io under a licence that an Apache-2.0 program may be shipped with.

use crate::dependencies::metadata;

/// Licences that ask for no more than notice, by their SPDX names.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Packages under another licence, each with the reason why it may be used.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "option-ext",
        "MPL-2.0",
        "copyleft by file, and its one file is used unchanged",
    ),
    (
        "webpki-root-certs",
        "CDLA-Permissive-2.0",
        "data: the certificates of Mozilla's root programme",
    ),
];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// An SPDX expression being read.
struct Expression<'a> {
    tokens: Vec<&'a str>,
    at: usize,
}

/// Whether some choice that an SPDX expression gives (`/` is an old form of `OR`) is allowed throughout.
fn is_allowed(text: &str) -> Result<bool, String> {
    let spaced = text
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut expression = Expression {
        tokens: spaced.split_whitespace().collect(),
        at: 0,
    };
    let allowed = expression.any()?;
    if expression.at < expression.tokens.len() {
        return Err(format!("`{text}` goes on behind its end"));
    }
    Ok(allowed)
}

impl Expression<'_> {
    fn next_is(&mut self, word: &str) -> bool {
        let is = self.tokens.get(self.at) == Some(&word);
        self.at += usize::from(is);
        is
    }

    fn any(&mut self) -> Result<bool, String> {
        let mut allowed = self.all()?;
        while self.next_is("OR") {
            allowed |= self.all()?;
        }
        Ok(allowed)
    }

    fn all(&mut self) -> Result<bool, String> {
        let mut allowed = self.one()?;
        while self.next_is("AND") {
            allowed &= self.one()?;
        }
        Ok(allowed)
    }

    fn one(&mut self) -> Result<bool, String> {
        if self.next_is("(") {
            let allowed = self.any()?;
            return if self.next_is(")") {
                Ok(allowed)
            } else {
                Err("a parenthesis is not closed".to_owned())
            };
        }
        let name = self
            .tokens
            .get(self.at)
            .ok_or("an expression ends too early")?;
        self.at += 1;
        let mut name = (*name).to_owned();
        if self.next_is("WITH") {
            let exception = self
                .tokens
                .get(self.at)
                .ok_or("an expression ends behind WITH")?;
            self.at += 1;
            name = format!("{name} WITH {exception}");
        }
        Ok(ALLOWED.contains(&name.as_str()))
    }
}

#[test]
fn every_package_has_an_allowed_licence() {
    let mut wrong = Vec::new();
    for package in &metadata().packages {
        let (name, licence) = (
            package.name.as_str(),
            package.license.as_deref().unwrap_or("none"),
        );
        let excepted = EXCEPTIONS
            .iter()
            .any(|(of, known, _)| *of == name && *known == licence);
        if !excepted && !is_allowed(licence).unwrap_or(false) {
            wrong.push(format!("{name} {}: {licence}", package.version));
        }
    }
    assert!(
        wrong.is_empty(),
        "not on the list of allowed licences:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_package_comes_from_crates_io() {
    let elsewhere: Vec<_> = metadata()
        .packages
        .into_iter()
        .filter(|package| !package.name.starts_with("qihui"))
        .filter(|package| {
            package
                .source
                .as_ref()
                .is_none_or(|source| source.repr != CRATES_IO)
        })
        .map(|package| package.id.repr)
        .collect();
    assert!(elsewhere.is_empty(), "not from crates.io: {elsewhere:?}");
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    for (text, allowed) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("GPL-3.0-only OR MIT", true),
        ("MIT AND GPL-3.0-only", false),
        ("MIT/Apache-2.0", true),
        ("(MIT OR GPL-3.0-only) AND Unicode-3.0", true),
        ("GPL-3.0-only AND (MIT OR ISC)", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only", true),
        ("GPL-2.0-only WITH Classpath-exception-2.0", false),
    ] {
        assert_eq!(is_allowed(text), Ok(allowed), "{text}");
    }
    for broken in ["", "MIT OR", "(MIT", "MIT MIT"] {
        assert!(is_allowed(broken).is_err(), "{broken}");
    }
}
