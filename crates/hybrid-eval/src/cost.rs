//! What a result cost: time, tokens, parameters, memory and arithmetic.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Cost of a stage or of a whole run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Wall-clock seconds in all, evaluation included.
    pub wall_s: f64,
    /// Wall-clock seconds of training adapters.
    pub train_s: f64,
    /// Wall-clock seconds of searching prompts.
    pub prompt_s: f64,
    /// Tokens that the base read, padding left out.
    pub tokens: u64,
    /// Trained values.
    pub trainable_parameters: u64,
    /// Values of base and adapter together.
    pub total_parameters: u64,
    /// Largest resident memory of the process in MB (10⁶ bytes), where the system tells.
    pub peak_rss_mb: Option<f64>,
    /// Estimated floating point operations, a multiplication and an addition counted as two.
    pub flops: f64,
}

impl AddAssign for Cost {
    /// Adds what is spent (time, tokens, operations); of sizes and memory the larger stays.
    ///
    /// ```
    /// use hybrid_eval::Cost;
    ///
    /// let mut total = Cost { wall_s: 2.0, trainable_parameters: 10, ..Cost::default() };
    /// total += Cost { wall_s: 3.0, trainable_parameters: 7, ..Cost::default() };
    /// assert_eq!((total.wall_s, total.trainable_parameters), (5.0, 10));
    /// ```
    fn add_assign(&mut self, other: Self) {
        self.wall_s += other.wall_s;
        self.train_s += other.train_s;
        self.prompt_s += other.prompt_s;
        self.tokens += other.tokens;
        self.flops += other.flops;
        self.trainable_parameters = self.trainable_parameters.max(other.trainable_parameters);
        self.total_parameters = self.total_parameters.max(other.total_parameters);
        self.peak_rss_mb = match (self.peak_rss_mb, other.peak_rss_mb) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
    }
}

/// Largest resident memory of this process so far, in MB (10⁶ bytes): `VmHWM` of
/// `/proc/self/status`, and `None` where there is no such file.
pub fn peak_rss_mb() -> Option<f64> {
    high_water_mark(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn high_water_mark(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::{Cost, high_water_mark, peak_rss_mb};

    #[test]
    fn the_high_water_mark_is_read() {
        assert_eq!(
            high_water_mark("Name:\tx\nVmHWM:\t    1000 kB\nVmRSS:\t 1 kB\n"),
            Some(1.024)
        );
        assert_eq!(high_water_mark("Name:\tx\n"), None);
        assert_eq!(high_water_mark("VmHWM:\tmany kB\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_memory() {
        assert!(peak_rss_mb().is_some_and(|mb| mb > 0.5));
    }

    #[test]
    fn memory_keeps_the_larger_known_value() {
        let with = |peak_rss_mb| Cost {
            peak_rss_mb,
            ..Cost::default()
        };
        let mut cost = with(None);
        cost += with(Some(3.0));
        cost += with(Some(2.0));
        cost += with(None);
        assert_eq!(cost.peak_rss_mb, Some(3.0));
    }
}
