//! The enterprises that feeds are about: drawn ([`profile`](Enterprise::draw)) or read from a registry.
//!
//! An enterprise is a handful of latent properties (size, risk, trade abroad, life span) that every feed derives its
//! rows from. That is what makes the joint distribution plausible: sales follow people, tax follows sales, ratings and
//! penalties follow risk, and only those who deal in goods meet customs.

pub(crate) mod names;
pub(crate) mod places;
pub(crate) mod registry;
pub(crate) mod trades;

use chrono::{Datelike, NaiveDate};
use qihui_catalog::{Uscc, UsccError};

use crate::calendar::{LAST, add_days};
use crate::draw::{Draw, ONE_Q16};
use places::{COUNTIES, County, RETIRED};
use trades::{INDUSTRIES, Industry};

/// Purpose of the draws that make a profile.
const PROFILE: u64 = 1;

/// Organisation codes of invented enterprises begin with these letters, far outside what has been issued (letter codes
/// run from `MA` upwards), so that no invented record can fall on a real enterprise.
pub(crate) const SERIAL_PREFIX: &str = "QH";

const SYMBOLS: &[u8; 31] = b"0123456789ABCDEFGHJKLMNPQRTUWXY";
/// 31^6: how many serials there are behind the prefix.
const SERIALS: u64 = 887_503_681;
/// Coprime to 31, so that multiplication permutes the serials.
const SERIAL_STEP: u64 = 412_345_679;

/// Kind of body, the second position of a USCC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// `91`: an enterprise.
    Company,
    /// `92`: an individual trader.
    Trader,
    /// `93`: a farmers' co-operative.
    Cooperative,
}

impl Body {
    const fn symbol(self) -> char {
        match self {
            Self::Company => '1',
            Self::Trader => '2',
            Self::Cooperative => '3',
        }
    }

    fn allows(self, industry: &Industry) -> bool {
        match self {
            Self::Company => true,
            Self::Trader => {
                matches!(
                    industry.code.as_bytes()[0],
                    b'F' | b'H' | b'O' | b'C' | b'G'
                ) && industry.people < 200
            }
            Self::Cooperative => industry.code.starts_with('A'),
        }
    }
}

/// Life stage, with the status code of the registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// K
    Open,
    /// D: licence revoked, not cancelled.
    Revoked,
    /// X
    Cancelling,
    /// Q
    MovingOut,
    /// Z
    Closed,
}

impl Status {
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Open => "K",
            Self::Revoked => "D",
            Self::Cancelling => "X",
            Self::MovingOut => "Q",
            Self::Closed => "Z",
        }
    }
}

/// One enterprise with its latent properties.
#[derive(Debug, Clone)]
pub(crate) struct Enterprise {
    /// Position in the population, from 0.
    pub(crate) index: u64,
    pub(crate) uscc: Uscc,
    pub(crate) name: String,
    pub(crate) address: String,
    /// Its invented legal representative; feeds carry the name, hubs drop it.
    pub(crate) person: String,
    pub(crate) scope: String,
    pub(crate) body: Body,
    pub(crate) industry: &'static Industry,
    /// County of today, six digits.
    pub(crate) county: String,
    pub(crate) established: NaiveDate,
    /// The day it ceased to act, if it did.
    pub(crate) closed: Option<NaiveDate>,
    pub(crate) status: Status,
    /// Registered capital in units of 10^-4 万 (= whole currency units); `None` where the register is silent.
    pub(crate) capital: Option<i64>,
    pub(crate) currency: String,
    pub(crate) foreign: bool,
    pub(crate) people: i64,
    /// Yearly sales, fen.
    pub(crate) sales: i64,
    /// Yearly trade abroad, US cents; 0 for most.
    pub(crate) trade: i64,
    /// Part of that trade which is import, per cent.
    pub(crate) import_share: i64,
    /// 0 (model pupil) to 1000.
    pub(crate) risk: i64,
    /// Willingness to publish the amounts of its annual report, per cent.
    pub(crate) openness: i64,
}

/// What is taken over from a register instead of being drawn.
#[derive(Debug, Clone)]
pub(crate) struct Registered {
    pub(crate) uscc: Uscc,
    pub(crate) name: String,
    pub(crate) established: Option<NaiveDate>,
    pub(crate) capital: Option<i64>,
    pub(crate) currency: String,
    pub(crate) scope: String,
}

impl Enterprise {
    /// Draws enterprise `index` of the population of `seed`.
    pub(crate) fn draw(seed: u64, index: u64) -> Result<Self, UsccError> {
        let mut draw = Draw::new(seed, PROFILE, index);
        let body = match draw.weighted([860, 100, 40].into_iter()) {
            0 => Body::Company,
            1 => Body::Trader,
            _ => Body::Cooperative,
        };
        let industry = draw_industry(&mut draw, body);
        let county = &COUNTIES[draw.weighted(COUNTIES.iter().map(|county| county.weight))];
        let established = draw_established(&mut draw);
        let division = issuing_division(&mut draw, county, established);
        let serial = serial(seed, index);
        let uscc = Uscc::from_parts('9', body.symbol(), &division, &serial).or_else(|_| {
            Uscc::from_parts(
                '9',
                body.symbol(),
                &format!("{}00", &county.code[..4]),
                &serial,
            )
        })?;
        let mut name = String::from(places::name_prefix(county));
        names::trade_name(&mut draw, &mut name);
        let scope = format!(
            "{}。（依法须经批准的项目，经相关部门批准后方可开展经营活动）",
            industry.scope
        );
        let registered = Registered {
            uscc,
            name,
            established: Some(established),
            capital: None,
            currency: String::new(),
            scope,
        };
        let mut enterprise = Self::complete(&mut draw, index, registered, body, industry, county);
        enterprise.name.push_str(industry.word);
        let large = enterprise.people > 300;
        enterprise
            .name
            .push_str(names::legal_form(&mut draw, body, large));
        enterprise.draw_capital(&mut draw);
        enterprise.draw_end(&mut draw);
        Ok(enterprise)
    }

    /// Completes an enterprise of a register; nothing unfavourable is drawn for it.
    pub(crate) fn from_register(seed: u64, index: u64, registered: Registered) -> Self {
        let mut draw = Draw::new(seed, PROFILE, index);
        let body = match registered.uscc.as_str().as_bytes()[1] {
            b'2' => Body::Trader,
            b'3' => Body::Cooperative,
            _ => Body::Company,
        };
        let industry = trades::index_by_name(&registered.name, &registered.scope).map_or_else(
            || draw_industry(&mut draw, body),
            |found| &INDUSTRIES[found],
        );
        let county = places::county_of(registered.uscc.division()).unwrap_or_else(|| {
            let same_city =
                |county: &County| county.code.get(..4) == registered.uscc.division().get(..4);
            let weights = COUNTIES
                .iter()
                .map(|county| if same_city(county) { county.weight } else { 0 });
            &COUNTIES[draw.weighted(weights)]
        });
        let mut enterprise = Self::complete(&mut draw, index, registered, body, industry, county);
        enterprise.risk = enterprise.risk.min(300);
        enterprise
    }

    fn complete(
        draw: &mut Draw,
        index: u64,
        registered: Registered,
        body: Body,
        industry: &'static Industry,
        county: &County,
    ) -> Self {
        let size = draw.normal_q16();
        let small = if body == Body::Trader { 4 } else { 10 };
        let people = crate::draw::scale_exp2(industry.people * small, size * 3 / 2) / 100;
        let people = people.clamp(1, 60_000);
        // 万元 to fen is a factor of 1,000,000.
        let average = people * industry.sales_per_head * 1_000_000;
        let sales = draw
            .log_normal(average, ONE_Q16 * 7 / 10)
            .clamp(0, 90_000_000_000_000);
        let idle = draw.chance(60_000);
        let exporter =
            u64::from(industry.exporter) * u64::try_from(10 + people.min(90)).unwrap_or(10) / 30;
        let abroad = !industry.goods.is_empty()
            && draw.chance(u32::try_from(exporter).unwrap_or(0).min(900_000));
        let share = draw.between(15, 90);
        // Fen to US cents at about 7.1 yuan.
        let trade = if abroad && !idle {
            sales / 100 * share / 71 * 10
        } else {
            0
        };
        let risk = (300 + (180 * draw.normal_q16() - 40 * size) / ONE_Q16).clamp(0, 1000);
        let address = format!(
            "浙江省{}市{}{}",
            places::city(county.code),
            county.name,
            names::road(draw)
        );
        Self {
            index,
            uscc: registered.uscc,
            name: registered.name,
            address,
            person: names::person(draw),
            scope: registered.scope,
            body,
            industry,
            county: county.code.to_owned(),
            established: registered
                .established
                .unwrap_or_else(|| draw_established(draw)),
            closed: None,
            status: Status::Open,
            capital: registered.capital,
            currency: registered.currency,
            foreign: body == Body::Company && draw.chance(30_000),
            people,
            sales: if idle { 0 } else { sales },
            trade,
            import_share: if draw.chance(200_000) {
                draw.between(30, 100)
            } else {
                draw.between(0, 15)
            },
            risk,
            openness: if draw.chance(350_000) {
                draw.between(60, 100)
            } else {
                draw.between(0, 30)
            },
        }
    }

    /// Log-normal by kind of body, pulled towards size, and rounded as people round.
    fn draw_capital(&mut self, draw: &mut Draw) {
        let median = match self.body {
            Body::Company => 100,
            Body::Trader => 8,
            Body::Cooperative => 60,
        };
        let pulled = median * (10 + self.people.min(400)) / 20;
        let wan = draw
            .log_normal(pulled.max(1), ONE_Q16 * 3 / 2)
            .clamp(1, 5_000_000);
        let wan = if draw.chance(930_000) {
            round_as_people_do(wan)
        } else {
            wan
        };
        let odd = if draw.chance(40_000) {
            draw.between(1, 9_999)
        } else {
            0
        };
        self.capital = Some(wan * 10_000 + odd);
        self.currency = if self.foreign {
            String::from(*draw.pick(&["USD", "USD", "HKD", "EUR"]))
        } else {
            "CNY".to_owned()
        };
    }

    fn draw_end(&mut self, draw: &mut Draw) {
        let end = LAST.last_day();
        let age = (end - self.established).num_days();
        let hazard = u32::try_from(40_000 + 150 * self.risk).unwrap_or(0);
        if age < 400 || !draw.chance(hazard) {
            return;
        }
        self.status = match draw.weighted([580, 260, 120, 40].into_iter()) {
            0 => Status::Closed,
            1 => Status::Revoked,
            2 => Status::Cancelling,
            _ => Status::MovingOut,
        };
        self.closed = Some(add_days(end, -draw.between(0, (age - 360).min(2_400))));
    }

    /// Whether it acts on `date`.
    pub(crate) fn active_on(&self, date: NaiveDate) -> bool {
        self.established <= date && self.closed.is_none_or(|closed| date < closed)
    }

    /// Sales above 5 million yuan a year make a general VAT payer, who declares monthly.
    pub(crate) const fn general_taxpayer(&self) -> bool {
        self.sales > 500_000_000
    }

    /// Sales of one month, fen.
    pub(crate) fn monthly_sales(&self, draw: &mut Draw, month: u32) -> i64 {
        let factors = self.industry.season.factors();
        let factor = factors
            .get(month.saturating_sub(1) as usize)
            .copied()
            .unwrap_or(100);
        let average = self.sales / 1200;
        draw.log_normal(average, ONE_Q16 / 5).saturating_mul(factor)
    }

    /// Registration number of 15 digits from before the unified code.
    pub(crate) fn old_number(&self) -> String {
        format!("{}{:09}", self.county, self.index)
    }

    /// Positions 9 to 17 of the code.
    pub(crate) fn organisation_code(&self) -> &str {
        &self.uscc.as_str()[8..17]
    }

    /// Registration with customs: ten digits.
    pub(crate) fn customs_code(&self) -> String {
        format!("{}{:06}", &self.county[..4], self.index % 1_000_000)
    }

    /// What stands for the number of a person's document; no such number exists.
    pub(crate) fn person_number(&self) -> String {
        format!("SYNTHETIC-{:08}", self.index)
    }

    /// A telephone number that cannot be dialled.
    pub(crate) fn telephone(&self) -> String {
        format!("0000-{:08}", self.index)
    }

    pub(crate) fn year(&self) -> i32 {
        self.established.year()
    }
}

/// A valid code that no enterprise of a population has: what a record names that changes its enterprise.
pub(crate) fn spare_code(enterprise: &Enterprise) -> Result<Uscc, UsccError> {
    Uscc::from_parts(
        '9',
        '1',
        "330000",
        &serial(0, SERIALS - 1 - enterprise.index % (SERIALS / 2)).replace(SERIAL_PREFIX, "QX"),
    )
}

fn draw_industry(draw: &mut Draw, body: Body) -> &'static Industry {
    let weights = INDUSTRIES.iter().map(|industry| {
        if body.allows(industry) {
            industry.weight
        } else {
            0
        }
    });
    &INDUSTRIES[draw.weighted(weights)]
}

/// Between 1992 and the middle of the last month, more of them lately.
fn draw_established(draw: &mut Draw) -> NaiveDate {
    let last = LAST.day(15);
    let days = (last - NaiveDate::from_ymd_opt(1992, 1, 1).unwrap_or(last)).num_days();
    let age = draw.between(0, days).min(draw.between(0, days));
    add_days(last, -age)
}

/// The division in a USCC is that of the authority when the code was issued: often the city's, sometimes a retired one.
fn issuing_division(draw: &mut Draw, county: &County, established: NaiveDate) -> String {
    if let Some(old) = RETIRED
        .iter()
        .find(|old| old.successor == county.code && established.year() <= old.until_year)
        && (draw.chance(650_000) || established.year() < county.since_year)
    {
        return old.code.to_owned();
    }
    let city = &county.code[..4];
    match draw.weighted([860, 90, 35, 15].into_iter()) {
        0 => county.code.to_owned(),
        1 => format!("{city}00"),
        2 => format!("{city}01"),
        _ => "330000".to_owned(),
    }
}

/// Eight symbols, different for every index of a seed.
fn serial(seed: u64, index: u64) -> String {
    let mut left = (index % SERIALS * SERIAL_STEP + seed % SERIALS) % SERIALS;
    let mut tail = [b'0'; 6];
    for place in tail.iter_mut().rev() {
        *place = SYMBOLS[usize::try_from(left % 31).unwrap_or(0)];
        left /= 31;
    }
    SERIAL_PREFIX
        .chars()
        .chain(tail.iter().map(|symbol| char::from(*symbol)))
        .collect()
}

/// 1, 2, 3, 5, 6, 8 or 10 times a power of ten, whichever is next below.
fn round_as_people_do(value: i64) -> i64 {
    let mut scale = 1;
    while value / scale >= 10 {
        scale *= 10;
    }
    let lead = value / scale;
    let lead = [8, 6, 5, 3, 2, 1]
        .into_iter()
        .find(|round| *round <= lead)
        .unwrap_or(1);
    lead * scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_code_is_valid_unique_and_outside_what_is_issued() {
        let mut seen = HashSet::new();
        let mut kinds = [0_u32; 3];
        for index in 0..5_000 {
            let enterprise = Enterprise::draw(7, index).expect("a valid code");
            assert_eq!(
                enterprise.uscc.as_str().parse::<Uscc>(),
                Ok(enterprise.uscc)
            );
            assert!(enterprise.organisation_code().starts_with(SERIAL_PREFIX));
            assert!(seen.insert(enterprise.uscc));
            kinds[enterprise.body as usize] += 1;
        }
        assert!((4_150..4_450).contains(&kinds[0]), "{kinds:?}");
        assert!(
            (400..600).contains(&kinds[1]) && (130..270).contains(&kinds[2]),
            "{kinds:?}"
        );
    }

    #[test]
    fn every_county_and_retired_division_can_issue() {
        for code in COUNTIES
            .iter()
            .map(|county| county.code)
            .chain(RETIRED.iter().map(|old| old.code))
        {
            for division in [
                code.to_owned(),
                format!("{}00", &code[..4]),
                format!("{}01", &code[..4]),
            ] {
                assert!(
                    Uscc::from_parts('9', '1', &division, "QH000000").is_ok(),
                    "{division}"
                );
            }
        }
    }

    #[test]
    fn serials_are_a_permutation() {
        assert_ne!(SERIAL_STEP % 31, 0);
        assert_eq!(SERIALS, 31_u64.pow(6));
        assert_eq!(serial(0, 0), "QH000000");
    }

    #[test]
    fn size_drives_what_follows() {
        let population: Vec<_> = (0..4_000)
            .filter_map(|index| Enterprise::draw(3, index).ok())
            .collect();
        let mean = |test: &dyn Fn(&Enterprise) -> bool, of: &dyn Fn(&Enterprise) -> i64| {
            let chosen: Vec<_> = population
                .iter()
                .filter(|enterprise| test(enterprise))
                .map(of)
                .collect();
            chosen.iter().sum::<i64>() / i64::try_from(chosen.len().max(1)).unwrap_or(1)
        };
        let large = |enterprise: &Enterprise| enterprise.people > 50;
        let small = |enterprise: &Enterprise| enterprise.people <= 5;
        for property in [
            |e: &Enterprise| e.sales,
            |e: &Enterprise| e.capital.unwrap_or(0),
            |e: &Enterprise| e.trade,
        ] {
            assert!(mean(&large, &property) > 3 * mean(&small, &property));
        }
        assert!(
            population
                .iter()
                .all(|enterprise| enterprise.trade == 0 || !enterprise.industry.goods.is_empty())
        );
    }

    #[test]
    fn capital_is_round() {
        assert_eq!(round_as_people_do(1), 1);
        assert_eq!(round_as_people_do(97), 80);
        assert_eq!(round_as_people_do(5_412), 5_000);
    }
}
