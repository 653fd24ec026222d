//! Strings numbered in the order in which they come, kept in one buffer.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::error::{Error, Result};
use crate::memory::reserve;

/// Different strings and their numbers. A string takes its bytes, 8 more for its end, and 5 to 10
/// for its slot in the hash table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interner {
    bytes: String,
    ends: Vec<usize>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Interner {
    /// An empty one with a given hash function.
    pub(crate) fn with_hasher(hasher: DefaultHashBuilder) -> Self {
        Self { hasher, ..Self::default() }
    }

    /// An empty one with room for `n` strings of `n_bytes` together.
    pub(crate) fn with_room(n: usize, n_bytes: usize) -> Result<Self> {
        let mut empty = Self::default();
        let out_of_memory = Error::OutOfMemory { bytes: n_bytes };
        if empty.table.try_reserve(n, |_| 0).is_err() || empty.bytes.try_reserve(n_bytes).is_err() {
            return Err(out_of_memory);
        }
        reserve(&mut empty.ends, n)?;
        Ok(empty)
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn hash(&self, text: &str) -> u64 {
        self.hasher.hash_one(text)
    }

    /// The string with a number.
    pub(crate) fn text(&self, id: u32) -> &str {
        let at = id as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }

    /// The number of a string.
    pub(crate) fn get(&self, text: &str) -> Option<u32> {
        self.table.find(self.hash(text), |&id| self.text(id) == text).copied()
    }

    /// The number of a string, a new one if the string is new.
    pub(crate) fn insert(&mut self, text: &str, hash: u64) -> Result<u32> {
        if let Some(&id) = self.table.find(hash, |&id| self.text(id) == text) {
            return Ok(id);
        }
        let Ok(id) = u32::try_from(self.ends.len()) else {
            let (name, rule) = ("tokens", "must be fewer than 2^32");
            return Err(Error::Parameter { name, rule, value: self.ends.len().to_string() });
        };
        let out_of_memory = Error::OutOfMemory { bytes: text.len() };
        let Self { bytes, ends, table, hasher } = self;
        let text_of = |id: u32| {
            let at = id as usize;
            let start = if at == 0 { 0 } else { ends[at - 1] };
            &bytes[start..ends[at]]
        };
        let reserved = table.try_reserve(1, |&id| hasher.hash_one(text_of(id)));
        if reserved.is_err() || bytes.try_reserve(text.len()).is_err() {
            return Err(out_of_memory);
        }
        if ends.try_reserve(1).is_err() {
            return Err(out_of_memory);
        }
        bytes.push_str(text);
        ends.push(bytes.len());
        // There is room, so the table does not grow and does not hash again.
        table.insert_unique(hash, id, |_| 0);
        Ok(id)
    }
}
