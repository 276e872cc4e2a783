//! Records of another build: a hash map whose values may be shorter or longer than this build's struct of them. Used by
//! [`super::transfer`].
//!
//! What must stay true: a record changes its length only at its end (anything else is another version of the records,
//! which is refused before), and zero means for a new field what its absence meant.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use agent_monitor_common::wire::Wire;

use super::syscalls::{MapInfo, map_info, next_key, open_pin, read_value};

/// A pinned hash map of `T`, whatever its length was, by a key of four bytes.
pub struct Records<T> {
    map: OwnedFd,
    info: MapInfo,
    of: PhantomData<T>,
}

impl<T: Wire> Records<T> {
    /// # Errors
    /// When nothing is pinned there, or no map with such keys.
    pub fn open(pin: &Path) -> io::Result<Self> {
        Self::new(open_pin(pin)?)
    }

    fn new(map: OwnedFd) -> io::Result<Self> {
        let info = map_info(map.as_fd())?;
        if info.key_size as usize != size_of::<u32>() {
            let text = format!("its keys have {} bytes, and 4 are meant", info.key_size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Self { map, info, of: PhantomData })
    }

    /// The record of `key`; what it has not is zero.
    pub fn get(&self, key: u32) -> io::Result<Option<T>> {
        let mut bytes = vec![0; (self.info.value_size as usize).max(size_of::<T>())];
        Ok(read_value(self.map.as_fd(), key, &self.info, &mut bytes)?.then(|| T::read_from(&bytes)).flatten())
    }

    /// All of them. What is added or removed meanwhile is in it or not.
    pub fn all(&self) -> io::Result<BTreeMap<u32, T>> {
        let mut found = BTreeMap::new();
        let mut last = None;
        // A key that goes while it is the last one starts the walk again.
        for _ in 0..u64::from(self.info.max_entries) * 4 {
            let Some(key) = next_key(self.map.as_fd(), last.as_ref())? else { return Ok(found) };
            if let Some(record) = self.get(key)? {
                found.insert(key, record);
            }
            last = Some(key);
        }
        Err(io::Error::other("its entries change faster than they can be read"))
    }
}

#[cfg(test)]
mod tests {
    use agent_monitor_common::wire_struct;

    use super::super::syscalls::{create_hash, write_value};
    use super::*;

    wire_struct! {
        pub struct Now: 16 {
            pub first: u32,
            pub second: u32,
            pub added: u64,
        }
    }

    /// `None` where this process may make no maps.
    fn of_length(length: u32) -> Option<Records<Now>> {
        let map = match create_hash(b"records_trial\0\0\0", length, 4) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
            made => made.expect("a map"),
        };
        for (key, byte) in [(7, 1), (9, 2)] {
            write_value(map.as_fd(), key, &vec![byte; length as usize]).expect("an element");
        }
        Some(Records::new(map).expect("a map of records"))
    }

    #[test]
    fn what_a_shorter_record_has_not_is_zero_and_the_end_of_a_longer_one_is_left() {
        for (length, added) in
            [(8, 0), (12, 0x0101_0101), (16, 0x0101_0101_0101_0101), (24, 0x0101_0101_0101_0101)]
        {
            let Some(records) = of_length(length) else { return };
            let first = Now { first: 0x0101_0101, second: 0x0101_0101, added };
            assert_eq!(records.get(7).expect("read"), Some(first), "{length}");
            assert_eq!(records.get(8).expect("read"), None, "{length}");
            let all = records.all().expect("read");
            assert_eq!(all.keys().copied().collect::<Vec<_>>(), [7, 9], "{length}");
            assert_eq!(all[&7], first, "{length}");
        }
    }
}
