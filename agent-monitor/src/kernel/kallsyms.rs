//! Addresses of the kernel's own variables, by name.

use std::fs::File;
use std::io::{BufRead, BufReader};

const KALLSYMS: &str = "/proc/kallsyms";

/// The address of a variable of the kernel itself; `None`: the kernel does not tell (`kptr_restrict`, or built without
/// `CONFIG_KALLSYMS_ALL`).
pub fn address(name: &str) -> Option<u64> {
    address_in(BufReader::new(File::open(KALLSYMS).ok()?), name)
}

/// Lines are `address type name`, of a module's symbol with `[module]` behind.
fn address_in(symbols: impl BufRead, name: &str) -> Option<u64> {
    for line in symbols.split(b'\n') {
        let line = line.ok()?;
        if !line.ends_with(name.as_bytes()) {
            continue;
        }
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split_ascii_whitespace();
        let (address, kind, found) = (words.next()?, words.next()?, words.next()?);
        if found == name && matches!(kind, "b" | "B" | "d" | "D") {
            return u64::from_str_radix(address, 16).ok().filter(|&address| address != 0);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::address_in;

    const SYMBOLS: &str = "ffffffff81000000 T _text\nffffffff82a1c040 d my_rename_lock\n\
                           ffffffff82a1c080 D rename_lock\nffffffffc0001000 d rename_lock\t[other]\n\
                           0000000000000000 d hidden\nffffffff82a1d000 t lock_of_code\n";

    #[test]
    fn only_a_variable_of_the_kernel_is_found() {
        let address = |name| address_in(SYMBOLS.as_bytes(), name);
        assert_eq!(address("rename_lock"), Some(0xffff_ffff_82a1_c080));
        assert_eq!(address("lock"), None);
        assert_eq!(address("hidden"), None);
        assert_eq!(address("lock_of_code"), None);
    }
}
