//! Customs: declarations of those who deal in goods abroad, and their credit levels.

use chrono::{Datelike, NaiveDate};

use super::Scribe;
use crate::calendar::{Month, add_days};
use crate::error::Result;
use crate::population::trades::Good;
use crate::population::{Enterprise, names, places};

/// Most declarations of one enterprise in one year: positions in a customs number.
const DECLARATIONS_A_YEAR: u32 = 64;
/// Median value of a declaration, US cents.
const DECLARATION_CENTS: i64 = 4_200_000;
/// Most goods lines of a declaration.
const LINES: i64 = 50;

const EXPORT_MARKETS: &[(&str, u32)] = &[
    ("USA", 160),
    ("DEU", 60),
    ("GBR", 40),
    ("NLD", 40),
    ("FRA", 30),
    ("ITA", 30),
    ("JPN", 45),
    ("KOR", 45),
    ("VNM", 50),
    ("IND", 55),
    ("IDN", 40),
    ("THA", 40),
    ("RUS", 55),
    ("BRA", 45),
    ("MEX", 45),
    ("AUS", 30),
];
const IMPORT_SOURCES: &[(&str, u32)] = &[
    ("JPN", 90),
    ("KOR", 90),
    ("DEU", 60),
    ("USA", 60),
    ("AUS", 60),
    ("IDN", 50),
    ("THA", 40),
    ("VNM", 30),
    ("BRA", 40),
    ("ITA", 20),
];

/// One declaration's head.
struct Head {
    number: String,
    import: bool,
    district: &'static str,
    country: &'static str,
    currency: &'static str,
    mode: &'static str,
    levy: &'static str,
    port: &'static str,
    traffic: &'static str,
    terms: &'static str,
    declared: NaiveDate,
    crossed: NaiveDate,
    declarant: String,
}

/// One row per goods line, with the head repeated.
pub(super) fn declaration(enterprise: &Enterprise, scribe: &mut Scribe<'_>) -> Result<()> {
    if enterprise.trade <= 0 {
        return Ok(());
    }
    let mut of_year = (0, 0);
    for month in scribe.span.months() {
        let factors = enterprise.industry.season.factors();
        let factor = factors
            .get(month.number() as usize - 1)
            .copied()
            .unwrap_or(100);
        let cents = enterprise.trade / 1200 * factor;
        let wanted = (cents / DECLARATION_CENTS).min(4);
        let rest =
            u32::try_from(cents % DECLARATION_CENTS * 1_000_000 / DECLARATION_CENTS).unwrap_or(0);
        let count = wanted + i64::from(scribe.draw.chance(rest));
        if of_year.0 != month.year() {
            of_year = (month.year(), 0);
        }
        for _ in 0..count {
            if of_year.1 >= DECLARATIONS_A_YEAR {
                break;
            }
            let head = head(enterprise, scribe, month, of_year.1);
            of_year.1 += 1;
            if enterprise.active_on(head.declared) {
                lines(enterprise, scribe, &head, cents / count)?;
            }
        }
    }
    Ok(())
}

fn head(enterprise: &Enterprise, scribe: &mut Scribe<'_>, month: Month, serial: u32) -> Head {
    let draw = &mut scribe.draw;
    let import = draw.between(1, 100) <= enterprise.import_share;
    let district = places::customs_district(&enterprise.county);
    let markets = if import {
        IMPORT_SOURCES
    } else {
        EXPORT_MARKETS
    };
    let country = markets[draw.weighted(markets.iter().map(|(_, weight)| *weight))].0;
    let euro = matches!(country, "DEU" | "FRA" | "ITA" | "NLD");
    let currency = match draw.weighted([if euro { 300 } else { 30 }, 900, 70].into_iter()) {
        0 => "EUR",
        1 => "USD",
        _ => "CNY",
    };
    let market = enterprise.county == "330782" && !import && draw.chance(600_000);
    let mode = if market {
        "1039"
    } else {
        ["0110", "0615", "0214"][draw.weighted([880, 90, 30].into_iter())]
    };
    let declared = month.day(u32::try_from(draw.between(1, 28)).unwrap_or(1));
    let number = u64::from(DECLARATIONS_A_YEAR) * enterprise.index + u64::from(serial);
    let direction = u8::from(import);
    Head {
        number: format!("{district}{}{direction}{number:09}", month.year()),
        import,
        district,
        country,
        currency,
        mode,
        levy: if mode == "0615" {
            "503"
        } else if mode == "0214" {
            "502"
        } else {
            "101"
        },
        port: ["3101", "3104", "2202", "2248", "2910"]
            [draw.weighted([420, 220, 120, 160, 80].into_iter())],
        traffic: ["2", "5", "4", "3"][draw.weighted([800, 110, 60, 30].into_iter())],
        terms: if import {
            "1"
        } else {
            ["3", "1", "2"][draw.weighted([720, 180, 100].into_iter())]
        },
        declared,
        crossed: if import {
            add_days(declared, -draw.between(0, 3))
        } else {
            declared
        },
        declarant: names::person(draw),
    }
}

/// One goods line.
struct Line {
    number: i64,
    good: &'static Good,
    quantity: i64,
    /// Per unit, in hundredths of a US cent: what the total divided by the quantity gives.
    price: i64,
}

/// What a declaration comes to.
struct Load {
    /// Grams.
    net: i64,
    packages: i64,
}

fn lines(e: &Enterprise, scribe: &mut Scribe<'_>, head: &Head, cents: i64) -> Result<()> {
    let draw = &mut scribe.draw;
    let many = draw.chance(10_000);
    let count = if many {
        draw.between(10, LINES)
    } else {
        draw.between(1, 3)
    };
    let lines: Vec<Line> = (1..=count)
        .map(|number| {
            let good = draw.pick(e.industry.goods);
            let value = draw.log_normal(cents / count, 40_000).max(100);
            let quantity = (value / good.price).max(1);
            Line {
                number,
                good,
                quantity,
                price: value.saturating_mul(100) / quantity,
            }
        })
        .collect();
    let load = Load {
        net: lines
            .iter()
            .map(|line| line.quantity.saturating_mul(line.good.grams))
            .sum(),
        packages: lines
            .iter()
            .map(|line| line.quantity / 24 + 1)
            .sum::<i64>()
            .min(900_000),
    };
    lines
        .iter()
        .try_for_each(|line| write_line(e, scribe, head, line, &load))
}

fn write_line(
    e: &Enterprise,
    scribe: &mut Scribe<'_>,
    head: &Head,
    line: &Line,
    load: &Load,
) -> Result<()> {
    let name: &str = &e.name.chars().take(100).collect::<String>();
    let row = if line.number == 1 {
        scribe.begin()
    } else {
        scribe.go_on()
    };
    row.text("uscc", e.uscc.as_str());
    row.text("entry_id", &head.number);
    row.number("g_no", line.number);
    row.text("pre_entry_id", &head.number[9..]);
    row.text("i_e_flag", if head.import { "I" } else { "E" });
    row.date("i_e_date", Some(head.crossed));
    row.text("i_e_port", head.port);
    row.text("custom_master", head.district);
    row.text("trade_name", name);
    row.text("trade_code", &e.customs_code());
    row.text("owner_code_scc", e.uscc.as_str());
    row.text("owner_name", name);
    row.text("trade_mode", head.mode);
    row.text("cut_mode", head.levy);
    row.text("traf_mode", head.traffic);
    row.text("trans_mode", head.terms);
    row.text("trade_country", head.country);
    row.text("trade_area_code", head.country);
    row.text("wrap_type", "22");
    row.number("pack_no", load.packages);
    row.decimal("gross_wet", load.net + load.net / 12, 3, 0);
    row.decimal("net_wt", load.net, 3, 0);
    row.text(
        "contr_no",
        &format!("{}{}", &head.number[4..8], &head.number[9..]),
    );
    row.text("overseas_consignor_ename", "OVERSEAS TRADING PARTNER");
    row.text("code_ts", line.good.hs);
    row.text("g_name", line.good.name);
    row.number("g_qty", line.quantity);
    row.text("g_unit", line.good.unit);
    row.decimal("first_qty", line.quantity * line.good.grams, 3, 0);
    row.text("first_unit", "035");
    row.decimal("decl_price", line.price, 4, 0);
    row.decimal("decl_total", line.price * line.quantity, 4, 0);
    row.text("trade_curr", head.currency);
    // In messages for exports the two fields change places: origin holds where the goods go.
    row.text("origin_country", head.country);
    row.text("destination_country", "CHN");
    row.text("duty_mode", "1");
    row.text("district_code", &format!("{}9", &e.county[..4]));
    row.text("inputer_name", &head.declarant);
    row.text("typist_no", &e.person_number());
    row.text("declare_name", &head.declarant);
    row.text("dec_bp_no", &e.telephone());
    row.text("partener_id", &e.person_number());
    row.date("data_time", Some(head.declared));
    scribe.finish(head.declared)
}

/// The level that customs gives, renamed when the rules changed on 2021-11-01 and on 2026-04-01.
pub(super) fn credit_rating(enterprise: &Enterprise, scribe: &mut Scribe<'_>) -> Result<()> {
    if enterprise.trade <= 0 {
        return Ok(());
    }
    let reform = Month::new(2026, 4).day(1);
    let span = scribe.span;
    let certified = !scribe.neutral
        && enterprise.people > 150
        && enterprise.risk < 300
        && scribe.draw.chance(500_000);
    let dishonest = !scribe.neutral && enterprise.risk > 800 && scribe.draw.chance(400_000);
    let since = enterprise
        .established
        .max(NaiveDate::from_ymd_opt(2021, 11, 1).unwrap_or(reform));
    let first = add_days(since, scribe.draw.between(10, 200));
    let mut ratings = Vec::new();
    if first < reform {
        ratings.push((
            first,
            if certified {
                "高级认证企业"
            } else if dishonest {
                "失信企业"
            } else {
                "其他企业"
            },
        ));
    }
    let again = reform.max(first);
    let middle = scribe.draw.chance(100_000);
    let level = match (certified, dishonest) {
        (true, _) => "高级认证企业",
        (_, true) => "失信企业",
        _ if middle && !scribe.neutral => "认证企业",
        _ => "常规企业",
    };
    ratings.push((add_days(again, scribe.draw.between(0, 40)), level));
    for (rated, level) in ratings {
        if rated > span.end() || !enterprise.active_on(rated) || rated.year() < 2021 {
            continue;
        }
        let row = scribe.begin();
        row.text("uscc", enterprise.uscc.as_str());
        row.date("rdrq", Some(rated));
        row.text("trade_code", &enterprise.customs_code());
        row.text("entname", &enterprise.name);
        row.text("credit_level", level);
        row.text(
            "custom_master",
            places::customs_district(&enterprise.county),
        );
        row.null("yxqz");
        row.date("data_time", Some(rated));
        scribe.finish(rated)?;
    }
    Ok(())
}
