//! Independent pieces of work on several threads.
//!
//! What the pieces are never depends on the number of threads, so results do not either.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use burn::tensor::Device;
use hybrid_models::is_host;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::HybridError;

/// How many pieces of work a device computes at once.
///
/// A processor takes as many as it has cores, or as `RAYON_NUM_THREADS` allows: cores that each have a
/// piece wait less for each other than cores that share each operation. Other devices use all of
/// themselves for one.
pub(crate) fn threads(device: &Device) -> usize {
    if !is_host(device) {
        return 1;
    }
    let allowed = std::env::var("RAYON_NUM_THREADS").ok();
    let allowed = allowed
        .and_then(|text| text.parse().ok())
        .filter(|n| *n > 0);
    allowed.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Into how many pieces a training batch is divided.
pub(crate) fn pieces(device: &Device) -> usize {
    if is_host(device) { 2 } else { 1 }
}

/// The results of `work` on each item, in the items' order, computed on up to `threads` threads.
///
/// # Errors
/// The first error that a thread met; items that no thread has begun are then left out.
///
/// # Panics
/// If `work` panics.
pub(crate) fn try_map<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<R, HybridError> + Sync,
) -> Result<Vec<R>, HybridError> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let outcomes = Mutex::new(Vec::with_capacity(items.len()));
    let run = || {
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { break };
            let outcome = work(item);
            failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
            let mut outcomes = outcomes
                .lock()
                .expect("no thread panics while it holds this");
            outcomes.push((index, outcome));
        }
    };
    side_by_side(&workers(threads)[..threads], &run);
    let mut outcomes = outcomes
        .into_inner()
        .expect("no thread panics while it holds this");
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Threads that stay, at least so many. Each is a pool of its own, so that what runs on it takes no
/// other thread: products that wait for each other's halves are slower than whole ones.
///
/// # Panics
/// If the system has no more threads.
fn workers(threads: usize) -> Arc<Vec<ThreadPool>> {
    static WORKERS: Mutex<Option<Arc<Vec<ThreadPool>>>> = Mutex::new(None);
    let mut workers = WORKERS
        .lock()
        .expect("no thread panics while it holds this");
    match &*workers {
        Some(workers) if workers.len() >= threads => workers.clone(),
        _ => {
            let pool = |_| {
                let pool = ThreadPoolBuilder::new().num_threads(1);
                pool.start_handler(|_| keep_to_this_thread()).build()
            };
            #[cfg(feature = "tch")]
            // Settles what other threads do, before those of the pools are told otherwise.
            tch::get_num_threads();
            let pools: Result<Vec<_>, _> = (0..threads).map(pool).collect();
            let pools = Arc::new(pools.expect("the system has threads"));
            *workers = Some(pools.clone());
            pools
        }
    }
}

/// Has libtorch divide no operation that this thread asks for; flex keeps to the thread's pool.
fn keep_to_this_thread() {
    #[cfg(feature = "tch")]
    tch::set_num_threads(1);
}

/// Runs `work` on each worker at the same time.
fn side_by_side(workers: &[ThreadPool], work: &(impl Fn() + Sync)) {
    if let [worker, others @ ..] = workers {
        worker.in_place_scope(|scope| {
            scope.spawn(|_| work());
            side_by_side(others, work);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::try_map;
    use crate::HybridError;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..50).collect();
        for threads in [0, 1, 3, 80] {
            let results = try_map(&items, threads, |item| {
                std::thread::sleep(std::time::Duration::from_micros(50 - item));
                Ok(item * item)
            });
            let expected: Vec<u64> = items.iter().map(|item| item * item).collect();
            assert_eq!(results.unwrap(), expected, "{threads} threads");
        }
    }

    #[test]
    fn an_error_ends_the_work() {
        let stop = |item: &usize| match item {
            7 => Err(HybridError::Interrupted {
                run: PathBuf::from("runs/a"),
            }),
            _ => Ok(*item),
        };
        let items: Vec<usize> = (0..20).collect();
        for threads in [1, 4] {
            let error = try_map(&items, threads, stop).unwrap_err();
            assert!(matches!(error, HybridError::Interrupted { .. }), "{error}");
        }
    }
}
