//! Turns the bytes of one record into text, without ever guessing a character.
//!
//! A declared encoding is strict. With detection each record is judged by itself, because files are glued together
//! from several systems:
//!
//! | the bytes                                      | are read as |
//! |------------------------------------------------|-------------|
//! | ASCII                                          | ASCII |
//! | UTF-8 only                                     | UTF-8 |
//! | GB18030 only                                   | GB18030 |
//! | both, the UTF-8 reading holds a character of three or more bytes (as Chinese text does) | UTF-8 |
//! | both, the UTF-8 reading holds only two-byte characters | what all other records of the file are; quarantined when they are both |
//! | neither                                        | quarantined |
//!
//! The last rule but one exists because two-byte GB18030 characters happen to be valid two-byte UTF-8 in one case of
//! some dozens (`联通` is the famous one in lenient decoders): a short record says too little by itself. The evidence
//! is taken from the whole file, when the first such record is met, so it does not depend on where reading starts.

use encoding_rs::{DecoderResult, GB18030};
use qihui_catalog::Encoding;

use crate::reason::Reason;

/// What the lines of a file say about its encoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// Lines that are UTF-8 with a character of three or more bytes.
    pub utf8: u64,
    /// Lines that are GB18030 and not UTF-8.
    pub gb18030: u64,
}

impl Evidence {
    /// Takes one line in, with a decoder to try it.
    pub fn see(&mut self, line: &[u8], decoder: &mut TextDecoder) {
        if line.is_ascii() {
            return;
        }
        match std::str::from_utf8(line) {
            Ok(_) => self.utf8 += u64::from(has_long_character(line)),
            Err(_) => self.gb18030 += u64::from(decoder.gb18030(line).is_some()),
        }
    }
}

fn has_long_character(utf8: &[u8]) -> bool {
    utf8.iter().any(|byte| *byte >= 0xE0)
}

/// Decodes records of one source.
pub(crate) struct TextDecoder {
    encoding: Encoding,
    evidence: Option<Evidence>,
    buffer: Vec<u8>,
}

impl TextDecoder {
    /// A decoder for a source in `encoding`.
    pub fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            evidence: None,
            buffer: Vec::new(),
        }
    }

    /// The encoding it was made for.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Learns what the whole file says about its encoding.
    pub fn learn(&mut self, evidence: Evidence) {
        self.evidence = Some(evidence);
    }

    /// Whether `raw` can only be read with [`TextDecoder::learn`]ed evidence.
    pub fn needs_evidence(&mut self, raw: &[u8]) -> bool {
        self.evidence.is_none()
            && self.encoding == Encoding::Detect
            && !has_long_character(raw)
            && !raw.is_ascii()
            && std::str::from_utf8(raw).is_ok()
            && self.gb18030(raw).is_some()
    }

    /// The text of `raw`.
    pub fn decode<'a>(&'a mut self, raw: &'a [u8]) -> Result<&'a str, Reason> {
        if memchr::memchr(0, raw).is_some() {
            return Err(Reason::NulByte);
        }
        match self.encoding {
            Encoding::Utf8 => std::str::from_utf8(raw).map_err(|_| Reason::BadEncoding),
            Encoding::Gb18030 => match ascii(raw) {
                Some(text) => Ok(text),
                None => self.gb18030(raw).ok_or(Reason::BadEncoding),
            },
            Encoding::Detect => self.detect(raw),
        }
    }

    fn detect<'a>(&'a mut self, raw: &'a [u8]) -> Result<&'a str, Reason> {
        let Ok(text) = std::str::from_utf8(raw) else {
            return self.gb18030(raw).ok_or(Reason::BadEncoding);
        };
        if has_long_character(raw) || text.is_ascii() {
            return Ok(text);
        }
        let evidence = self.evidence;
        match (self.gb18030(raw), evidence) {
            (None, _) | (_, Some(Evidence { gb18030: 0, .. })) => Ok(text),
            (Some(text), Some(Evidence { utf8: 0, .. })) => Ok(text),
            (Some(_), _) => Err(Reason::AmbiguousEncoding),
        }
    }

    fn gb18030(&mut self, raw: &[u8]) -> Option<&str> {
        let mut decoder = GB18030.new_decoder_without_bom_handling();
        let room = decoder.max_utf8_buffer_length_without_replacement(raw.len())?;
        if self.buffer.len() < room {
            self.buffer.resize(room, 0);
        }
        let (result, _, written) =
            decoder.decode_to_utf8_without_replacement(raw, &mut self.buffer, true);
        match result {
            DecoderResult::InputEmpty => std::str::from_utf8(&self.buffer[..written]).ok(),
            _ => None,
        }
    }
}

fn ascii(raw: &[u8]) -> Option<&str> {
    if raw.is_ascii() {
        std::str::from_utf8(raw).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UTF8_FILE: Evidence = Evidence {
        utf8: 9,
        gb18030: 0,
    };
    const GB_FILE: Evidence = Evidence {
        utf8: 0,
        gb18030: 9,
    };
    const MIXED: Evidence = Evidence {
        utf8: 9,
        gb18030: 9,
    };

    fn gb(text: &str) -> Vec<u8> {
        GB18030.encode(text).0.into_owned()
    }

    fn read(encoding: Encoding, evidence: Evidence, raw: &[u8]) -> Result<String, Reason> {
        let mut decoder = TextDecoder::new(encoding);
        if decoder.needs_evidence(raw) {
            decoder.learn(evidence);
        }
        decoder.decode(raw).map(str::to_owned)
    }

    #[test]
    fn evidence_counts_lines_that_say_something() {
        let mut decoder = TextDecoder::new(Encoding::Detect);
        let mut evidence = Evidence::default();
        let chinese = gb("印花税");
        for line in [
            &b"ascii"[..],
            "浙江".as_bytes(),
            &chinese,
            b"\xFF\xFF",
            "é".as_bytes(),
        ] {
            evidence.see(line, &mut decoder);
        }
        assert_eq!(
            evidence,
            Evidence {
                utf8: 1,
                gb18030: 1
            }
        );
    }

    #[test]
    fn declared_encodings_are_strict() {
        assert_eq!(
            read(Encoding::Utf8, UTF8_FILE, "印花税".as_bytes()).as_deref(),
            Ok("印花税")
        );
        assert_eq!(
            read(Encoding::Utf8, UTF8_FILE, &gb("印花税")),
            Err(Reason::BadEncoding)
        );
        assert_eq!(
            read(Encoding::Gb18030, GB_FILE, &gb("印花税,𠮷")).as_deref(),
            Ok("印花税,𠮷")
        );
        assert_eq!(
            read(Encoding::Gb18030, GB_FILE, b"a\xFF"),
            Err(Reason::BadEncoding)
        );
        assert_eq!(
            read(Encoding::Gb18030, GB_FILE, b"cut \xD3"),
            Err(Reason::BadEncoding)
        );
        assert_eq!(
            read(Encoding::Gb18030, GB_FILE, b"a\0"),
            Err(Reason::NulByte)
        );
    }

    #[test]
    fn detection_judges_each_record() {
        for evidence in [UTF8_FILE, GB_FILE, MIXED] {
            assert_eq!(
                read(Encoding::Detect, evidence, "浙江省茶叶".as_bytes()).as_deref(),
                Ok("浙江省茶叶")
            );
            assert_eq!(
                read(Encoding::Detect, evidence, &gb("浙江省茶叶")).as_deref(),
                Ok("浙江省茶叶")
            );
            assert_eq!(
                read(Encoding::Detect, evidence, b"plain").as_deref(),
                Ok("plain")
            );
            assert_eq!(
                read(Encoding::Detect, evidence, b"\xFF\xFE"),
                Err(Reason::BadEncoding)
            );
        }
    }

    #[test]
    fn a_short_record_is_read_as_its_file() {
        // Two characters whose GB18030 bytes are also two characters of UTF-8.
        let raw = [0xD2, 0xBB, 0xC6, 0xAC];
        assert_eq!(read(Encoding::Detect, GB_FILE, &raw).as_deref(), Ok("一片"));
        assert_eq!(read(Encoding::Detect, UTF8_FILE, &raw).as_deref(), Ok("һƬ"));
        assert_eq!(
            read(Encoding::Detect, MIXED, &raw),
            Err(Reason::AmbiguousEncoding)
        );
    }

    proptest! {
        #[test]
        fn ing_1_decoding_never_panics_and_never_replaces(raw in prop::collection::vec(any::<u8>(), 0..200), utf8: bool, gb18030: bool) {
            let evidence = Evidence { utf8: u64::from(utf8), gb18030: u64::from(gb18030) };
            for encoding in [Encoding::Detect, Encoding::Utf8, Encoding::Gb18030] {
                if let Ok(text) = read(encoding, evidence, &raw) {
                    let replaced = text.as_bytes() != raw && text.contains(char::REPLACEMENT_CHARACTER);
                    prop_assert!(!replaced);
                }
            }
        }

        #[test]
        fn chinese_text_survives_both_encodings(text in "[一-龥，。（）a-z0-9]{1,40}") {
            let got = read(Encoding::Utf8, UTF8_FILE, text.as_bytes());
            prop_assert_eq!(got.as_ref(), Ok(&text));
            let got = read(Encoding::Gb18030, GB_FILE, &gb(&text));
            prop_assert_eq!(got.as_ref(), Ok(&text));
        }
    }
}
