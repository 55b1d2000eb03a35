// SPDX-License-Identifier: Apache-2.0
//! Takes llb's XDP program off a link. It gets no frames afterwards, or it stays as it was.
//!
//! Some drivers let a program neither go nor be replaced while the MTU of the link is large: virtio_net does so before
//! Linux 6.3. If the pin is removed then, the kernel warns and forgets the program, but the driver goes on running it where
//! nobody can see or remove it. So the driver is asked first: a program that passes every frame takes the place of llb's.

#![expect(unsafe_code, reason = "bpf(2) takes addresses of buffers; aya loads no program without an object")]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::error::PacketError;

/// The name of the pin that keeps the program at the link.
pub(super) const PIN: &str = "xdp";

// enum bpf_cmd of linux/bpf.h.
const PROG_LOAD: libc::c_int = 5;
const OBJ_GET: libc::c_int = 7;
const LINK_UPDATE: libc::c_int = 29;

/// `r0 = XDP_PASS; exit`, as two `struct bpf_insn`.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

const LICENSE: &std::ffi::CStr = c"GPL";

/// `BPF_PROG_TYPE_XDP`.
const XDP: u32 = 6;
/// `BPF_XDP`, as aya attaches programs. The kernel replaces a program only by one of its kind.
const ATTACHED_AS_XDP: u32 = 37;
/// `BPF_F_XDP_HAS_FRAGS`: without it, drivers that take large frames refuse the program for another reason.
const HAS_FRAGS: u32 = 1 << 5;

/// The part of `union bpf_attr` for [`PROG_LOAD`].
#[derive(Default)]
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The part of `union bpf_attr` for [`OBJ_GET`].
#[repr(C)]
struct GetAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` for [`LINK_UPDATE`].
#[repr(C)]
struct UpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Takes the program off `link` that is pinned in the link's `folder`, if there is one.
///
/// # Errors
/// The driver keeps it ([`PacketError::XdpKept`]), it can't be asked, or the pin can't be removed. It goes on as before.
pub(super) fn take_off(link: &str, folder: &Path) -> Result<(), PacketError> {
    let pin = folder.join(PIN);
    let opened = open(&pin).map_err(|error| PacketError::pin("open", &pin, error))?;
    let Some(pinned) = opened else { return Ok(()) };
    let passing =
        passing_program().map_err(|error| PacketError::pin("load what takes the place of", &pin, error))?;
    let silenced = passing.map_or(Ok(()), |program| silence(&pinned, &program));
    match silenced {
        // The link device is gone, and with it the program.
        Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => {
            return Err(PacketError::XdpKept { link: link.to_owned(), path: pin, source: error });
        }
        _ => {}
    }
    drop(pinned);
    fs::remove_file(&pin).map_err(|error| PacketError::pin("remove", &pin, error))
}

/// The pinned link; `None` if there is no such pin.
fn open(pin: &Path) -> io::Result<Option<OwnedFd>> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = GetAttr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: `pathname` is the address of a string that ends with a zero and lives until the call returns.
    match unsafe { bpf(OBJ_GET, &mut attr) } {
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        Ok(number) => Ok(Some(unsafe { OwnedFd::from_raw_fd(number) })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts `program` in the place of the one at this link.
fn silence(pinned: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    let mut attr = UpdateAttr {
        link_fd: pinned.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: `attr` has no addresses.
    unsafe { bpf(LINK_UPDATE, &mut attr) }.map(drop)
}

/// A program that passes every frame. `None`: the kernel has no multi-buffer XDP (before 5.18) and takes no such program,
/// so its driver can't be asked.
fn passing_program() -> io::Result<Option<OwnedFd>> {
    let mut attr = LoadAttr {
        prog_type: XDP,
        insn_cnt: PASS.len() as u32,
        insns: PASS.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        prog_flags: HAS_FRAGS,
        prog_name: *b"llb_pass\0\0\0\0\0\0\0\0",
        expected_attach_type: ATTACHED_AS_XDP,
        ..LoadAttr::default()
    };
    // SAFETY: `insns` and `license` are the addresses of constants: as many instructions as `insn_cnt` says, and a
    // string that ends with a zero.
    match unsafe { bpf(PROG_LOAD, &mut attr) } {
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        Ok(number) => Ok(Some(unsafe { OwnedFd::from_raw_fd(number) })),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the kernel returns: a descriptor, or 0.
///
/// # Safety
/// `A` must be the part of `union bpf_attr` that belongs to `command`. The addresses in `attr` must point to what
/// `command` expects, and that must live until the call returns.
unsafe fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is a reference to this size, and the caller vouches for the addresses in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    // A descriptor fits; a negative result is an error.
    libc::c_int::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_pin_has_nothing_to_take_off() {
        let folder = tempfile::tempdir().unwrap();
        take_off("eth0", folder.path()).unwrap();
    }
}
