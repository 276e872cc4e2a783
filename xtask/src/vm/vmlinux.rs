//! The ELF image inside a bzImage. QEMU enters it by its PVH note, which skips the decompressor in the guest: a second
//! under emulation. Called by [`super::kernel`].
//!
//! Source: Linux, Documentation/arch/x86/boot.rst (`setup_sects`, `payload_offset`, `payload_length`).

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::command;

/// How a payload begins, what unpacks it, and whether the kernel's build put the unpacked size, four bytes, behind it.
const FORMATS: &[(&[u8], &[&str], bool)] = &[
    (&[0x02, 0x21, 0x4c, 0x18], &["lz4", "-dc"], true),
    (&[0x28, 0xb5, 0x2f, 0xfd], &["zstd", "-dc"], true),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], &["xz", "-dc"], true),
    (&[0x1f, 0x8b], &["gzip", "-dc"], false),
];

/// Writes the ELF image of `boot` to `image`.
pub fn extract(boot: &Path, image: &Path) -> Result<()> {
    let bytes = fs::read(boot).with_context(|| format!("cannot read {}", boot.display()))?;
    let (payload, unpack) =
        payload(&bytes).with_context(|| format!("{} is no boot image", boot.display()))?;
    let mut command = Command::new(unpack[0]);
    command.args(&unpack[1..]).stdin(Stdio::piped()).stdout(File::create(image)?);
    let mut child =
        command.spawn().with_context(|| format!("`{}` did not start", command::typed(&command)))?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(payload)
            .with_context(|| format!("`{}` refused its input", command::typed(&command)))?;
    }
    let status = child.wait()?;
    let magic = fs::read(image)?;
    if !status.success() || !magic.starts_with(b"\x7fELF") {
        bail!("`{}` ({status}) made no ELF image of {}", command::typed(&command), boot.display());
    }
    Ok(())
}

fn payload(image: &[u8]) -> Result<(&[u8], &'static [&'static str])> {
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("it has no setup header");
    }
    // A setup header of 0 sectors means 4.
    let sectors = match image[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + word(image, 0x248)?;
    let payload = image
        .get(start..start.saturating_add(word(image, 0x24c)?))
        .ok_or_else(|| anyhow!("its payload lies outside of it"))?;
    let (_, unpack, sized) = FORMATS
        .iter()
        .find(|(magic, ..)| payload.starts_with(magic))
        .ok_or_else(|| anyhow!("its payload is compressed in an unknown way"))?;
    let end = payload.len() - if *sized { 4 } else { 0 };
    Ok((&payload[..end], unpack))
}

fn word(image: &[u8], at: usize) -> Result<usize> {
    let bytes = image.get(at..at + 4).ok_or_else(|| anyhow!("it ends inside its header"))?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
}

#[cfg(test)]
mod tests {
    use super::payload;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend([0; 16]);
        image.extend(payload);
        image.extend(b"behind");
        image
    }

    #[test]
    fn a_zstd_payload_is_found_without_its_size() {
        let image = image(b"\x28\xb5\x2f\xfdrest\x01\x02\x03\x04");
        let (payload, unpack) = payload(&image).unwrap();
        assert_eq!((payload, unpack[0]), (b"\x28\xb5\x2f\xfdrest".as_slice(), "zstd"));
    }

    #[test]
    fn what_is_no_boot_image_is_an_error() {
        assert!(payload(b"short").is_err());
        assert!(payload(&image(b"unknown magic")).is_err());
        let mut cut = image(b"\x1f\x8brest");
        cut.truncate(1042);
        assert!(payload(&cut).is_err());
    }
}
