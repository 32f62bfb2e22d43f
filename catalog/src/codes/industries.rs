//! Industry classes (GB/T 4754-2017): from a class to its section.

use std::sync::OnceLock;

use super::CodeList;

/// The section letter of an industry class, written `C`, `C13`, `C1311` or without letter `13`, `1311`.
#[must_use]
pub fn section_of(code: &str) -> Option<char> {
    static SECTIONS: OnceLock<[Option<char>; 100]> = OnceLock::new();
    let industry = CodeList::get("industry").filter(|industry| industry.contains(code, None))?;
    let first = code.chars().next()?;
    if first.is_ascii_uppercase() {
        return Some(first);
    }
    let sections = SECTIONS.get_or_init(|| {
        let mut sections = [None; 100];
        for code in industry
            .iter()
            .map(|code| code.code)
            .filter(|code| code.len() == 3)
        {
            if let Some(place) = code[1..]
                .parse()
                .ok()
                .and_then(|division: usize| sections.get_mut(division))
            {
                *place = code.chars().next();
            }
        }
        sections
    });
    sections
        .get(code.get(..2)?.parse::<usize>().ok()?)
        .copied()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_section() {
        let industry = CodeList::get("industry").unwrap();
        for code in industry.iter().map(|code| code.code) {
            let section = code.chars().next();
            assert_eq!(section_of(code), section, "{code}");
            if code.len() > 1 {
                assert_eq!(section_of(&code[1..]), section, "{code}");
            }
        }
        for bad in ["", "Z", "9999", "c13", "1", "行业", "13 "] {
            assert_eq!(section_of(bad), None, "{bad}");
        }
    }
}
