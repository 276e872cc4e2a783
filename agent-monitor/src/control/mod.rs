//! The control socket: how `run`, `attach`, `status`, `events` and `reload` reach the daemon.
//!
//! [`protocol`] is what is said, [`server`] the daemon's end, [`client`] the commands' end, [`peer`] who is speaking;
//! [`notices`] is another socket, for agents.
//! Access to this socket is control over every agent, so an agent must never have it: neither by connecting, nor by a
//! descriptor that it inherited or was passed.

pub mod client;
pub mod notices;
pub mod peer;
pub mod protocol;
pub mod server;
