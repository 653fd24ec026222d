//! The threads that a caller lends to calls.

use std::process;
use std::thread::{self, JoinHandle};

use xmc_core::rayon::{ThreadPool, ThreadPoolBuilder};

use crate::arrays::{count, give, handle};
use crate::status::{Failure, Outcome, guard, xmc_status};

const MAX_THREADS: usize = 1024;

/// Threads that calls compute in. Any number of threads may use one pool at the same time.
///
/// The results are the same to the last bit for any number of threads.
///
/// A pool belongs to the process that made it: after fork(), the child gets XMC_STATUS_PARAMETER from
/// calls with an inherited pool, never a hang, and makes its own.
pub struct xmc_pool {
    process: u32,
    pool: ThreadPool,
    threads: Vec<JoinHandle<()>>,
}

impl xmc_pool {
    /// Runs `work` in the pool, which must be one of this process.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
        if self.process != process::id() {
            let message = "pool: made before fork(); its threads are not in this process, make \
                           another with xmc_pool_new";
            return Err(Failure::parameter(message));
        }
        self.pool.install(work)
    }
}

/// Starts `num_threads` threads, 1 to 1024; 0 means one for each available core.
///
/// On success `*pool` is the caller's, to be ended with xmc_pool_free; on failure it is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_pool_new(num_threads: i64, pool: *mut *mut xmc_pool) -> xmc_status {
    guard(|| {
        // SAFETY: `pool` is null or a place for a pointer, as the header demands.
        unsafe { give("pool", pool, || new(num_threads)) }
    })
}

fn new(num_threads: i64) -> Outcome<xmc_pool> {
    let num_threads = count("num_threads", num_threads)?;
    if num_threads > MAX_THREADS {
        let message = format!("num_threads must be in 0..={MAX_THREADS}, not {num_threads}");
        return Err(Failure::parameter(message));
    }
    let mut threads = Vec::new();
    let pool = ThreadPoolBuilder::new()
        .num_threads(match num_threads {
            0 => thread::available_parallelism().map_or(1, Into::into),
            given => given,
        })
        .spawn_handler(|worker| {
            let name = format!("xmc-{}", worker.index());
            threads.push(thread::Builder::new().name(name).spawn(|| worker.run())?);
            Ok(())
        })
        .build()
        .map_err(|error| Failure::new(xmc_status::Io, format!("cannot start threads: {error}")))?;
    Ok(xmc_pool { process: process::id(), pool, threads })
}

/// Ends a pool that no call is using, and waits for its threads, so that the library may be unloaded;
/// null is fine. In a forked child this does nothing: the threads of an inherited pool are not there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xmc_pool_free(pool: *mut xmc_pool) {
    guard(|| {
        // SAFETY: `pool` is null or came from `xmc_pool_new` and is given back once.
        if let Some(pool) = unsafe { handle(pool) } {
            if pool.process != process::id() {
                std::mem::forget(pool);
                return Ok(());
            }
            let xmc_pool { pool, threads, .. } = *pool;
            // Tells the threads to end, which rayon does not wait for.
            drop(pool);
            for thread in threads {
                let panicked = |_| Failure::new(xmc_status::Internal, "a thread has panicked");
                thread.join().map_err(panicked)?;
            }
        }
        Ok(())
    });
}
