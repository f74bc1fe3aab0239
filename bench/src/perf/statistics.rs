//! What can be said about samples: median and spread of one series, and the ratio of two with the interval it lies in.
//! A ratio that the noise leaves open is refused, not printed.

use std::fmt;

/// Fewer samples say nothing about their own spread.
pub const LEAST_SAMPLES: usize = 3;
/// An interval wider than this fraction of the ratio itself is noise: the reader could conclude anything from it.
pub const WIDEST: f64 = 0.5;
/// Of the resamples, so many lie inside the interval.
const CONFIDENCE: f64 = 0.95;
/// Resamples: the ends of the interval then repeat to well below a percent.
const RESAMPLES: usize = 4000;
/// The same samples give the same interval each time.
const SEED: u64 = 0x5e_1c15_0b00_7574;

/// Median and extremes of one series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The lowest sample.
    pub lowest: f64,
    /// The highest sample.
    pub highest: f64,
}

impl Summary {
    /// Of these samples; `None` of none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        Some(Self { median: middle(&sorted)?, lowest: *sorted.first()?, highest: *sorted.last()? })
    }
}

/// Why a ratio is not told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refusal {
    /// There are too few samples.
    TooFew,
    /// There is nothing to divide by.
    Zero,
    /// The interval is so wide, as a fraction of the ratio.
    Noise(f64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew => write!(f, "fewer than {LEAST_SAMPLES} samples"),
            Self::Zero => f.write_str("a median of 0"),
            Self::Noise(width) => write!(f, "noise too large (±{:.0} %)", width * 50.0),
        }
    }
}

/// Median over median, and the interval in which it lies with 95 % of the resamples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The ratio of the medians.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// The share of resamples in which it is below 1.
    pub below_one: f64,
}

/// How two series are resampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// Samples of one index with each other: they were measured in turn, and saw the same machine.
    Together,
    /// Each series for itself.
    Apart,
}

/// The median of `a` over the median of `b`, however wide its interval.
///
/// # Errors
/// With too few samples, or nothing to divide by.
pub fn interval(a: &[f64], b: &[f64], drawn: Drawn) -> Result<Ratio, Refusal> {
    if a.len().min(b.len()) < LEAST_SAMPLES {
        return Err(Refusal::TooFew);
    }
    let median = |samples: &[f64]| middle(&sorted(samples)).unwrap_or_default();
    if median(b) == 0.0 {
        return Err(Refusal::Zero);
    }
    let mut random = SplitMix(SEED);
    let mut ratios: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let of_a = random.indices(a.len());
            let of_b = match drawn {
                Drawn::Together => of_a.clone(),
                Drawn::Apart => random.indices(b.len()),
            };
            let pick = |from: &[f64], indices: &[usize]| {
                median(&indices.iter().filter_map(|index| from.get(*index).copied()).collect::<Vec<_>>())
            };
            let (above, below) = (pick(a, &of_a), pick(b, &of_b));
            if below == 0.0 { f64::INFINITY } else { above / below }
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (share * (RESAMPLES - 1) as f64).round() as usize;
        ratios.get(index).copied().unwrap_or(f64::INFINITY)
    };
    let below_one = ratios.partition_point(|ratio| *ratio < 1.0) as f64 / RESAMPLES as f64;
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Ok(Ratio { value: median(a) / median(b), low: at(tail), high: at(1.0 - tail), below_one })
}

/// The same for two contenders of one run, refused where the interval is wider than [`WIDEST`]. Series of one length were
/// measured in turn.
///
/// # Errors
/// Says why there is none.
pub fn ratio(a: &[f64], b: &[f64]) -> Result<Ratio, Refusal> {
    let drawn = if a.len() == b.len() { Drawn::Together } else { Drawn::Apart };
    let ratio = interval(a, b, drawn)?;
    let width = (ratio.high - ratio.low) / ratio.value;
    // Written so that what is no number is refused as well.
    if width <= WIDEST { Ok(ratio) } else { Err(Refusal::Noise(width)) }
}

/// A share of the samples, 0 to 1, lies at or below this one; `None` of none.
pub fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let sorted = sorted(samples);
    let index = (share.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64).ceil() as usize;
    sorted.get(index).copied()
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    match sorted.len() % 2 {
        1 => Some(upper),
        _ => sorted.get(half - 1).map(|lower| f64::midpoint(*lower, upper)),
    }
}

/// SplitMix64: draws that need to be even and repeatable, and no secret.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// As many indices below `count`, with repetition.
    fn indices(&mut self, count: usize) -> Vec<usize> {
        (0..count).map(|_| ((u128::from(self.next()) * count as u128) >> 64) as usize).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_extremes() {
        assert_eq!(Summary::of(&[]), None);
        let summary = Summary { median: 2.5, lowest: 1.0, highest: 9.0 };
        assert_eq!(Summary::of(&[9.0, 1.0, 3.0, 2.0]), Some(summary));
        assert_eq!(Summary::of(&[4.0, 1.0, 9.0]).map(|summary| summary.median), Some(4.0));
    }

    #[test]
    fn quantiles_take_a_sample_that_was_there() {
        let samples: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&samples, 0.5), Some(51.0));
        assert_eq!(quantile(&samples, 0.99), Some(100.0));
        assert_eq!(quantile(&samples, 0.0), Some(1.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn steady_series_give_a_narrow_ratio() {
        let (a, b) = ([200.0, 202.0, 198.0, 201.0, 199.0], [100.0, 101.0, 99.0, 100.0, 100.0]);
        let ratio = ratio(&a, &b).expect("steady");
        assert!((ratio.value - 2.0).abs() < 1e-9);
        assert!(ratio.low > 1.9 && ratio.low <= 2.0 && ratio.high >= 2.0 && ratio.high < 2.1, "{ratio:?}");
        assert_eq!(ratio.below_one, 0.0);
    }

    #[test]
    fn noise_is_refused() {
        let wild = [10.0, 200.0, 40.0, 900.0, 3.0];
        assert!(matches!(ratio(&wild, &[100.0, 90.0, 110.0, 95.0, 105.0]), Err(Refusal::Noise(_))));
    }

    #[test]
    fn what_varies_together_does_not_widen_the_ratio() {
        // The machine became slower and slower, for both.
        let b = [100.0, 90.0, 80.0, 70.0, 60.0];
        let a = b.map(|sample| sample * 3.0);
        let ratio = ratio(&a, &b).expect("measured in turn");
        assert!((ratio.low - 3.0).abs() < 1e-9 && (ratio.high - 3.0).abs() < 1e-9, "{ratio:?}");
        // The same samples in series of unlike length see nothing of it.
        let apart = super::ratio(&a, &[100.0, 90.0, 80.0, 70.0, 60.0, 80.0]);
        assert!(matches!(apart, Err(Refusal::Noise(_))), "{apart:?}");
    }

    #[test]
    fn too_little_is_refused() {
        assert_eq!(ratio(&[1.0, 2.0], &[1.0, 2.0, 3.0]), Err(Refusal::TooFew));
        assert_eq!(ratio(&[1.0, 2.0, 3.0], &[0.0, 0.0, 0.0]), Err(Refusal::Zero));
    }

    #[test]
    fn an_interval_repeats() {
        let (a, b) = ([10.0, 11.0, 12.0, 13.0], [7.0, 8.0, 9.0]);
        assert_eq!(interval(&a, &b, Drawn::Apart), interval(&a, &b, Drawn::Apart));
    }
}
