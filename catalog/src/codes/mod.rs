//! Code lists: which codes exist, since when and until when.
//!
//! The lists are compiled into the program (`data/README.md` names the sources) and indexed once, at first use.
//! Lookups allocate nothing. A list that changes with time is asked with a day; without a day any edition answers.

pub mod divisions;
pub mod industries;
mod tables;

use std::collections::HashMap;

use crate::time::Date;

/// One code of a list, in one edition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// The code; one that ends in `*` stands for every text that begins with what is before the star.
    pub code: &'static str,
    /// Its name, in Chinese.
    pub name: &'static str,
    /// The first day it holds; none: not limited.
    pub from: Option<Date>,
    /// The last day it holds; none: not limited.
    pub until: Option<Date>,
}

impl Code {
    fn holds(&self, on: Option<Date>) -> bool {
        on.is_none_or(|day| {
            self.from.is_none_or(|from| from <= day) && self.until.is_none_or(|until| day <= until)
        })
    }
}

/// How a value is looked up in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lookup {
    /// The value is a code.
    One,
    /// The value is one or more codes joined by `;` or `；`.
    Several,
    /// The value is a ten-digit commodity code, of which the list holds chapters and six-digit subheadings.
    Commodity,
}

/// A list of codes.
#[derive(Debug)]
pub struct CodeList {
    name: &'static str,
    title_en: &'static str,
    title_cn: &'static str,
    source: &'static str,
    lookup: Lookup,
    codes: Vec<Code>,
    /// Code to places in `codes`, one per edition.
    index: HashMap<&'static str, Vec<usize>>,
    /// Places of the codes that end in `*`.
    open: Vec<usize>,
}

impl CodeList {
    /// The list of this name.
    #[must_use]
    pub fn get(name: &str) -> Option<&'static Self> {
        tables::lists().iter().find(|list| list.name == name)
    }

    /// Every list.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        tables::lists().iter()
    }

    fn new(
        name: &'static str,
        titles: [&'static str; 2],
        source: &'static str,
        lookup: Lookup,
    ) -> Self {
        let [title_en, title_cn] = titles;
        let (codes, index, open) = (Vec::new(), HashMap::new(), Vec::new());
        Self {
            name,
            title_en,
            title_cn,
            source,
            lookup,
            codes,
            index,
            open,
        }
    }

    fn push(&mut self, code: Code) {
        let at = self.codes.len();
        if code.code.ends_with('*') {
            self.open.push(at);
        } else {
            self.index.entry(code.code).or_default().push(at);
        }
        self.codes.push(code);
    }

    /// Makes `alias` another way of writing the code that was pushed last.
    fn alias(&mut self, alias: &'static str) {
        if let Some(last) = self.codes.len().checked_sub(1) {
            self.index.entry(alias).or_default().push(last);
        }
    }

    /// The name that contracts use.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The English title.
    #[must_use]
    pub fn title_en(&self) -> &'static str {
        self.title_en
    }

    /// The Chinese title.
    #[must_use]
    pub fn title_cn(&self) -> &'static str {
        self.title_cn
    }

    /// The standard the list comes from.
    #[must_use]
    pub fn source(&self) -> &'static str {
        self.source
    }

    /// Every code in the order of its standard, with its editions.
    pub fn iter(&self) -> impl Iterator<Item = &Code> {
        self.codes.iter()
    }

    /// Whether `value` is in the list on a day, or in any edition when no day is given.
    #[must_use]
    pub fn contains(&self, value: &str, on: Option<Date>) -> bool {
        match self.lookup {
            Lookup::One => self.find(value, on).is_some(),
            Lookup::Several => value
                .split([';', '；'])
                .all(|part| self.find(part.trim(), on).is_some()),
            Lookup::Commodity => self.commodity(value, on),
        }
    }

    /// The Chinese name of a code, from its latest edition.
    #[must_use]
    pub fn name_of(&self, code: &str) -> Option<&'static str> {
        let name = |at: &usize| {
            self.codes
                .get(*at)
                .map(|code| code.name)
                .filter(|name| !name.is_empty())
        };
        match self.index.get(code) {
            Some(editions) => editions.last().and_then(name),
            None => self.find(code, None).map(|code| code.name),
        }
    }

    fn find(&self, value: &str, on: Option<Date>) -> Option<&Code> {
        let mut editions = self
            .index
            .get(value)
            .into_iter()
            .flatten()
            .filter_map(|at| self.codes.get(*at));
        editions.find(|code| code.holds(on)).or_else(|| {
            let mut open = self
                .open
                .iter()
                .filter_map(|at| self.codes.get(*at))
                .filter(|code| code.holds(on));
            open.find(|code| {
                value.len() >= code.code.len()
                    && value.starts_with(&code.code[..code.code.len() - 1])
            })
        })
    }

    /// A chapter must exist; of its own day a subheading as well, where the list has an edition for that day.
    /// Chapters 98 and 99 are national and have no international subheadings.
    fn commodity(&self, value: &str, on: Option<Date>) -> bool {
        if value.len() != 10 || !value.bytes().all(|b| b.is_ascii_digit()) {
            return false;
        }
        let (chapter, subheading) = (&value[..2], &value[..6]);
        let known_edition = on.is_some_and(|day| day >= tables::commodities_from());
        self.index.contains_key(chapter)
            && (!known_edition
                || matches!(chapter, "98" | "99")
                || self.find(subheading, on).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::parse_date;

    fn list(name: &str) -> &'static CodeList {
        CodeList::get(name).unwrap()
    }

    #[test]
    fn every_table_is_well_formed() {
        for list in CodeList::all() {
            assert!(list.codes.len() > 1, "{}", list.name);
            for code in &list.codes {
                assert!(
                    !code.code.is_empty() && code.code.trim() == code.code,
                    "{}: {:?}",
                    list.name,
                    code
                );
                assert!(
                    list.lookup == Lookup::Commodity || !code.name.is_empty(),
                    "{}: {:?}",
                    list.name,
                    code
                );
                assert!(
                    code.from.is_none() || code.until.is_none() || code.from <= code.until,
                    "{code:?}"
                );
            }
        }
        let sizes: Vec<_> = CodeList::all()
            .map(|list| format!("{} {}", list.name, list.codes.len()))
            .collect();
        crate::golden("code_lists", &sizes.join("\n"));
    }

    #[test]
    fn customs_credit_changes_with_the_rules() {
        let credit = list("customs_credit");
        let on = |day: &str| -> Vec<&str> {
            let day = parse_date(day);
            credit
                .iter()
                .map(|code| code.code)
                .filter(|code| credit.contains(code, day))
                .collect()
        };
        assert_eq!(
            on("2020-12-31"),
            ["高级认证企业", "一般认证企业", "一般信用企业", "失信企业"]
        );
        assert_eq!(on("2021-10-31").len(), 4);
        assert_eq!(on("2021-11-01"), ["高级认证企业", "失信企业", "其他企业"]);
        assert_eq!(on("2026-03-31").len(), 3);
        assert_eq!(
            on("2026-04-01"),
            [
                "高级认证企业",
                "失信企业",
                "认证企业",
                "常规企业",
                "严重失信企业"
            ]
        );
        assert!(credit.contains("一般认证企业", None));
    }

    #[test]
    fn tax_credit_has_m_since_2018() {
        let credit = list("tax_credit");
        assert!(!credit.contains("M", parse_date("2018-03-31")));
        assert!(credit.contains("M", parse_date("2018-04-01")));
        assert!(credit.contains("A", parse_date("2015-01-01")));
        assert!(!credit.contains("E", None));
    }

    #[test]
    fn several_penalties_may_stand_together() {
        let kinds = list("penalty_kind");
        assert!(kinds.contains("罚款", None));
        assert!(kinds.contains("罚款；没收违法所得、没收非法财物; 其他-责令改正", None));
        assert!(!kinds.contains("罚款;", None));
        assert!(!kinds.contains("罚", None));
        assert_eq!(kinds.name_of("其他-责令改正"), Some("其他（注明）"));
    }

    #[test]
    fn commodities_are_checked_as_far_as_their_edition_is_known() {
        let commodity = list("commodity");
        let today = parse_date("2024-05-01");
        assert!(commodity.contains("0101210010", today));
        assert!(!commodity.contains("0101990010", today));
        assert!(commodity.contains("0101990010", parse_date("2015-05-01")));
        assert!(commodity.contains("9801300000", today));
        for bad in [
            "0101210",
            "010121001X",
            "7701210010",
            "",
            "０１０１２１００１０",
        ] {
            assert!(!commodity.contains(bad, today), "{bad}");
        }
        assert_eq!(commodity.name_of("01"), Some("活动物"));
    }

    #[test]
    fn codes_have_names() {
        assert_eq!(list("country").name_of("AFG"), Some("阿富汗"));
        assert_eq!(list("trade_mode").name_of("0110"), Some("一般贸易"));
        assert_eq!(
            list("industry").name_of("0111"),
            list("industry").name_of("A0111")
        );
        assert_eq!(list("division").name_of("330106"), Some("西湖区"));
        assert!(
            list("division").contains("330125", None),
            "a division of the past"
        );
        assert_eq!(list("currency").name_of("ZZZZ"), None);
    }
}
