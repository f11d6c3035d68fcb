//! The machine that measures.

use std::fs;

/// The processor's name as the system gives it.
pub(super) fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut names = text.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    names
        .next()
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Threads that each program may use.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Processor time that other programs may take while one is measured, as a share of all of it.
pub(super) const MOST_FOREIGN: f64 = 0.05;

/// Measures how much of the processors other programs take. Programs suffer differently: threads
/// that spin while they wait for each other, as OpenMP's do, can become several times slower where
/// others lose a little.
#[derive(Debug)]
pub(super) struct Neighbours {
    busy: u64,
    all: u64,
}

impl Neighbours {
    /// Begins now; nothing where the system does not tell.
    pub(super) fn watch() -> Option<Self> {
        let (busy, all) = processor_time(&fs::read_to_string("/proc/stat").ok()?)?;
        Some(Self { busy, all })
    }

    /// The share of processor time since the beginning that neither was idle nor went to a process
    /// and its children, which are still there.
    pub(super) fn share(&self, process: u32) -> Option<f64> {
        let (busy, all) = processor_time(&fs::read_to_string("/proc/stat").ok()?)?;
        let own: u64 = fs::read_dir("/proc")
            .ok()?
            .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok())
            .filter_map(|stat| own_time(&stat, process))
            .sum();
        let foreign = (busy - self.busy).saturating_sub(own);
        Some(foreign as f64 / (all - self.all).max(1) as f64)
    }
}

/// Whether other programs left the processors alone. Where the system does not tell, nobody knows.
pub(super) fn is_quiet(foreign: Option<f64>) -> bool {
    foreign.is_some_and(|share| share <= MOST_FOREIGN)
}

/// Busy and whole processor time in a `/proc/stat`, in ticks over all processors.
fn processor_time(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    // Guests' time is counted under user and nice already.
    let all: u64 = ticks.iter().take(8).sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((all - idle, all))
}

/// The ticks in a `/proc/PID/stat` of a process or of one of its children.
fn own_time(stat: &str, process: u32) -> Option<u64> {
    // The name, in brackets, may hold anything.
    let (start, rest) = stat.rsplit_once(')')?;
    let pid: u32 = start.split_whitespace().next()?.parse().ok()?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let parent: u32 = fields.get(1)?.parse().ok()?;
    let ticks = |place: usize| fields.get(place)?.parse::<u64>().ok();
    (pid == process || parent == process).then_some(ticks(11)? + ticks(12)?)
}

#[cfg(test)]
mod tests {
    use super::{is_quiet, own_time, processor_time};

    #[test]
    fn idle_and_waiting_processors_are_not_busy() {
        let stat = "cpu  10 20 30 400 50 1 2 3 7 0\ncpu0 1 1 1 1\n";
        assert_eq!(processor_time(stat), Some((66, 516)));
        assert_eq!(processor_time("intr 1\n"), None);
    }

    #[test]
    fn what_is_not_known_is_not_quiet() {
        assert!(is_quiet(Some(0.01)));
        assert!(!is_quiet(Some(0.4)) && !is_quiet(None));
    }

    #[test]
    fn a_process_and_its_children_are_its_own() {
        let stat = "70 (a b) c) S 60 1 1 0 -1 0 0 0 0 0 12 5 0 0 20";
        assert_eq!(own_time(stat, 70), Some(17));
        assert_eq!(own_time(stat, 60), Some(17));
        assert_eq!(own_time(stat, 1), None);
    }
}
