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
