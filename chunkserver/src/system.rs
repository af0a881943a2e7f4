//! The one place for calls that no safe wrapper offers.
#![allow(unsafe_code)]

use std::fs::File;

/// What `FS_IOC_GETFSUUID` fills in (`struct fsuuid2` of linux/fs.h).
#[repr(C)]
#[derive(Clone, Copy)]
struct FilesystemUuid {
    length: u8,
    bytes: [u8; 16],
}

/// The UUID of the filesystem that a file or folder is on, if the kernel (6.9 or later) and the filesystem tell it.
pub(crate) fn filesystem_uuid(file: &File) -> Option<[u8; 16]> {
    const GET_UUID: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<FilesystemUuid>(0x15, 0);
    // SAFETY: the opcode is FS_IOC_GETFSUUID, for which the kernel writes one `struct fsuuid2`, and that is
    // `FilesystemUuid`: 17 bytes without padding, each valid for every bit pattern.
    let answer = unsafe {
        let get = rustix::ioctl::Getter::<GET_UUID, FilesystemUuid>::new();
        rustix::ioctl::ioctl(file, get)
    };
    // A filesystem made without a UUID has zeros there.
    answer.ok().filter(|uuid| uuid.length == 16 && uuid.bytes != [0; 16]).map(|uuid| uuid.bytes)
}
