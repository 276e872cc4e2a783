//! What the tests stand on: own cgroups, own network namespaces, a peer, a sniffer, children that attack; agents for the
//! real binary.
//!
//! The test process itself moves into a network namespace of its own (the "agent" side of a veth pair) before the
//! first test; nothing here touches the machine's own interfaces, and cgroup programs are attached only to cgroups
//! made here. Tests run one at a time on the main thread, because they fork.

pub mod agent;
pub mod asker;
pub mod attempt;
pub mod bpf;
pub mod cgroup;
pub mod child;
pub mod greeter;
pub mod model;
pub mod monitor;
pub mod netlink;
pub mod peer;
pub mod program;
pub mod record;
pub mod roamer;
pub mod socket;
pub mod talker;
pub mod uring;
pub mod wire;
pub mod world;
pub mod zone;

pub use attempt::{Attempt, Failure};
pub use child::{Child, Stage};
pub use monitor::Monitor;
pub use record::{Body, Record};
pub use socket::Socket;
pub use world::World;
