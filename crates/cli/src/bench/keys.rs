//! Which keys a run touches, and how they are written.

use rand::RngExt;
use rand::rngs::SmallRng;
use rand_distr::{Distribution as _, Zipf};

/// The length of every key: a prefix and 14 decimal digits.
pub(crate) const KEY_BYTES: usize = 20;
/// What keys with values begin with.
pub(crate) const VALUE_PREFIX: &str = "bench/";
/// What keys with integers, for bump, begin with: bump refuses a value that is none.
pub(crate) const COUNTER_PREFIX: &str = "bench:";
/// The most keys: as many as 14 digits tell apart.
pub(crate) const KEYS_MAX: u64 = 100_000_000_000_000;

/// The exponent that the YCSB benchmark uses.
const THETA: f64 = 0.99;

/// How often each key is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Distribution {
    /// All alike.
    Uniform,
    /// The key of rank r with a weight of r^-theta: few keys get most requests.
    Zipf { theta: f64 },
}

/// Reads `uniform`, `zipf` or `zipf:THETA`.
pub(crate) fn parse_distribution(text: &str) -> Result<Distribution, String> {
    let (name, theta) = text.split_once(':').map_or((text, None), |(name, theta)| (name, Some(theta)));
    match (name, theta.map_or(Ok(THETA), str::parse::<f64>)) {
        ("uniform", _) if theta.is_none() => Ok(Distribution::Uniform),
        ("zipf", Ok(theta)) if theta > 0.0 && theta <= 10.0 => Ok(Distribution::Zipf { theta }),
        ("zipf", _) => Err("the exponent is a number above 0 and at most 10, as in zipf:0.99".to_owned()),
        _ => Err("uniform, zipf, or zipf:THETA is expected".to_owned()),
    }
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf { theta } => write!(f, "zipf:{theta}"),
        }
    }
}

/// Chooses keys by their numbers, 0 to below the count.
#[derive(Clone, Debug)]
pub(crate) struct Chooser {
    keys: u64,
    zipf: Option<Ranks>,
}

/// The ranks of a Zipf distribution, and where in the order of keys each rank is.
#[derive(Clone, Debug)]
struct Ranks {
    zipf: Zipf<f64>,
    /// Has no divisor in common with the count, so that its multiples pass every key once.
    step: u64,
}

impl Chooser {
    /// `keys` is from 1 to [`KEYS_MAX`].
    pub(crate) fn new(keys: u64, distribution: Distribution) -> Self {
        let zipf = match distribution {
            Distribution::Uniform => None,
            // 14 digits are below the 53 bits that a float holds.
            Distribution::Zipf { theta } => Some(Ranks {
                zipf: Zipf::new(keys as f64, theta).expect("at least one key, and an exponent above 0"),
                step: scattering_step(keys),
            }),
        };
        Self { keys, zipf }
    }

    /// The number of the next key.
    pub(crate) fn choose(&self, random: &mut SmallRng) -> u64 {
        match &self.zipf {
            None => random.random_range(0..self.keys),
            Some(ranks) => {
                let rank = (ranks.zipf.sample(random) as u64).clamp(1, self.keys) - 1;
                // Neighbours in rank would be neighbours in the store, and hot keys would share its pages.
                let scattered = u128::from(rank) * u128::from(ranks.step) % u128::from(self.keys);
                u64::try_from(scattered).expect("below the count of keys")
            }
        }
    }
}

/// The first number from about 0.618 of `keys` on that shares no divisor with it: its multiples are spread evenly.
fn scattering_step(keys: u64) -> u64 {
    let first = keys / 1_000 * 618 + keys % 1_000 * 618 / 1_000;
    (first.max(1)..).find(|step| greatest_common_divisor(*step, keys) == 1).expect("the next prime at the latest")
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Writes the digits of a key, which stand behind its prefix.
pub(crate) fn write_digits(number: u64, out: &mut impl bytes::BufMut) {
    let mut digits = [b'0'; KEY_BYTES - VALUE_PREFIX.len()];
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit += u8::try_from(rest % 10).expect("one digit");
        rest /= 10;
    }
    out.put_slice(&digits);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn keys_have_20_bytes() {
        for prefix in [VALUE_PREFIX, COUNTER_PREFIX] {
            for (number, digits) in
                [(0, "00000000000000"), (12_345, "00000000012345"), (KEYS_MAX - 1, "99999999999999")]
            {
                let mut key = prefix.as_bytes().to_vec();
                write_digits(number, &mut key);
                assert_eq!(key, format!("{prefix}{digits}").as_bytes());
                assert_eq!(key.len(), KEY_BYTES);
            }
        }
    }

    #[test]
    fn distributions_are_read_as_they_are_shown() {
        for (text, distribution) in [
            ("uniform", Distribution::Uniform),
            ("zipf", Distribution::Zipf { theta: 0.99 }),
            ("zipf:1.2", Distribution::Zipf { theta: 1.2 }),
        ] {
            assert_eq!(parse_distribution(text).unwrap(), distribution);
            assert_eq!(parse_distribution(&distribution.to_string()).unwrap(), distribution);
        }
        for refused in ["", "uniform:1", "zipf:", "zipf:0", "zipf:-1", "zipf:nan", "zipf:11", "normal"] {
            assert!(parse_distribution(refused).is_err(), "{refused:?}");
        }
    }

    fn counts(keys: u64, distribution: Distribution, draws: usize) -> Vec<u64> {
        let chooser = Chooser::new(keys, distribution);
        let mut random = SmallRng::seed_from_u64(7);
        let mut counts = vec![0; usize::try_from(keys).unwrap()];
        for _ in 0..draws {
            counts[usize::try_from(chooser.choose(&mut random)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn uniform_chooses_all_keys_alike() {
        let counts = counts(100, Distribution::Uniform, 100_000);
        // 1,000 each with a deviation of about 32.
        assert!(counts.iter().all(|count| (840..1_160).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_has_the_skew_of_its_exponent_and_scatters_hot_keys() {
        let mut counts = counts(1_000, Distribution::Zipf { theta: 0.99 }, 200_000);
        let hottest = counts.iter().enumerate().max_by_key(|(_, count)| **count).unwrap().0;
        let second = counts.iter().enumerate().filter(|(key, _)| *key != hottest).max_by_key(|(_, count)| **count);
        assert!(second.unwrap().0.abs_diff(hottest) > 1);
        counts.sort_unstable_by_key(|count| std::cmp::Reverse(*count));
        let weights: f64 = (1..=1_000).map(|rank| f64::from(rank).powf(-0.99)).sum();
        for rank in [1, 2, 10] {
            let expected = 200_000.0 * f64::from(rank).powf(-0.99) / weights;
            let found = f64::from(u32::try_from(counts[usize::try_from(rank).unwrap() - 1]).unwrap());
            assert!((found / expected - 1.0).abs() < 0.1, "rank {rank}: {found} of {expected}");
        }
    }

    #[test]
    fn every_rank_has_a_key_of_its_own() {
        for keys in [1, 2, 3, 10, 618, 1_000, 10_007] {
            let step = scattering_step(keys);
            let mut seen: Vec<_> = (0..keys).map(|rank| rank * step % keys).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..keys).collect::<Vec<_>>(), "{keys} keys");
        }
    }

    #[test]
    fn a_single_key_is_always_chosen() {
        assert_eq!(counts(1, Distribution::Zipf { theta: 1.0 }, 10), [10]);
        assert_eq!(counts(1, Distribution::Uniform, 10), [10]);
    }
}
