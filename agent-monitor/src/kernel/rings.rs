//! Reading a ring buffer.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};

/// One ring's consumer end; `poll` its descriptor for input, then [`RingReader::drain`] it.
pub struct RingReader {
    ring: RingBuf<MapData>,
}

impl RingReader {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        RingReader { ring }
    }

    /// Hands every record that is there to `f`, at most `limit`; how many there were.
    pub fn drain(&mut self, limit: usize, mut f: impl FnMut(&[u8])) -> usize {
        let mut n = 0;
        while n < limit {
            let Some(record) = self.ring.next() else { break };
            f(&record);
            n += 1;
        }
        n
    }
}

impl AsFd for RingReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
