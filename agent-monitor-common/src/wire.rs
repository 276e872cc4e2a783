//! Reading and writing `repr(C)` integer structs as bytes, for map values, ring-buffer records and test-run buffers.

/// A `repr(C)` struct of integers and byte arrays without implicit padding: every bit pattern is a value of it.
///
/// # Safety
/// The implementor has no padding, no pointers, no `bool`, no enum, and is `repr(C)`.
pub unsafe trait Wire: Copy + 'static {
    /// The value that the first bytes of `bytes` spell, or `None` when there are too few. No alignment is asked.
    fn read_from(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, `read_unaligned` asks no alignment, any bit pattern is valid (trait).
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }

    /// The bytes of this value as the other side reads them.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: no padding (trait), so every byte is initialised.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast::<u8>(), size_of::<Self>()) }
    }
}

/// Declares `repr(C)` wire structs and asserts at compile time their size, and that no padding hides in them.
#[macro_export]
macro_rules! wire_struct {
    ($(#[$meta:meta])* pub struct $name:ident : $size:literal { $($(#[$fmeta:meta])* pub $field:ident : $ty:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }
        const _: () = assert!(size_of::<$name>() == $size, "size of a wire struct changed");
        const _: () = assert!(0 $(+ size_of::<$ty>())* == $size, "a wire struct has padding");
        // SAFETY: repr(C), integers and byte arrays only, and the sum of the fields' sizes is the struct's size.
        unsafe impl $crate::wire::Wire for $name {}
        impl $name {
            /// All bytes zero.
            pub const ZERO: Self = {
                // SAFETY: zero is a value of every integer and byte array.
                unsafe { core::mem::zeroed() }
            };
        }
    };
}

/// Declares an enum of wire codes with `from_code` (unknown codes give `None`), `code`, `name` and `ALL`.
#[macro_export]
macro_rules! wire_codes {
    ($(#[$meta:meta])* pub enum $name:ident : $repr:ty { $($(#[$vmeta:meta])* $variant:ident = $code:literal $text:literal,)* }) => {
        $(#[$meta])*
        #[repr($repr)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant = $code,)* }
        impl $name {
            /// Every code, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// The variant of a code; `None` for a code this version does not know.
            #[inline(always)]
            pub const fn from_code(code: $repr) -> Option<Self> {
                match code { $($code => Some($name::$variant),)* _ => None }
            }
            /// The code that crosses the boundary.
            #[inline(always)]
            pub const fn code(self) -> $repr { self as $repr }
            /// The name that events and metrics use.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}
