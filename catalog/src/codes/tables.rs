//! The lists themselves, from the files under `data/`.

use std::sync::OnceLock;

use super::{Code, CodeList, Lookup, divisions};
use crate::time::{Date, parse_date};

const INDUSTRIES: &str = include_str!("../../data/industries.csv");
const ENTERPRISE_TYPES: &str = include_str!("../../data/enterprise_types.csv");
const COMMODITIES: &str = include_str!("../../data/commodities.csv");
const CHAPTERS: &str = include_str!("../../data/commodity_chapters.csv");
const CUSTOMS: &str = include_str!("../../data/customs.csv");
const SHORT: &str = include_str!("../../data/lists.csv");

const CUSTOMS_SOURCE: &str = "parameter tables of the General Administration of Customs";
const PUBLICITY_SOURCE: &str =
    "data standard for the publicity of administrative licences and penalties, 2018";
const REGISTRATION_SOURCE: &str = "code list of the market-regulation departments";
const TAX_SOURCE: &str = "code list of the tax departments";

/// The first day on which the compiled-in edition of the Harmonized System holds.
pub(super) fn commodities_from() -> Date {
    Date::from_ymd_opt(2022, 1, 1).unwrap_or(Date::MAX)
}

/// The lists that are rows of `lists.csv` or `customs.csv`: name, titles, source.
const LISTED: &[(&str, [&str; 2], &str)] = &[
    (
        "country",
        ["countries and regions", "国别（地区）"],
        CUSTOMS_SOURCE,
    ),
    (
        "measurement_unit",
        ["units of measurement", "计量单位"],
        CUSTOMS_SOURCE,
    ),
    (
        "trade_mode",
        ["modes of customs supervision", "监管方式"],
        CUSTOMS_SOURCE,
    ),
    (
        "transport_mode",
        ["means of transport", "运输方式"],
        CUSTOMS_SOURCE,
    ),
    (
        "transaction_mode",
        ["terms of trade", "成交方式"],
        CUSTOMS_SOURCE,
    ),
    (
        "levy_nature",
        ["nature of levy and exemption", "征免性质"],
        CUSTOMS_SOURCE,
    ),
    (
        "wrap_type",
        ["kinds of wrapping", "包装种类"],
        CUSTOMS_SOURCE,
    ),
    ("currency", ["currencies", "币制"], "ISO 4217"),
    (
        "province",
        ["names of provinces", "省级行政区名称"],
        "GB/T 2260",
    ),
    (
        "registration_status",
        ["states of registration", "登记状态"],
        REGISTRATION_SOURCE,
    ),
    (
        "customs_direction",
        ["import or export", "进出口标志"],
        CUSTOMS_SOURCE,
    ),
    (
        "customs_credit",
        ["customs credit levels", "海关企业信用等级"],
        "customs orders no. 237, 251 and 282",
    ),
    (
        "tax_credit",
        ["tax credit levels", "纳税信用级别"],
        "tax credit administration measures",
    ),
    ("tax_period", ["tax periods", "纳税期限"], TAX_SOURCE),
    ("tax_item", ["taxes and levies", "征收项目"], TAX_SOURCE),
    (
        "taxpayer_state",
        ["states of taxpayers", "纳税人状态"],
        TAX_SOURCE,
    ),
    (
        "counterpart_kind",
        ["kinds of counterparts", "行政相对人类别"],
        PUBLICITY_SOURCE,
    ),
    (
        "licence_kind",
        ["kinds of licences", "许可类别"],
        PUBLICITY_SOURCE,
    ),
    (
        "licence_state",
        ["states of licences", "许可状态"],
        PUBLICITY_SOURCE,
    ),
    (
        "penalty_kind",
        ["kinds of penalties", "处罚类别"],
        "Administrative Penalty Law of 2021, article 9",
    ),
    (
        "public_credit_level",
        ["public credit levels", "公共信用评价等级"],
        "public credit evaluation of Zhejiang",
    ),
];

/// Every list, made at first use.
pub(super) fn lists() -> &'static [CodeList] {
    static LISTS: OnceLock<Vec<CodeList>> = OnceLock::new();
    LISTS.get_or_init(|| {
        let mut lists = vec![division(), industry(), enterprise_type(), commodity()];
        lists.extend(
            LISTED
                .iter()
                .map(|(name, titles, source)| listed(name, *titles, source)),
        );
        lists
    })
}

/// The rows of a table without its header, each cut at commas.
fn rows(table: &'static str) -> impl Iterator<Item = std::str::Split<'static, char>> {
    table
        .lines()
        .skip(1)
        .filter(|line| !line.is_empty())
        .map(|line| line.split(','))
}

fn lasting(code: &'static str, name: &'static str) -> Code {
    Code {
        code,
        name,
        from: None,
        until: None,
    }
}

fn listed(name: &'static str, titles: [&'static str; 2], source: &'static str) -> CodeList {
    let lookup = if name == "penalty_kind" {
        Lookup::Several
    } else {
        Lookup::One
    };
    let mut list = CodeList::new(name, titles, source, lookup);
    for mut row in rows(SHORT).chain(rows(CUSTOMS)) {
        let mut next = || row.next().unwrap_or_default();
        if next() == name {
            let (code, name, from, until) = (next(), next(), next(), next());
            list.push(Code {
                code,
                name,
                from: parse_date(from),
                until: parse_date(until),
            });
        }
    }
    list
}

fn division() -> CodeList {
    let mut list = CodeList::new(
        "division",
        ["administrative divisions, past and present", "行政区划"],
        "GB/T 2260",
        Lookup::One,
    );
    for (code, name) in divisions::all() {
        list.push(lasting(code, name));
    }
    list
}

fn industry() -> CodeList {
    let mut list = CodeList::new(
        "industry",
        ["industry classes", "国民经济行业分类"],
        "GB/T 4754-2017",
        Lookup::One,
    );
    for mut row in rows(INDUSTRIES) {
        let (code, name) = (
            row.next().unwrap_or_default(),
            row.next().unwrap_or_default(),
        );
        list.push(lasting(code, name));
        if let Some(number) = code.get(1..).filter(|number| !number.is_empty()) {
            list.alias(number);
        }
    }
    list
}

fn enterprise_type() -> CodeList {
    let titles = ["kinds of market entities", "市场主体类型"];
    let mut list = CodeList::new("enterprise_type", titles, REGISTRATION_SOURCE, Lookup::One);
    for mut row in rows(ENTERPRISE_TYPES) {
        list.push(lasting(
            row.next().unwrap_or_default(),
            row.next().unwrap_or_default(),
        ));
    }
    list
}

fn commodity() -> CodeList {
    let titles = ["commodities: chapters and subheadings", "商品编号"];
    let mut list = CodeList::new(
        "commodity",
        titles,
        "Harmonized System 2022",
        Lookup::Commodity,
    );
    for mut row in rows(CHAPTERS) {
        list.push(lasting(
            row.next().unwrap_or_default(),
            row.next().unwrap_or_default(),
        ));
    }
    for mut row in rows(COMMODITIES) {
        let from = Some(commodities_from());
        list.push(Code {
            code: row.next().unwrap_or_default(),
            name: "",
            from,
            until: None,
        });
    }
    list
}
