//! The unified social credit code (统一社会信用代码, GB 32100-2015): the key of every enterprise.
//!
//! Promises: a value of [`Uscc`] is 18 symbols whose two check digits hold and whose division exists or existed;
//! checking allocates nothing and reads each symbol once. Limits: a code that is well formed may never have been
//! issued. No error of this module repeats the code.
//!
//! Form: position 1 registering authority, 2 kind of body, 3 to 8 division of the authority *when the code was
//! issued*, 9 to 17 organisation code (GB 11714, its own check symbol at 17), 18 check symbol. The alphabet is the
//! digits and capital letters without I, O, S, V, Z.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    codes::divisions,
    error::{Coded, Kind},
};

const LENGTH: usize = 18;
const ALPHABET: &[u8; 31] = b"0123456789ABCDEFGHJKLMNPQRTUWXY";
const NOT_A_SYMBOL: u8 = u8::MAX;
/// The value of each byte as a symbol (GB 32100 table 2), or [`NOT_A_SYMBOL`].
const VALUES: [u8; 256] = symbol_values();
/// GB 32100 weights of positions 1 to 17: powers of 3 modulo 31.
const WEIGHTS: [u32; 17] = [
    1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28,
];
/// GB 11714 weights of the eight symbols of the organisation code.
const ORGANISATION_WEIGHTS: [u32; 8] = [3, 7, 9, 10, 5, 8, 4, 2];

const fn symbol_values() -> [u8; 256] {
    let mut values = [NOT_A_SYMBOL; 256];
    let mut value = 0_u8;
    while (value as usize) < ALPHABET.len() {
        values[ALPHABET[value as usize] as usize] = value;
        value += 1;
    }
    values
}

/// A valid unified social credit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uscc([u8; LENGTH]);

/// Why a text is not a unified social credit code. Never says which code it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum UsccError {
    /// Not 18 symbols.
    #[error("a unified social credit code has 18 symbols")]
    Length,
    /// A symbol outside the alphabet.
    #[error(
        "a unified social credit code consists of digits and capital letters without I, O, S, V, Z"
    )]
    Symbol,
    /// The last symbol does not fit the others.
    #[error(
        "the check digit of the unified social credit code does not hold: look for a mistyped symbol"
    )]
    CheckDigit,
    /// The check symbol of the organisation code inside does not fit.
    #[error(
        "the organisation code inside the unified social credit code does not hold: look for a mistyped symbol"
    )]
    OrganisationCode,
    /// Positions 3 to 8 are not and never were an administrative division.
    #[error(
        "positions 3 to 8 of the unified social credit code are no administrative division, present or past"
    )]
    Division,
}

impl Coded for UsccError {
    fn code(&self) -> &'static str {
        match self {
            Self::Length => "UsccLength",
            Self::Symbol => "UsccSymbol",
            Self::CheckDigit => "UsccCheckDigit",
            Self::OrganisationCode => "UsccOrganisationCode",
            Self::Division => "UsccDivision",
        }
    }

    fn kind(&self) -> Kind {
        Kind::Usage
    }
}

impl Uscc {
    /// Trims white space, makes letters capital, then checks everything.
    pub fn normalise(text: &str) -> Result<Self, UsccError> {
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        let mut symbols: [u8; LENGTH] =
            text.as_bytes().try_into().map_err(|_| length_error(text))?;
        symbols.make_ascii_uppercase();
        Self::check(symbols)
    }

    /// Makes the code of an authority, a kind of body, a division and an eight-symbol serial, with both check symbols.
    pub fn from_parts(
        authority: char,
        body: char,
        division: &str,
        serial: &str,
    ) -> Result<Self, UsccError> {
        let mut symbols = [0; LENGTH];
        symbols[0] = u8::try_from(authority).map_err(|_| UsccError::Symbol)?;
        symbols[1] = u8::try_from(body).map_err(|_| UsccError::Symbol)?;
        symbols[2..8].copy_from_slice(
            <&[u8; 6]>::try_from(division.as_bytes()).map_err(|_| UsccError::Length)?,
        );
        symbols[8..16].copy_from_slice(
            <&[u8; 8]>::try_from(serial.as_bytes()).map_err(|_| UsccError::Length)?,
        );
        if symbols[..16]
            .iter()
            .any(|symbol| VALUES[usize::from(*symbol)] == NOT_A_SYMBOL)
        {
            return Err(UsccError::Symbol);
        }
        symbols[16] = organisation_check(&symbols);
        symbols[17] = check_symbol(&symbols);
        Self::check(symbols)
    }

    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // INVARIANT: every byte is in ALPHABET, hence ASCII; the fallback is never taken.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The 18 symbols as bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    /// The six digits of the registering authority's division when the code was issued.
    #[must_use]
    pub fn division(&self) -> &str {
        &self.as_str()[2..8]
    }

    /// Whether the code belongs to an individual trader (`92…`), that is to a natural person.
    #[must_use]
    pub const fn is_individual(&self) -> bool {
        self.0[0] == b'9' && self.0[1] == b'2'
    }

    fn check(symbols: [u8; LENGTH]) -> Result<Self, UsccError> {
        if symbols
            .iter()
            .any(|symbol| VALUES[usize::from(*symbol)] == NOT_A_SYMBOL)
        {
            return Err(UsccError::Symbol);
        }
        if check_symbol(&symbols) != symbols[17] {
            return Err(UsccError::CheckDigit);
        }
        if organisation_check(&symbols) != symbols[16] {
            return Err(UsccError::OrganisationCode);
        }
        let [_, _, division @ .., _, _, _, _, _, _, _, _, _, _] = &symbols;
        if !divisions::issues_codes(division) {
            return Err(UsccError::Division);
        }
        Ok(Self(symbols))
    }
}

/// A text of 18 characters that is not 18 bytes holds a character outside the alphabet.
fn length_error(text: &str) -> UsccError {
    if text.chars().count() == LENGTH {
        UsccError::Symbol
    } else {
        UsccError::Length
    }
}

/// The symbol that position 18 must hold: (31 − Σ value · weight mod 31) mod 31.
fn check_symbol(symbols: &[u8; LENGTH]) -> u8 {
    let sum: u32 = symbols
        .iter()
        .zip(WEIGHTS)
        .map(|(symbol, w)| u32::from(VALUES[usize::from(*symbol)]) * w)
        .sum();
    ALPHABET[((31 - sum % 31) % 31) as usize]
}

/// The symbol that position 17 must hold: 11 − Σ mod 11, where 10 is written X and 11 is written 0.
fn organisation_check(symbols: &[u8; LENGTH]) -> u8 {
    let value = |symbol: u8| {
        u32::from(if symbol.is_ascii_digit() {
            symbol - b'0'
        } else {
            symbol - b'A' + 10
        })
    };
    let sum: u32 = symbols[8..16]
        .iter()
        .zip(ORGANISATION_WEIGHTS)
        .map(|(symbol, w)| value(*symbol) * w)
        .sum();
    b"0X987654321"[(sum % 11) as usize]
}

impl FromStr for Uscc {
    type Err = UsccError;

    /// Exactly the 18 symbols, nothing around them, capital letters only.
    fn from_str(text: &str) -> Result<Self, UsccError> {
        Self::check(text.as_bytes().try_into().map_err(|_| length_error(text))?)
    }
}

impl fmt::Display for Uscc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Uscc {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Uscc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Uscc;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a unified social credit code")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Uscc, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_worked_examples_hold() {
        for code in [
            "91350100M000100Y43",
            "91330000142911651L",
            "91330000132211766N",
        ] {
            let uscc: Uscc = code.parse().unwrap();
            assert_eq!(uscc.to_string(), code);
            assert_eq!(uscc.division(), &code[2..8]);
            assert_eq!(check_symbol(uscc.as_bytes()), uscc.as_bytes()[17]);
        }
        let sum = |code: &str| -> u32 {
            code.bytes()
                .zip(WEIGHTS)
                .map(|(symbol, w)| u32::from(VALUES[usize::from(symbol)]) * w)
                .sum()
        };
        assert_eq!(sum("91350100M000100Y43"), 1640);
        assert_eq!(sum("91330000142911651L"), 693);
        assert_eq!(sum("91330000132211766N"), 753);
    }

    #[test]
    fn each_mistake_has_its_reason() {
        let reason = |text: &str| Uscc::normalise(text).unwrap_err();
        assert_eq!(reason(""), UsccError::Length);
        assert_eq!(reason("330100000012345"), UsccError::Length);
        assert_eq!(reason("91330000142911651LL"), UsccError::Length);
        assert_eq!(reason("9133000014291165IL"), UsccError::Symbol);
        assert_eq!(reason("９1330000142911651L"), UsccError::Symbol);
        assert_eq!(reason("91330000142911651\0"), UsccError::Symbol);
        assert_eq!(reason("91330000142911651M"), UsccError::CheckDigit);
        let mut symbols = *b"91330000142911650L";
        symbols[17] = check_symbol(&symbols);
        assert_eq!(
            reason(std::str::from_utf8(&symbols).unwrap()),
            UsccError::OrganisationCode
        );
        let code = Uscc::from_parts('9', '1', "339999", "MA000000");
        assert_eq!(code, Err(UsccError::Division));
        assert_eq!(
            "91330000142911651l".parse::<Uscc>(),
            Err(UsccError::Symbol),
            "strict"
        );
        assert_eq!(
            " 91330000142911651L".parse::<Uscc>(),
            Err(UsccError::Length),
            "strict"
        );
    }

    #[test]
    fn no_reason_repeats_the_code() {
        for error in [
            UsccError::Length,
            UsccError::Symbol,
            UsccError::CheckDigit,
            UsccError::OrganisationCode,
            UsccError::Division,
        ] {
            assert!(!error.to_string().contains("9133"));
            assert!(error.code().starts_with("Uscc"));
        }
    }

    #[test]
    fn json_is_the_text() {
        let uscc: Uscc = serde_json::from_str("\"91330000142911651L\"").unwrap();
        assert_eq!(
            serde_json::to_string(&uscc).unwrap(),
            "\"91330000142911651L\""
        );
        let error = serde_json::from_str::<Uscc>("\"91330000142911651M\"").unwrap_err();
        assert!(!error.to_string().contains("91330000142911651M"));
    }

    fn division() -> impl Strategy<Value = &'static str> {
        let known: Vec<&str> = divisions::all().iter().map(|(code, _)| *code).collect();
        prop::sample::select(known)
    }

    fn symbol() -> impl Strategy<Value = u8> {
        prop::sample::select(ALPHABET.as_slice())
    }

    prop_compose! {
        fn uscc()(authority in symbol(), body in symbol(), division in division(), serial in prop::array::uniform8(symbol()))
            -> Uscc
        {
            let serial = std::str::from_utf8(&serial).unwrap();
            Uscc::from_parts(authority.into(), body.into(), division, serial).unwrap()
        }
    }

    proptest! {
        #[test]
        fn what_is_made_from_parts_is_valid(uscc in uscc()) {
            let text = uscc.to_string();
            prop_assert_eq!(text.parse::<Uscc>(), Ok(uscc));
            let remade = Uscc::from_parts(text.chars().next().unwrap(), text.chars().nth(1).unwrap(), uscc.division(), &text[8..16]);
            prop_assert_eq!(remade, Ok(uscc));
        }

        #[test]
        fn any_single_wrong_symbol_is_found(uscc in uscc(), at in 0..LENGTH, symbol in symbol()) {
            let mut text = *uscc.as_bytes();
            prop_assume!(text[at] != symbol);
            text[at] = symbol;
            prop_assert_eq!(Uscc::check(text), Err(UsccError::CheckDigit));
        }

        #[test]
        fn normalising_is_idempotent_and_ignores_case_and_space(uscc in uscc(), before in "[ \t\u{3000}\u{feff}]{0,3}") {
            let messy = format!("{before}{}\r\n", uscc.to_string().to_lowercase());
            let once = Uscc::normalise(&messy);
            prop_assert_eq!(once, Ok(uscc));
            prop_assert_eq!(Uscc::normalise(uscc.as_str()), once);
        }

        #[test]
        fn no_text_makes_the_check_panic(text in any::<String>(), ascii in "[ -~]{16,20}") {
            for text in [text, ascii] {
                if let Ok(uscc) = Uscc::normalise(&text) {
                    prop_assert_eq!(Uscc::normalise(uscc.as_str()), Ok(uscc));
                }
            }
        }
    }
}
