//! The percentile distribution of a histogram as text: what HdrHistogram's tools write, and its plotter reads.

use std::fmt::Write;

use hdrhistogram::Histogram;

/// How many rows there are for each halving of what is left to 100 %.
const TICKS_PER_HALVING: u32 = 5;

/// Of latencies in microseconds; the values are written in milliseconds.
pub(crate) fn distribution(latency: &Histogram<u64>) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut seen = 0;
    for step in latency.iter_quantiles(TICKS_PER_HALVING) {
        seen += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let inverse = if quantile < 1.0 { format!("{:14.2}", 1.0 / (1.0 - quantile)) } else { String::new() };
        let row = format!("{:12.3} {quantile:2.12} {seen:10} {inverse}", millis(step.value_iterated_to()));
        let _ = writeln!(text, "{}", row.trim_end());
    }
    let (mean, deviation) = (latency.mean() / 1_000.0, latency.stdev() / 1_000.0);
    let _ = writeln!(text, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    let _ = writeln!(text, "#[Max     = {:12.3}, Total count    = {:12}]", millis(latency.max()), latency.len());
    let _ = writeln!(text, "#[Buckets = {:12}, SubBuckets     = {:12}]", latency.buckets(), 1 << 11);
    text
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::bench::tally::histogram;

    #[test]
    fn rows_rise_to_the_largest_value_and_the_whole_count() {
        let mut latency = histogram();
        for micros in 1..=10_000 {
            latency.record(micros).unwrap();
        }
        let text = distribution(&latency);
        let rows: Vec<Vec<f64>> = text
            .lines()
            .filter(|line| !line.is_empty() && !line.contains("Value") && !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|number| number.parse().unwrap()).collect())
            .collect();
        assert!(rows.len() > 30);
        assert!(rows.windows(2).all(|pair| pair[0].iter().zip(&pair[1]).take(3).all(|(a, b)| a <= b)), "{text}");
        let half = rows.iter().find(|row| row[1] >= 0.5).unwrap();
        assert!((half[0] - 5.0).abs() < 0.05 && (half[2] - 5_000.0).abs() < 50.0, "{half:?}");
        let last = rows.last().unwrap();
        assert!(last.len() == 3 && last[1] >= 1.0 && last[2] >= 10_000.0 && (last[0] - 10.0).abs() < 0.01, "{last:?}");
        assert!(text.contains("Total count    =        10000"));
    }

    #[test]
    fn an_empty_histogram_has_no_rows() {
        assert!(distribution(&histogram()).contains("Total count    =            0"));
    }
}
