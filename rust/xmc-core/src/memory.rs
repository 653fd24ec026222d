//! Allocations whose size comes from a header or a caller: they fail with an error, not an abort.

use std::hint::black_box;

use bytemuck::{NoUninit, Zeroable, bytes_of};

use crate::error::{Error, Result};

/// Elements, at most, of a vector that a thread keeps for its next call: a call for a single query would
/// else spend most of its time on fresh memory.
pub(crate) const SPARE: usize = 1 << 20;

/// Reserves space for `n` more elements; fails with an error instead of aborting the process.
pub(crate) fn reserve<T>(vector: &mut Vec<T>, n: usize) -> Result<()> {
    vector.try_reserve(n).map_err(|_| out_of_memory::<T>(n))
}

/// An empty vector with capacity for exactly `n` elements.
pub(crate) fn with_room<T>(n: usize) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(n).map_err(|_| out_of_memory::<T>(n))?;
    Ok(vector)
}

/// `n` zeros, in memory zeroed by the system: pages that are never written cost nothing.
pub(crate) fn zeroed<T: Zeroable>(n: usize) -> Result<Vec<T>> {
    bytemuck::try_zeroed_vec(n).map_err(|()| out_of_memory::<T>(n))
}

/// `n` equal values.
pub(crate) fn filled<T: Copy>(n: usize, value: T) -> Result<Vec<T>> {
    let mut vector = with_room(n)?;
    vector.resize(n, value);
    Ok(vector)
}

/// Bytes that the processor fetches together.
const LINE: usize = 64;

/// Reads a value of each cache line: a few of these then come at the same time, where whoever works
/// through the values would wait for one after the other.
#[inline]
pub(crate) fn touch<T: NoUninit>(items: &[T]) {
    let lines = items.iter().step_by(LINE / size_of::<T>());
    black_box(lines.fold(0u8, |all, item| all ^ bytes_of(item)[0]));
}

/// Collects an iterator of known length.
pub(crate) fn collected<T>(items: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>> {
    let mut vector = with_room(items.len())?;
    vector.extend(items);
    Ok(vector)
}

fn out_of_memory<T>(n: usize) -> Error {
    Error::OutOfMemory { bytes: n.saturating_mul(size_of::<T>()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_an_error() {
        let n = usize::MAX / 16;
        let bytes = n * 8;
        let message = format!("out of memory: {bytes} more bytes are needed");
        assert_eq!(zeroed::<i64>(n).unwrap_err().to_string(), message);
        assert_eq!(filled(n, -1i64).unwrap_err().to_string(), message);
        assert_eq!(with_room::<i64>(n).unwrap_err().to_string(), message);
        assert_eq!(reserve(&mut vec![0i64], n).unwrap_err().to_string(), message);
        let all = zeroed::<u64>(usize::MAX).unwrap_err().to_string();
        assert_eq!(all, format!("out of memory: {} more bytes are needed", usize::MAX));
    }

    #[test]
    fn contents() {
        assert_eq!(zeroed::<u32>(3).unwrap(), [0; 3]);
        assert_eq!(filled(2, 7u8).unwrap(), [7, 7]);
        assert_eq!(collected([1, 2].iter()).unwrap(), [&1, &2]);
        assert!(zeroed::<u32>(0).unwrap().is_empty());
    }
}
