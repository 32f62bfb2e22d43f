//! Market regulation: who exists, what was reported about the year, who is on the list of abnormal operation.

use chrono::{Datelike, NaiveDate};

use super::Scribe;
use crate::calendar::{Month, add_days, add_years};
use crate::draw::{Draw, ONE_Q16, scale_exp2};
use crate::emit::Sequel;
use crate::error::Result;
use crate::population::{Body, Enterprise, Status, names, places};
use crate::row::Row;

/// One row per enterprise in the first file, new ones and changes later.
pub(super) fn registration(enterprise: &Enterprise, scribe: &mut Scribe<'_>) -> Result<()> {
    let span = scribe.span;
    let approved = if enterprise.established < span.start() {
        let age = (span.start() - enterprise.established).num_days() - 1;
        add_days(
            span.start(),
            -1 - scribe.draw.between(0, age).min(scribe.draw.between(0, age)),
        )
    } else {
        enterprise.established
    };
    let moves = scribe.draw.chance(50_000);
    let moved = add_days(
        span.start(),
        scribe
            .draw
            .between(0, (span.end() - span.start()).num_days()),
    );
    let address = format!("{}{}", place(enterprise), names::road(&mut scribe.draw));
    let term = match scribe.draw.weighted([700, 200, 60, 40].into_iter()) {
        0 => None,
        1 => NaiveDate::from_ymd_opt(9999, 9, 9),
        2 => NaiveDate::from_ymd_opt(2099, 12, 31),
        _ => Some(add_years(enterprise.established, 30)),
    };
    let (kind, kind_cn) = kind_of(enterprise, &mut scribe.draw);
    let wordy = scribe.draw.chance(60_000) && enterprise.currency == "CNY";
    let (known, ends) = scribe.life(enterprise, approved);
    let status = if ends.is_some() {
        Status::Open
    } else {
        enterprise.status
    };

    let row = scribe.begin();
    row.text("uscc", enterprise.uscc.as_str());
    row.text("pripid", &record_number(enterprise, "33"));
    row.text("entname", &enterprise.name);
    row.text(
        "regno",
        if enterprise.year() < 2015 {
            enterprise.old_number()
        } else {
            String::new()
        }
        .as_str(),
    );
    row.text("enttype", kind);
    row.text("enttype_cn", kind_cn);
    row.text("regstate", status.code());
    row.date("estdate", Some(enterprise.established));
    row.date("apprdate", Some(known));
    row.date("opfrom", Some(enterprise.established));
    row.date("opto", term);
    row.text("regorg", enterprise.uscc.division());
    row.text("domdistrict", &enterprise.county);
    row.text("province", "浙江省");
    row.text("city", places::city(&enterprise.county));
    row.text("dom", &enterprise.address);
    row.text("industryco", enterprise.industry.code);
    row.wordy = wordy;
    match enterprise.capital {
        Some(capital) => row.figure("regcap", capital.saturating_mul(100)),
        None => row.null("regcap"),
    }
    row.text(
        "regcapcur",
        if enterprise.capital.is_some() {
            &enterprise.currency
        } else {
            ""
        },
    );
    row.text("opscope", &enterprise.scope);
    row.text("lerep", &enterprise.person);
    row.text("lerepcerno", &enterprise.person_number());
    row.text("tel", &enterprise.telephone());
    row.date("data_time", Some(known));

    let close = |row: &mut Row<'_>| {
        row.text("regstate", enterprise.status.code());
        row.date("apprdate", ends);
    };
    let move_house = |row: &mut Row<'_>| {
        row.text("dom", &address);
        row.date("apprdate", Some(moved));
    };
    let sequel = match ends {
        Some(closed) => Sequel::Changed(closed, &close),
        None if moves && enterprise.active_on(moved) => Sequel::Changed(moved, &move_house),
        None => Sequel::None,
    };
    scribe.finish_with(known, sequel)
}

/// Province, city and county.
fn place(enterprise: &Enterprise) -> String {
    let county = places::county_of(&enterprise.county).map_or("", |county| county.name);
    format!("浙江省{}市{county}", places::city(&enterprise.county))
}

/// A number under which a department keeps an enterprise.
fn record_number(enterprise: &Enterprise, prefix: &str) -> String {
    format!(
        "{prefix}{}{:010}",
        &enterprise.county[2..],
        enterprise.index
    )
}

/// The kind of market entity: code and name.
fn kind_of(enterprise: &Enterprise, draw: &mut Draw) -> (&'static str, &'static str) {
    const COMPANIES: [(&str, &str); 4] = [
        ("1130", "有限责任公司（自然人投资或控股）"),
        ("1151", "有限责任公司(自然人独资)"),
        ("1190", "其他有限责任公司"),
        ("1150", "一人有限责任公司"),
    ];
    match enterprise.body {
        Body::Trader => ("9500", "个体工商户"),
        Body::Cooperative => ("9100", "农民专业合作社"),
        Body::Company if enterprise.name.ends_with("股份有限公司") => {
            ("1220", "股份有限公司(非上市)")
        }
        Body::Company => COMPANIES[draw.weighted([620, 240, 100, 40].into_iter())],
    }
}

/// The reports handed in from a year before the span: each from January to June for the year before.
pub(super) fn annual_report(enterprise: &Enterprise, scribe: &mut Scribe<'_>) -> Result<()> {
    let span = scribe.span;
    for year in span.start().year() - 2..span.end().year() {
        let handed_in = add_days(Month::new(year + 1, 1).day(4), scribe.draw.between(0, 176));
        let files = scribe
            .draw
            .chance(960_000 - u32::try_from(enterprise.risk * 150).unwrap_or(0));
        let growth = scribe.draw.normal_q16() / 5;
        let in_reach = handed_in <= span.end() && add_years(handed_in, 1) >= span.start();
        if files && in_reach && enterprise.year() <= year && enterprise.active_on(handed_in) {
            report(enterprise, scribe, year, handed_in, growth)?;
        }
    }
    Ok(())
}

fn report(
    e: &Enterprise,
    scribe: &mut Scribe<'_>,
    year: i32,
    handed_in: NaiveDate,
    growth: i64,
) -> Result<()> {
    let draw = &mut scribe.draw;
    let revenue = scale_exp2(e.sales, growth);
    let turnover = draw.log_normal(100, ONE_Q16 / 2).clamp(30, 400);
    let assets = (revenue / 100 * turnover).max(e.capital.unwrap_or(0).saturating_mul(50));
    let debts = assets / 100 * draw.between(20, 55 + e.risk / 20);
    let profit = revenue / 1000 * (draw.between(-30, 120) - e.risk / 20);
    let tax = revenue / 1000 * draw.between(8, 42);
    let main_business = revenue / 100 * draw.between(82, 100);
    let people = scale_exp2(e.people, growth / 2).max(1);
    let openness = u32::try_from(e.openness).unwrap_or(0) * 10_000;
    let amounts = [
        ("assgro", "assgrodis", assets),
        ("liagro", "liagrodis", debts),
        ("totequ", "totequdis", assets - debts),
        ("vendinc", "vendincdis", revenue),
        ("maibusinc", "maibusincdis", main_business),
        ("progro", "progrodis", profit),
        (
            "netinc",
            "netincdis",
            if profit > 0 {
                profit / 100 * 80
            } else {
                profit
            },
        ),
        ("ratgro", "ratgrodis", tax),
    ];
    let open: [bool; 9] = std::array::from_fn(|_| draw.chance(openness));
    let row = scribe.begin();
    row.text("uscc", e.uscc.as_str());
    row.text("ancheid", &record_number(e, &year.to_string()));
    row.number("ancheyear", i64::from(year));
    row.date("anchedate", Some(handed_in));
    row.text("entname", &e.name);
    row.text("busst", if revenue > 0 { "开业" } else { "歇业" });
    for ((value, flag, fen), open) in amounts.into_iter().zip(open) {
        if value == "vendinc" {
            row.figure(value, fen);
        } else {
            row.amount(value, fen);
        }
        row.flag(flag, open);
    }
    row.number("empnum", people);
    row.flag("empnumdis", open[8]);
    row.text("tel", &e.telephone());
    row.text("email", &format!("contact{}@example.com", e.index));
    row.date("data_time", Some(handed_in));
    scribe.finish(handed_in)
}

/// Why enterprises are listed, and what ends it.
const REASONS: [(&str, &str); 3] = [
    (
        "未依照《企业信息公示暂行条例》第八条规定的期限公示年度报告",
        "已补报未报年份的年度报告并公示，申请移出",
    ),
    (
        "通过登记的住所或者经营场所无法联系",
        "依法办理住所或者经营场所变更登记，申请移出",
    ),
    (
        "公示企业信息隐瞒真实情况、弄虚作假",
        "已更正公示信息，申请移出",
    ),
];

/// Entries into the list of abnormal operation, and how they end.
pub(super) fn abnormal_operation(enterprise: &Enterprise, scribe: &mut Scribe<'_>) -> Result<()> {
    let span = scribe.span;
    let likely = u32::try_from(enterprise.risk * enterprise.risk / 4).unwrap_or(0);
    if !scribe.draw.chance(likely) {
        return Ok(());
    }
    let earliest = add_days(span.start(), -700);
    let listed = add_days(
        earliest,
        scribe.draw.between(0, (span.end() - earliest).num_days()),
    );
    let removed = add_days(listed, scribe.draw.between(40, 500));
    let stays = scribe.draw.chance(300_000) || removed > span.end();
    let (reason, way_out) = REASONS[scribe.draw.weighted([600, 340, 60].into_iter())];
    if !enterprise.active_on(listed) {
        return Ok(());
    }
    let already_removed = !stays && span.file_of(removed) == span.file_of(listed);
    let known = if already_removed { removed } else { listed };
    let office = format!(
        "{}市场监督管理局",
        places::county_of(&enterprise.county).map_or("", |county| county.name)
    );
    let row = scribe.begin();
    row.text("uscc", enterprise.uscc.as_str());
    row.text("busexclist", &record_number(enterprise, "JYYC"));
    row.text("entname", &enterprise.name);
    row.text("specause_cn", reason);
    row.date("abntime", Some(listed));
    row.text("decorg_cn", &office);
    let end = |row: &mut Row<'_>, ended: bool| {
        row.text("remexcpres_cn", if ended { way_out } else { "" });
        row.date("remdate", Some(removed).filter(|_| ended));
        row.text("redecorg_cn", if ended { &office } else { "" });
    };
    end(row, already_removed);
    row.date("data_time", Some(known));
    let remove = |row: &mut Row<'_>| end(row, true);
    let sequel = if stays || already_removed {
        Sequel::None
    } else {
        Sequel::Changed(removed, &remove)
    };
    scribe.finish_with(known, sequel)
}
