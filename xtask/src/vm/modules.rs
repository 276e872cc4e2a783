//! The kernel modules that a guest gets, packed once for each kernel. Called by [`super::run`].
//!
//! What must stay true: everything that a `socket()` call may load is there, because "this family does not exist for
//! the agent" proves nothing in a guest where it exists for nobody; modules of Debian that no system call loads are
//! named below and loaded by the test that wants them (`modprobe NAME`).

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use super::archive;
use super::kernel::Kernel;
use crate::{command, places};

/// Modules beside the ones that `socket()` loads. One that a kernel lacks is left out: DCCP went after 6.12. CAN, X.25,
/// AX.25, Bluetooth and Phonet are in none of the cloud kernels.
const BESIDE: &[&str] = &[
    // Debian took the aliases of these away so that no socket() call loads them.
    "dccp_ipv4",
    "dccp_ipv6",
    "rds",
    "tipc",
    // Network devices that tests make.
    "veth",
    "dummy",
    "tun",
    "macvlan",
    "bridge",
    "sit",
    "ipip",
    "ip_gre",
    "ip6_tunnel",
    // Upper protocols, queues and file systems.
    "tls",
    "sch_netem",
    "sch_ingress",
    "cls_bpf",
    "overlay",
    "vsock_loopback",
    // The disk of the guest with tools.
    "virtio_pci",
    "virtio_blk",
    "nf_tables",
    "nft_ct",
    "nft_chain_nat",
];

/// The archive of the modules, made when it is missing or the list has changed.
pub fn archive(kernel: &Kernel) -> Result<PathBuf> {
    let _lock = places::lock_cache()?;
    let tree = kernel.root.join("lib/modules").join(&kernel.release);
    let chosen = choose(&tree)?;
    let packed = kernel.root.join("modules.cpio");
    let stamp = kernel.root.join("modules.list");
    let list = chosen.iter().map(|path| format!("{path}\n")).collect::<String>();
    if packed.is_file() && fs::read_to_string(&stamp).is_ok_and(|packed| packed == list) {
        return Ok(packed);
    }

    let staging = kernel.root.join("modules.staging");
    let _ = fs::remove_dir_all(&staging);
    let target = staging.join("lib/modules").join(&kernel.release);
    for path in &chosen {
        unpack(&tree.join(path), &target.join(path))?;
    }
    for file in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        if tree.join(file).is_file() {
            fs::copy(tree.join(file), target.join(file))?;
        }
    }
    command::output(Command::new("depmod").arg("--basedir").arg(&staging).arg(&kernel.release))?;
    archive::pack(&staging, &packed)?;
    fs::remove_dir_all(&staging)?;
    fs::write(&stamp, list)?;
    Ok(packed)
}

/// Paths below the kernel's module directory, dependencies included.
fn choose(tree: &Path) -> Result<BTreeSet<String>> {
    let read = |name: &str| {
        let path = tree.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (dependencies, aliases) = (read("modules.dep")?, read("modules.alias")?);

    // `path: dependency-path …`, dependencies of dependencies included.
    let mut files = HashMap::new();
    for line in dependencies.lines() {
        let (path, needs) =
            line.split_once(':').ok_or_else(|| anyhow!("modules.dep has a line without a colon"))?;
        files.insert(name_of(path), (path, needs));
    }
    let by_socket = aliases.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (alias, module) = (words.next()?, words.next()?);
        (alias.starts_with("net-pf-") || alias.starts_with("tcp-ulp-")).then_some(module)
    });

    let mut chosen = BTreeSet::new();
    for module in by_socket.chain(BESIDE.iter().copied()) {
        let Some((path, needs)) = files.get(name_of(module).as_str()) else { continue };
        // Drivers that register a netlink protocol, not a family that an agent could reach for.
        if path.contains("/drivers/") && !BESIDE.contains(&module) {
            continue;
        }
        chosen.insert((*path).to_owned());
        chosen.extend(needs.split_whitespace().map(str::to_owned));
    }
    Ok(chosen.into_iter().collect())
}

/// `kernel/net/sctp/sctp.ko.xz` is `sctp`; module names write `-` and `_` alike.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Copies a module uncompressed, under its own name: depmod is told about the files as they are.
fn unpack(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    let unpacker = match from.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => Some("xz"),
        Some("zst") => Some("zstd"),
        Some("gz") => Some("gzip"),
        _ => None,
    };
    match unpacker {
        None => {
            fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        Some(program) => {
            let file = fs::File::create(to.with_extension(""))?;
            let status = Command::new(program).arg("-dc").arg(from).stdout(file).status()?;
            anyhow::ensure!(status.success(), "`{program} -dc {}` failed ({status})", from.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn a_module_is_named_by_its_file() {
        assert_eq!(name_of("kernel/net/ipv4/tcp_diag.ko.xz"), "tcp_diag");
        assert_eq!(name_of("kernel/drivers/net/usb/cdc-ether.ko"), "cdc_ether");
        assert_eq!(name_of("vsock"), "vsock");
    }
}
