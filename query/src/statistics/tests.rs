//! The rules with worked numbers, and attackers who solve for single enterprises.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use roaring::RoaringBitmap;

use super::rules::{Counts, Enterprises, Measure, Tally, Terms, Withheld, cells, decide};

const TERMS: Terms = Terms {
    min_enterprises: 10,
    p_percent: 10,
};

fn tally(contributions: &[i128]) -> Tally {
    let each = contributions.iter().map(|one| Tally::one(*one));
    each.fold(Tally::default(), Tally::and)
}

/// What was told so far, and of what: a list of one measure, with its groups.
#[derive(Default)]
struct Told(Vec<(usize, Vec<RoaringBitmap>)>);

/// The data: what each enterprise contributes to each measure; the first is the number of its rows.
struct World {
    measures: Vec<Vec<i128>>,
}

impl World {
    fn size(&self) -> usize {
        self.measures[0].len()
    }

    /// Asks one measure of groups, and keeps what is told.
    fn ask(
        &self,
        told: &mut Told,
        measure: usize,
        groups: &[Option<u32>],
        terms: Terms,
    ) -> Vec<Option<Withheld>> {
        let count = groups
            .iter()
            .flatten()
            .max()
            .map_or(0, |last| *last as usize + 1);
        let enterprises = Enterprises {
            numbers: (0..u32::try_from(self.size()).unwrap()).collect(),
            groups: groups.to_vec(),
            rows: self.measures[0].clone(),
        };
        let all: Vec<&RoaringBitmap> = told.0.iter().flat_map(|(_, groups)| groups).collect();
        let of = told.0.iter().filter(|(of, _)| *of == measure);
        let asked = Measure {
            contributions: &self.measures[measure],
            told: of.flat_map(|(_, groups)| groups).collect(),
        };
        let verdicts = decide(&enterprises, count, &all, &[asked], terms);
        let released = (0..count)
            .filter(|group| verdicts[*group].is_none())
            .map(|group| members(groups, group))
            .collect();
        told.0.push((measure, released));
        verdicts
    }
}

fn members(groups: &[Option<u32>], group: usize) -> RoaringBitmap {
    let each = (0..).zip(groups);
    each.filter(|(_, of)| of.is_some_and(|of| of as usize == group))
        .map(|(number, _)| number)
        .collect()
}

#[test]
fn the_p_percent_rule_is_total_less_the_two_largest() {
    // 600 + 300 + 100: the second knows that the first is at most 1000 - 300 = 700, 16.7 % above 600.
    let three = tally(&[600, 300, 100]);
    assert_eq!((three.total, three.largest, three.second), (1000, 600, 300));
    assert!(three.keeps_distance(16) && !three.keeps_distance(17));
    // The rest is exactly p percent: that keeps it.
    assert!(tally(&[1000, 500, 60, 40]).keeps_distance(10));
    assert!(!tally(&[1000, 500, 60, 39]).keeps_distance(10));
    // Two contributors know each other; one is told outright.
    assert!(!tally(&[5, 5]).keeps_distance(1));
    assert!(!tally(&[5]).keeps_distance(1));
    // Negative values count by their size: -600 is as large as 600.
    assert_eq!(tally(&[-600, 300, -100]), three);
}

#[test]
fn enough_have_to_contribute_and_not_only_be_there() {
    assert!(tally(&[7; 10]).keeps(TERMS));
    assert!(!tally(&[7; 9]).keeps(TERMS));
    let mut nine_and_many_nulls = vec![7; 9];
    nine_and_many_nulls.extend([0; 50]);
    assert!(!tally(&nine_and_many_nulls).keeps(TERMS));
    // A sum of zero would tell that every enterprise has zero.
    assert!(!tally(&[0; 50]).keeps(TERMS));
    assert!(tally(&[]).keeps(TERMS), "nothing is told of nobody");
}

#[test]
fn tallies_of_parts_make_that_of_the_whole() {
    let all = [5, -9, 0, 3, 3, 8, -1];
    for cut in 0..all.len() {
        let (left, right) = all.split_at(cut);
        assert_eq!(tally(left).and(tally(right)), tally(&all));
    }
}

#[test]
fn cells_are_the_enterprises_that_are_in_the_same_groups() {
    let told: Vec<RoaringBitmap> = vec![[1, 2, 3].into(), [3, 4].into(), [1, 2, 3].into()];
    let told: Vec<&RoaringBitmap> = told.iter().collect();
    let of = cells(&[1, 2, 3, 4, 5], &told);
    assert_eq!(of[0], of[1]);
    assert!(of[0] != of[2] && of[2] != of[3] && of[0] != of[3]);
    assert!(of[..4].iter().all(Option::is_some));
    assert_eq!(of[4], None);
}

fn groups(of: &[(usize, Option<u32>)]) -> Vec<Option<u32>> {
    of.iter()
        .flat_map(|(times, group)| vec![*group; *times])
        .collect()
}

fn flat(size: usize) -> World {
    let values = (0..size).map(|n| 100 + i128::try_from(n).unwrap());
    World {
        measures: vec![vec![1; size], values.collect()],
    }
}

#[test]
fn too_few_and_dominated_are_told_apart() {
    let mut world = flat(31);
    world.measures[1][30] = 1_000_000;
    let asked = groups(&[(9, Some(0)), (11, Some(1)), (11, Some(2))]);
    let verdicts = world.ask(&mut Told::default(), 1, &asked, TERMS);
    assert_eq!(
        verdicts,
        [Some(Withheld::TooFew), None, Some(Withheld::Dominated)]
    );
    let counts = Counts::of(&verdicts);
    assert_eq!(
        (counts.released, counts.too_few, counts.dominated),
        (1, 1, 1)
    );
}

#[test]
fn a_total_and_all_groups_but_one_do_not_tell_of_the_one() {
    // The total of 40 was told; then groups of 16, 15 and 9: the nine would be the total less both others.
    let world = flat(40);
    let mut told = Told::default();
    assert_eq!(world.ask(&mut told, 1, &[Some(0); 40], TERMS), [None]);
    let asked = groups(&[(16, Some(0)), (15, Some(1)), (9, Some(2))]);
    let verdicts = world.ask(&mut told, 1, &asked, TERMS);
    // The smaller of the two goes with the nine: what is left of the total is 24.
    assert_eq!(
        verdicts,
        [None, Some(Withheld::Differencing), Some(Withheld::TooFew)]
    );
    // In the other order likewise: the total of everybody would tell of the nine.
    let mut told = Told::default();
    let verdicts = world.ask(&mut told, 1, &asked, TERMS);
    assert_eq!(verdicts, [None, None, Some(Withheld::TooFew)]);
    let all = world.ask(&mut told, 1, &[Some(0); 40], TERMS);
    assert_eq!(all, [Some(Withheld::Differencing)]);
    // The 31 in groups together, and each of the groups again, tell nothing new.
    let both = groups(&[(31, Some(0)), (9, None)]);
    assert_eq!(world.ask(&mut told, 1, &both, TERMS), [None]);
    assert_eq!(
        world.ask(&mut told, 1, &asked, TERMS),
        [None, None, Some(Withheld::TooFew)]
    );
}

#[test]
fn one_enterprise_more_or_less_is_withheld() {
    let world = flat(30);
    let mut told = Told::default();
    let twenty = groups(&[(20, Some(0)), (10, None)]);
    assert_eq!(world.ask(&mut told, 1, &twenty, TERMS), [None]);
    for (more, differs) in [
        (19, true),
        (21, true),
        (29, true),
        (30, false),
        (10, false),
        (11, true),
    ] {
        let asked = groups(&[(more, Some(0)), (30 - more, None)]);
        let mut told = Told(told.0.clone());
        let verdict = world.ask(&mut told, 1, &asked, TERMS);
        assert_eq!(verdict == [Some(Withheld::Differencing)], differs, "{more}");
    }
}

/// Three groups, no two of which are nested or differ by few, and yet A + B − C is twice one enterprise.
#[test]
fn a_combination_of_three_groups_is_withheld() {
    // A = {x} ∪ P ∪ Q, B = {x} ∪ R ∪ S, C = P ∪ Q ∪ R ∪ S: (A + B − C) / 2 = x.
    let (x, of) = (0, |from: u32| from..from + 12);
    let set = |ranges: &[std::ops::Range<u32>], with_x: bool| -> Vec<Option<u32>> {
        (0..49_u32)
            .map(|n| {
                let inside = ranges.iter().any(|range| range.contains(&n)) || (with_x && n == x);
                inside.then_some(0)
            })
            .collect()
    };
    let (p, q, r, s) = (of(1), of(13), of(25), of(37));
    let world = flat(49);
    let a = set(&[p.clone(), q.clone()], true);
    let b = set(&[r.clone(), s.clone()], true);
    let c = set(&[p, q, r, s], false);
    // With the threshold alone everything is told, and the attack succeeds.
    let naive: Vec<Vec<bool>> = [&a, &b, &c]
        .map(|set| set.iter().map(Option::is_some).collect())
        .into();
    assert_eq!(determined(&naive, 49), [0]);
    let mut told = Told::default();
    assert_eq!(world.ask(&mut told, 1, &a, TERMS), [None]);
    assert_eq!(
        world.ask(&mut told, 1, &b, TERMS),
        [Some(Withheld::Differencing)]
    );
    assert_eq!(
        world.ask(&mut told, 1, &c, TERMS),
        [Some(Withheld::Differencing)]
    );
}

/// Another measure does not open what differencing closes: that of two sums with a known ratio is an attack as well.
#[test]
fn groups_told_of_one_measure_bind_those_of_another() {
    let mut world = flat(30);
    world
        .measures
        .push(world.measures[1].iter().map(|value| value * 13).collect());
    let mut told = Told::default();
    world.ask(&mut told, 1, &groups(&[(20, Some(0)), (10, None)]), TERMS);
    let verdicts = world.ask(&mut told, 2, &groups(&[(21, Some(0)), (9, None)]), TERMS);
    assert_eq!(verdicts, [Some(Withheld::Differencing)]);
}

/// A cell that was cut by questions about another measure is looked at when its rest becomes a difference.
#[test]
fn what_remains_dominated_is_not_told_by_difference() {
    // Enterprise 0 is as large as 30 others together: with all 40 it is at its distance, with ten it is not.
    let mut world = flat(40);
    world.measures[1][0] = 3000;
    let mut told = Told::default();
    assert_eq!(world.ask(&mut told, 1, &[Some(0); 40], TERMS), [None]);
    let cut = groups(&[(10, Some(0)), (30, Some(1))]);
    assert_eq!(world.ask(&mut told, 0, &cut, TERMS), [None, None]);
    world.measures[1][0] = 30_000;
    let mut told = Told(vec![
        (1, vec![(0..40).collect()]),
        (0, vec![(0..10).collect()]),
    ]);
    let thirty = groups(&[(10, None), (30, Some(0))]);
    assert_eq!(
        world.ask(&mut told, 1, &thirty, TERMS),
        [Some(Withheld::Differencing)]
    );
}

const PRIMES: [u128; 2] = [2_305_843_009_213_693_951, 2_305_843_009_213_693_921];

/// The enterprises whose value is determined by the sums over `sets`: whose unit vector lies in their span.
fn determined(sets: &[Vec<bool>], size: usize) -> Vec<usize> {
    let mut found: Vec<usize> = (0..size).collect();
    for prime in PRIMES {
        let basis = reduced(sets, size, prime);
        found.retain(|enterprise| {
            basis
                .iter()
                .any(|row| (0..size).all(|at| (row[at] != 0) == (at == *enterprise)))
        });
    }
    found
}

/// The reduced row echelon form modulo a prime. A unit vector lies in the span exactly when it is one of its rows.
fn reduced(sets: &[Vec<bool>], size: usize, prime: u128) -> Vec<Vec<u128>> {
    let mut rows: Vec<Vec<u128>> = sets
        .iter()
        .map(|set| set.iter().map(|inside| u128::from(*inside)).collect())
        .collect();
    let mut rank = 0;
    for column in 0..size {
        let Some(pivot) = (rank..rows.len()).find(|row| rows[*row][column] != 0) else {
            continue;
        };
        rows.swap(rank, pivot);
        let inverse = power(rows[rank][column], prime - 2, prime);
        for value in &mut rows[rank] {
            *value = *value * inverse % prime;
        }
        let own = rows[rank].clone();
        for (at, row) in rows.iter_mut().enumerate() {
            if at != rank && row[column] != 0 {
                let factor = prime - row[column];
                for (value, own) in row.iter_mut().zip(&own) {
                    *value = (*value + factor * own) % prime;
                }
            }
        }
        rank += 1;
    }
    rows.truncate(rank);
    rows
}

fn power(mut base: u128, mut exponent: u128, prime: u128) -> u128 {
    let mut result = 1;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * base % prime;
        }
        base = base * base % prime;
        exponent >>= 1;
    }
    result
}

/// An attacker: questions that cut everybody by hidden attributes, differ by single enterprises, nest, and return.
fn questions(rng: &mut StdRng, size: usize, count: usize) -> Vec<(usize, Vec<Option<u32>>)> {
    let mut asked: Vec<(usize, Vec<Option<u32>>)> = Vec::new();
    for _ in 0..count {
        let measure = rng.random_range(0..3);
        let kinds = rng.random_range(1..4_u32);
        let mut groups: Vec<Option<u32>> = match (rng.random_range(0..4), asked.last()) {
            // One enterprise moved, left out or taken in.
            (0 | 1, Some((_, last))) => {
                let mut groups = last.clone();
                for _ in 0..rng.random_range(1..3) {
                    let one = rng.random_range(0..size);
                    groups[one] = rng.random_bool(0.5).then(|| rng.random_range(0..kinds));
                }
                groups
            }
            // Half of each group of an earlier question.
            (2, Some(_)) => {
                let (_, earlier) = &asked[rng.random_range(0..asked.len())];
                let halves = earlier.iter();
                halves
                    .map(|group| group.filter(|_| rng.random_bool(0.5)))
                    .collect()
            }
            _ => {
                let mut order: Vec<usize> = (0..size).collect();
                order.shuffle(rng);
                let mut groups = vec![None; size];
                for (at, one) in order.into_iter().enumerate() {
                    let group = u32::try_from(at).unwrap() * kinds / u32::try_from(size).unwrap();
                    groups[one] = (group < kinds && rng.random_bool(0.95)).then_some(group);
                }
                groups
            }
        };
        if rng.random_bool(0.2) {
            groups = vec![Some(0); size];
        }
        asked.push((measure, groups));
    }
    asked
}

fn world(rng: &mut StdRng, size: usize) -> World {
    let rows = (0..size).map(|_| i128::from(rng.random_range(0..4_u32)));
    let rows: Vec<i128> = rows.collect();
    let value = |rng: &mut StdRng, rows: &i128| match rng.random_range(0..12) {
        _ if *rows == 0 => 0,
        0 => 0,
        1 => rng.random_range(-500..500),
        2 => rng.random_range(0..5_000),
        _ => rng.random_range(50..150),
    };
    let first = rows.iter().map(|rows| value(rng, rows)).collect();
    let second = rows.iter().map(|rows| value(rng, rows)).collect();
    World {
        measures: vec![rows, first, second],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Nobody who puts together everything that was told, of all measures as if they were one, learns the value of one
    /// enterprise, or a sum over fewer than n; and no difference of two groups of a measure is dominated.
    #[test]
    fn stat_1_no_combination_tells_of_few(seed in any::<u64>(), size in 12_usize..48) {
        let mut rng = StdRng::seed_from_u64(seed);
        let terms = Terms { min_enterprises: rng.random_range(2..6), p_percent: rng.random_range(1..40) };
        let world = world(&mut rng, size);
        let mut told = Told::default();
        for (measure, groups) in questions(&mut rng, size, 14) {
            world.ask(&mut told, measure, &groups, terms);
        }
        let sets: Vec<&RoaringBitmap> = told.0.iter().flat_map(|(_, groups)| groups).collect();
        let as_rows: Vec<Vec<bool>> = sets
            .iter()
            .map(|set| (0..size).map(|n| set.contains(u32::try_from(n).unwrap())).collect())
            .collect();
        prop_assert_eq!(determined(&as_rows, size), Vec::<usize>::new());
        // Whatever vector somebody derives: with values only where there are rows, it has none or n of these.
        for row in reduced(&as_rows, size, PRIMES[0]) {
            let support = (0..size).filter(|at| row[*at] != 0 && world.measures[0][*at] > 0).count();
            prop_assert!(support == 0 || support as u64 >= terms.min_enterprises);
        }
        // More than that: whoever is in the same groups cannot be told apart, and there are enough of them everywhere.
        let mut alike: BTreeMap<Vec<bool>, u64> = BTreeMap::new();
        for at in 0..size {
            let of: Vec<bool> = as_rows.iter().map(|row| row[at]).collect();
            *alike.entry(of).or_default() += u64::from(world.measures[0][at] > 0);
        }
        prop_assert!(alike.iter().all(|(of, count)| !of.contains(&true) || *count >= terms.min_enterprises));
        pairs_keep(&world, &told, terms)?;
    }

    /// The same questions in the same order get the same answers, whatever else an enterprise outside of them has.
    #[test]
    fn stat_2_answers_are_a_function_of_what_they_are_about(seed in any::<u64>(), size in 12_usize..40) {
        let mut rng = StdRng::seed_from_u64(seed);
        let terms = Terms { min_enterprises: 3, p_percent: 10 };
        let mut world = world(&mut rng, size);
        let asked = questions(&mut rng, size, 6);
        let answers = |world: &World| {
            let mut told = Told::default();
            let verdicts: Vec<_> = asked
                .iter()
                .map(|(measure, groups)| world.ask(&mut told, *measure, groups, terms))
                .collect();
            verdicts
        };
        let first = answers(&world);
        prop_assert_eq!(&first, &answers(&world));
        // Who is in no group of any question changes nothing.
        let outside = (0..size).filter(|at| asked.iter().all(|(_, groups)| groups[*at].is_none()));
        for at in outside.collect::<Vec<_>>() {
            for measure in &mut world.measures {
                measure[at] = 1_000_000;
            }
        }
        prop_assert_eq!(&first, &answers(&world));
    }
}

fn cases() -> u32 {
    let set = std::env::var("QIHUI_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    set.unwrap_or(400)
}

/// Every two groups of a measure, and what each has and the other has not.
fn pairs_keep(world: &World, told: &Told, terms: Terms) -> Result<(), TestCaseError> {
    let mut of: BTreeMap<usize, Vec<&RoaringBitmap>> = BTreeMap::new();
    for (measure, groups) in &told.0 {
        of.entry(*measure).or_default().extend(groups);
    }
    for (measure, groups) in of {
        let sum = |set: &RoaringBitmap| {
            let each = set.iter().map(|n| world.measures[measure][n as usize]);
            tally(&each.collect::<Vec<_>>())
        };
        for a in &groups {
            for b in &groups {
                for derived in [*a - *b, *a & *b, (*a).clone()] {
                    let derived = sum(&derived);
                    prop_assert!(derived.keeps(terms), "{derived:?} of measure {measure}");
                }
            }
        }
    }
    Ok(())
}

/// The attack is one: where only the threshold is kept, attackers of the same kind do find values.
#[test]
fn the_threshold_alone_does_not_stop_the_attackers() {
    let mut successes = 0;
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let size = 24;
        let sets: Vec<Vec<bool>> = questions(&mut rng, size, 14)
            .into_iter()
            .flat_map(|(_, groups)| {
                let kinds = groups.iter().flatten().max().map_or(0, |last| last + 1);
                (0..kinds)
                    .map(|kind| {
                        groups
                            .iter()
                            .map(|group| *group == Some(kind))
                            .collect::<Vec<_>>()
                    })
                    .filter(|set| set.iter().filter(|inside| **inside).count() >= 5)
                    .collect::<Vec<_>>()
            })
            .collect();
        successes += usize::from(!determined(&sets, size).is_empty());
    }
    assert!(successes > 20, "{successes} of 40");
}

/// What keeps attackers out lets questions through: about half of those that a fresh world could answer, and cells are
/// cut more than once.
#[test]
fn the_rules_leave_something_to_tell() {
    let (mut released, mut asked) = (0, 0);
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let terms = Terms {
            min_enterprises: 3,
            p_percent: 10,
        };
        let world = world(&mut rng, 48);
        let mut told = Told::default();
        for (measure, groups) in questions(&mut rng, 48, 8) {
            let verdicts = world.ask(&mut told, measure, &groups, terms);
            asked += verdicts.len();
            released += verdicts.iter().filter(|verdict| verdict.is_none()).count();
        }
    }
    assert!(released * 4 > asked, "{released} of {asked}");
}
