//! A set of labels in one bit each, cleared label by label.

/// Marks labels of one row at a time; `L / 8` bytes.
pub(crate) struct Bitmap(Vec<u64>);

impl Bitmap {
    pub(crate) fn new(n_labels: usize) -> Self {
        Self(vec![0; n_labels.div_ceil(64)])
    }

    /// Adds a label; false if it was there already.
    #[inline]
    pub(crate) fn insert(&mut self, label: i32) -> bool {
        let (word, bit) = place(label);
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }

    #[inline]
    pub(crate) fn contains(&self, label: i32) -> bool {
        let (word, bit) = place(label);
        self.0[word] & bit != 0
    }

    #[inline]
    pub(crate) fn remove(&mut self, label: i32) {
        let (word, bit) = place(label);
        self.0[word] &= !bit;
    }
}

#[inline]
fn place(label: i32) -> (usize, u64) {
    (label as usize / 64, 1 << (label as usize % 64))
}
