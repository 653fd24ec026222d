//! What functions return, and the message behind it.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use xmc_core::Error;

/// What a function returns. Numbers do not change their meaning; later versions may add some.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum xmc_status {
    /// The call did what it says.
    Ok = 0,
    /// The operating system refused: a file, or a thread.
    Io = 1,
    /// Bad content of a file or an array; the message names the line or the row.
    Content = 2,
    /// A bad argument: a null pointer, a wrong length, an unknown name, a number out of range.
    Parameter = 3,
    /// The metric has no value: there are no rows to average over, or its denominator is 0.
    Undefined = 4,
    /// The system has no memory for a file or a result. A failing allocation elsewhere ends the
    /// process, as in any Rust program.
    Memory = 5,
    /// A fault of this library; please report the message.
    Internal = 6,
}

/// A status that is not `Ok`, with its message.
pub(crate) struct Failure {
    status: xmc_status,
    message: String,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(status: xmc_status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn parameter(message: impl Into<String>) -> Self {
        Self::new(xmc_status::Parameter, message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::OutOfMemory => {
                xmc_status::Memory
            }
            Error::Io { .. } => xmc_status::Io,
            Error::OutOfMemory { .. } => xmc_status::Memory,
            Error::Content { .. }
            | Error::Damaged { .. }
            | Error::Window { .. }
            | Error::Archive { .. } => xmc_status::Content,
            Error::NoRows | Error::ZeroDenominator { .. } => xmc_status::Undefined,
            _ => xmc_status::Parameter,
        };
        Self::new(status, error.to_string())
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs the body of a function: no panic leaves it, and a failure leaves its message.
pub(crate) fn guard(body: impl FnOnce() -> Outcome) -> xmc_status {
    // A panic inside may leave half-written results in the caller's buffers, and those only:
    // evaluators commit an update when it has succeeded.
    let outcome = catch_unwind(AssertUnwindSafe(body));
    let failure = match outcome {
        Ok(Ok(())) => return xmc_status::Ok,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::new(xmc_status::Internal, panic_message(payload.as_ref())),
    };
    let message = CString::new(failure.message.replace('\0', "\\0")).unwrap_or_default();
    // A thread that is ending may have lost the place of its message already.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = message);
    failure.status
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("internal error: {}", text.unwrap_or("no message"))
}

/// The message of the last call of this thread that failed: UTF-8, one line, never null.
///
/// The library owns the text; it is valid until the next call on the same thread, and empty before the
/// first failure. A call that succeeds does not clear it: look at the status first.
#[unsafe(no_mangle)]
pub extern "C" fn xmc_last_error() -> *const c_char {
    const GONE: &CStr = c"";
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(GONE.as_ptr())
}

/// The version of the library, such as "0.1.0". The text lives as long as the program.
#[unsafe(no_mangle)]
pub extern "C" fn xmc_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_error() -> String {
        // SAFETY: the text is nul-terminated and stays until the next call on this thread.
        unsafe { CStr::from_ptr(xmc_last_error()) }.to_string_lossy().into_owned()
    }

    #[test]
    fn a_panic_becomes_a_status() {
        std::panic::set_hook(Box::new(|_| {}));
        assert_eq!(guard(|| panic!("a fault")), xmc_status::Internal);
        let _ = std::panic::take_hook();
        assert_eq!(last_error(), "internal error: a fault");
        assert_eq!(guard(|| Ok(())), xmc_status::Ok);
        assert_eq!(last_error(), "internal error: a fault", "success leaves the message");
    }

    #[test]
    fn messages_belong_to_threads_and_hold_no_nul() {
        assert_eq!(guard(|| Err(Failure::parameter("a\0b"))), xmc_status::Parameter);
        assert_eq!(last_error(), "a\\0b");
        let other = std::thread::spawn(last_error).join();
        assert_eq!(other.ok().as_deref(), Some(""));
    }

    #[test]
    fn errors_have_their_status() {
        let io = |kind: std::io::ErrorKind| Error::Io { path: "p".into(), source: kind.into() };
        for (error, status) in [
            (io(std::io::ErrorKind::NotFound), xmc_status::Io),
            (io(std::io::ErrorKind::OutOfMemory), xmc_status::Memory),
            (Error::NoRows, xmc_status::Undefined),
            (Error::EmptyIndptr { name: "m".into() }, xmc_status::Parameter),
        ] {
            assert_eq!(Failure::from(error).status, status);
        }
    }
}
