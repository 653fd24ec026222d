//! The steps of every call: arrays are borrowed (`arrays`), the pool is looked up, the interpreter
//! is left while Rust computes, and errors become exceptions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyOSError, PyValueError};
use pyo3::{PyErr, PyResult, Python};
use xmc_core::{Error, Result};

use crate::pool::pool;

/// How often a long call looks for Ctrl-C.
const POLL: Duration = Duration::from_millis(50);

/// Computes on this thread, without the interpreter.
pub(crate) fn detached<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    py.detach(work).map_err(exception)
}

/// Computes in the pool with `num_threads` threads, without the interpreter.
pub(crate) fn in_pool<T: Send>(
    py: Python<'_>,
    num_threads: Option<i64>,
    work: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    let pool = pool(num_threads)?;
    detached(py, || pool.install(work))
}

/// As [`in_pool`], for calls long enough to be interrupted: `work` is given a function that turns
/// false when a signal handler has raised.
pub(crate) fn interruptible<T: Send>(
    py: Python<'_>,
    num_threads: Option<i64>,
    work: impl FnOnce(&(dyn Fn() -> bool + Sync)) -> Result<T> + Send,
) -> PyResult<T> {
    let pool = pool(num_threads)?;
    if pool.current_thread_index().is_some() {
        return detached_here(py, |keep_going| pool.install(|| work(keep_going)));
    }
    let stop = AtomicBool::new(false);
    let keep_going = || !stop.load(Ordering::Relaxed);
    let mut raised = None;
    let result = py.detach(|| {
        let (sender, receiver) = mpsc::sync_channel(1);
        pool.in_place_scope(|scope| {
            let keep_going = &keep_going;
            scope.spawn(move |_| drop(sender.send(work(keep_going))));
            loop {
                match receiver.recv_timeout(POLL) {
                    Ok(result) => return result,
                    Err(RecvTimeoutError::Disconnected) => return Err(Error::Interrupted),
                    Err(RecvTimeoutError::Timeout) if raised.is_none() => {
                        raised = Python::attach(|py| -> PyResult<()> { py.check_signals() }).err();
                        stop.store(raised.is_some(), Ordering::Relaxed);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                }
            }
        })
    });
    raised.map_or_else(|| result.map_err(exception), Err)
}

/// As [`interruptible`], where this thread itself does the work: it looks for Ctrl-C when it is asked
/// whether to go on.
fn detached_here<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&(dyn Fn() -> bool + Sync)) -> Result<T> + Send,
) -> PyResult<T> {
    let (looked, raised) = (Mutex::new(Instant::now()), Mutex::new(None));
    let keep_going = || {
        let mut looked = looked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut raised = raised.lock().unwrap_or_else(PoisonError::into_inner);
        if raised.is_none() && looked.elapsed() >= POLL {
            *raised = Python::attach(|py| -> PyResult<()> { py.check_signals() }).err();
            *looked = Instant::now();
        }
        raised.is_none()
    };
    let result = py.detach(|| work(&keep_going));
    let raised = raised.into_inner().unwrap_or_else(PoisonError::into_inner);
    raised.map_or_else(|| result.map_err(exception), Err)
}

/// The exception of an error: io errors keep their class, all about content is a `ValueError`.
pub(crate) fn exception(error: Error) -> PyErr {
    match error {
        Error::Io { path, source } => match source.raw_os_error() {
            // Called with an error number, OSError picks its subclass by itself.
            Some(code) => {
                let text = source.to_string();
                let reason = text.split(" (os error").next().unwrap_or_default().to_owned();
                PyOSError::new_err((code, reason, path.into_os_string()))
            }
            None => PyOSError::new_err(format!("{}: {source}", path.display())),
        },
        Error::OutOfMemory { .. } => PyMemoryError::new_err(error.to_string()),
        Error::Interrupted => PyKeyboardInterrupt::new_err(()),
        error => PyValueError::new_err(error.to_string()),
    }
}

/// A number from Python that counts something.
pub(crate) fn count(name: &str, number: i64) -> PyResult<usize> {
    usize::try_from(number)
        .map_err(|_| PyValueError::new_err(format!("{name} must not be negative, not {number}")))
}
