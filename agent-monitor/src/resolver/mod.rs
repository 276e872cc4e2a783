//! The agents' resolver: a granted name is asked for, every other one does not exist.
//!
//! The kernel leads what agents send to port 53 here. One thread of its own serves it, so that a reload or a busy client
//! never makes a name wait. `wire` reads questions and screens answers, `upstream` asks the host's own servers, `cache`
//! keeps what they said, `grants` says to the kernel which addresses stand for which names, `server` ties them together.
//!
//! What must stay true: an address is in the kernel before the answer that names it leaves; a question about a name that
//! no rule grants causes no packet; nothing that an agent or a server sends ends the thread.

pub mod cache;
pub mod filter;
pub mod grants;
pub mod outlook;
pub mod server;
pub mod sockets;
pub mod spoken;
pub mod told;
pub mod upstream;
pub mod volume;
pub mod waiting;
pub mod wire;

pub use grants::Names;
pub use server::{Resolver, start};
