//! Buffers for writes that bypass the page cache: their first byte is at a multiple of [`ALIGN`] in memory.

/// Alignment in bytes of the memory, the file offset and the length of such writes. It is a multiple of any disk's
/// sector size.
pub const ALIGN: usize = 4096;

/// A growing buffer, which is aligned after [`Self::settled`].
#[derive(Debug, Default)]
pub struct AlignedBuf {
    memory: Vec<u8>,
    /// Index in `memory` of the first byte.
    start: usize,
}

impl AlignedBuf {
    /// Makes a buffer of `len` zeros.
    #[must_use]
    pub fn zeros(len: usize) -> Self {
        let mut zeros = Self { memory: vec![0; len + ALIGN], start: 0 };
        zeros.start = zeros.aligned_start();
        zeros.memory.truncate(zeros.start + len);
        zeros
    }

    /// Empties the buffer, and keeps its memory.
    pub fn clear(&mut self) {
        self.memory.clear();
        self.start = self.aligned_start();
        self.memory.resize(self.start, 0);
    }

    /// Returns the number of bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.memory.len() - self.start
    }

    /// Appends bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.memory.extend_from_slice(bytes);
    }

    /// Truncates the buffer, or appends zeros.
    pub fn resize(&mut self, len: usize) {
        self.memory.resize(self.start + len, 0);
    }

    /// Returns the bytes. They are moved first if the memory was reallocated since they were aligned.
    pub fn settled(&mut self) -> &mut [u8] {
        // Otherwise, making room for the move could reallocate the memory again.
        self.memory.reserve(ALIGN);
        let (from, len, to) = (self.start, self.len(), self.aligned_start());
        if from != to {
            self.memory.resize(from.max(to) + len, 0);
            self.memory.copy_within(from..from + len, to);
            self.memory.truncate(to + len);
            self.start = to;
        }
        &mut self.memory[to..]
    }

    fn aligned_start(&self) -> usize {
        self.memory.as_ptr().addr().wrapping_neg() % ALIGN
    }
}

#[cfg(test)]
mod tests {
    use super::{ALIGN, AlignedBuf};

    #[test]
    fn bytes_are_aligned_however_they_grew() {
        let mut buffer = AlignedBuf::default();
        for round in 0..20_usize {
            buffer.clear();
            let bytes: Vec<u8> = (0..round * 3000).map(|n| n as u8).collect();
            bytes.chunks(700).for_each(|chunk| buffer.extend(chunk));
            buffer.resize(bytes.len() + 1);
            let settled = buffer.settled();
            assert_eq!(settled.as_ptr().addr() % ALIGN, 0);
            assert_eq!(settled, [&bytes[..], &[0]].concat());
        }
        let mut zeros = AlignedBuf::zeros(2 * ALIGN);
        assert_eq!(zeros.settled(), [0; 2 * ALIGN]);
    }
}
