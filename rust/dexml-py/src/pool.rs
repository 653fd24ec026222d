//! Thread pools of this process.
//!
//! Never rayon's global pool: its threads do not survive `fork`, and work sent to it by the child
//! would wait for ever.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::{PyResult, pyfunction};
use xmc_core::rayon::{ThreadPool, ThreadPoolBuilder};

const MAX_THREADS: i64 = 1024;
/// Threads that get a pool of themselves, at most: a few kilobytes of each stay when the thread ends.
const MAX_OWN: usize = 64;

/// The pools of one process, by number of threads.
struct Pools {
    process: u32,
    by_threads: BTreeMap<usize, Arc<ThreadPool>>,
}

static POOLS: Mutex<Pools> = Mutex::new(Pools { process: 0, by_threads: BTreeMap::new() });

thread_local! {
    /// Threads of calls that do not say how many, where this thread makes the call.
    static DEFAULT: Cell<Option<usize>> = const { Cell::new(None) };
    /// The pool whose only thread is this one.
    static OWN: OnceCell<Option<Arc<ThreadPool>>> = const { OnceCell::new() };
}

static N_OWN: AtomicUsize = AtomicUsize::new(0);

/// The pool whose only thread is the calling one: a call with one thread then stays where it is,
/// where handing it over and back would take longer than many a search. It survives `fork`, as the
/// thread does. None for threads beyond the first 64.
fn own_pool() -> Option<Arc<ThreadPool>> {
    OWN.with(|own| own.get_or_init(new_own_pool).clone())
}

fn new_own_pool() -> Option<Arc<ThreadPool>> {
    if N_OWN.fetch_add(1, Ordering::Relaxed) >= MAX_OWN {
        N_OWN.store(MAX_OWN, Ordering::Relaxed);
        return None;
    }
    ThreadPoolBuilder::new().num_threads(1).use_current_thread().build().ok().map(Arc::new)
}

/// How many threads the calls of this thread use where they do not say it; None: all cores.
#[pyfunction]
pub(crate) fn default_threads() -> Option<usize> {
    DEFAULT.get()
}

/// Changes it, for this thread alone, and returns what it was.
#[pyfunction]
#[pyo3(signature = (num_threads))]
pub(crate) fn set_default_threads(num_threads: Option<i64>) -> PyResult<Option<usize>> {
    let num_threads = num_threads.map(checked).transpose()?;
    Ok(DEFAULT.replace(num_threads))
}

fn checked(num_threads: i64) -> PyResult<usize> {
    if (1..=MAX_THREADS).contains(&num_threads) {
        return Ok(num_threads as usize);
    }
    let message = format!("num_threads must be in 1..={MAX_THREADS}, not {num_threads}");
    Err(PyValueError::new_err(message))
}

/// The pool with this many threads; None: as many as this thread has as its default, or one for
/// each available core.
///
/// Called with the interpreter attached: `fork` holds the interpreter as well, so that the child
/// never inherits the lock taken.
pub(crate) fn pool(num_threads: Option<i64>) -> PyResult<Arc<ThreadPool>> {
    let num_threads = match num_threads {
        None => DEFAULT.get().unwrap_or_else(available_cores),
        Some(n) => checked(n)?,
    };
    if num_threads == 1
        && let Some(own) = own_pool()
    {
        return Ok(own);
    }
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if pools.process != process {
        // Dropping an inherited pool would wait for threads that this process does not have.
        mem::forget(mem::take(&mut pools.by_threads));
        pools.process = process;
    }
    if let Some(pool) = pools.by_threads.get(&num_threads) {
        return Ok(Arc::clone(pool));
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(num_threads)
        .thread_name(|i| format!("dexml-{i}"))
        .build()
        .map_err(|error| {
            PyRuntimeError::new_err(format!("cannot start {num_threads} threads: {error}"))
        })?;
    let pool = Arc::new(pool);
    pools.by_threads.insert(num_threads, Arc::clone(&pool));
    Ok(pool)
}

fn available_cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| thread::available_parallelism().map_or(1, Into::into))
}
