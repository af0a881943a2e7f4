//! The error numbers of POSIX that rfs gives to programs and that kernels give to rfs.
//!
//! One table holds number, name and words, so that the wire, the logs and the tools agree. The numbers are those of
//! Linux's `asm-generic/errno.h` (x86-64, arm64, riscv64); they are also what travels between rfs processes.
//!
//! What always holds: an [`Errno`] is never 0. Numbers outside the table are kept as they came, not turned into `EIO`.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// An error number, as a system call would set it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "i32", into = "i32")]
pub struct Errno(i32);

/// Declares the constants of [`Errno`] and the table behind its `Display`.
macro_rules! errno_table {
    ($($number:literal $name:ident $words:literal)*) => {
        impl Errno {
            $(
                #[doc = concat!("Error ", stringify!($number), ": ", $words, ".")]
                pub const $name: Errno = Errno($number);
            )*

            /// Every error number that has a name here, in the order of the numbers.
            pub const ALL: &[Errno] = &[$(Errno::$name),*];

            /// Name and words of this error number, if it is in the table.
            const fn entry(self) -> Option<(&'static str, &'static str)> {
                match self.0 {
                    $($number => Some((stringify!($name), $words)),)*
                    _ => None,
                }
            }
        }
    };
}

errno_table! {
    1   EPERM        "operation not permitted"
    2   ENOENT       "no such file or directory"
    4   EINTR        "interrupted system call"
    5   EIO          "input/output error"
    6   ENXIO        "no such device or address"
    7   E2BIG        "argument list too long"
    9   EBADF        "bad file descriptor"
    11  EAGAIN       "resource temporarily unavailable"
    12  ENOMEM       "cannot allocate memory"
    13  EACCES       "permission denied"
    14  EFAULT       "bad address"
    16  EBUSY        "device or resource busy"
    17  EEXIST       "file exists"
    18  EXDEV        "invalid cross-device link"
    19  ENODEV       "no such device"
    20  ENOTDIR      "not a directory"
    21  EISDIR       "is a directory"
    22  EINVAL       "invalid argument"
    23  ENFILE       "too many open files in system"
    24  EMFILE       "too many open files"
    25  ENOTTY       "inappropriate ioctl for device"
    26  ETXTBSY      "text file busy"
    27  EFBIG        "file too large"
    28  ENOSPC       "no space left on device"
    29  ESPIPE       "illegal seek"
    30  EROFS        "read-only file system"
    31  EMLINK       "too many links"
    32  EPIPE        "broken pipe"
    34  ERANGE       "numerical result out of range"
    35  EDEADLK      "resource deadlock avoided"
    36  ENAMETOOLONG "file name too long"
    37  ENOLCK       "no locks available"
    38  ENOSYS       "function not implemented"
    39  ENOTEMPTY    "directory not empty"
    40  ELOOP        "too many levels of symbolic links"
    61  ENODATA      "no data available"
    71  EPROTO       "protocol error"
    74  EBADMSG      "bad message"
    75  EOVERFLOW    "value too large for defined data type"
    95  EOPNOTSUPP   "operation not supported"
    98  EADDRINUSE   "address already in use"
    103 ECONNABORTED "software caused connection abort"
    104 ECONNRESET   "connection reset by peer"
    107 ENOTCONN     "transport endpoint is not connected"
    108 ESHUTDOWN    "cannot send after transport endpoint shutdown"
    110 ETIMEDOUT    "connection timed out"
    111 ECONNREFUSED "connection refused"
    113 EHOSTUNREACH "no route to host"
    116 ESTALE       "stale file handle"
    117 EUCLEAN      "structure needs cleaning"
    122 EDQUOT       "disk quota exceeded"
    125 ECANCELED    "operation canceled"
    131 ENOTRECOVERABLE "state not recoverable"
}

impl Errno {
    /// What Linux calls a missing extended attribute.
    pub const ENOATTR: Errno = Errno::ENODATA;

    /// The error with this number. Zero and negative numbers are no errors and become `EIO`, since whoever asks has
    /// already seen a failure.
    pub const fn from_raw(number: i32) -> Errno {
        if number > 0 { Errno(number) } else { Errno::EIO }
    }

    /// The number, as in `errno`; always positive.
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// The name, such as `ENOENT`, if the table has it.
    pub const fn name(self) -> Option<&'static str> {
        match self.entry() {
            Some((name, _)) => Some(name),
            None => None,
        }
    }

    /// The error with this name, such as `ENOENT`.
    pub fn from_name(name: &str) -> Option<Errno> {
        Errno::ALL.iter().copied().find(|errno| errno.name() == Some(name))
    }

    /// The number behind an I/O error, or the nearest one if the error did not come from the system.
    pub fn from_io(error: &io::Error) -> Errno {
        if let Some(number) = error.raw_os_error() {
            return Errno::from_raw(number);
        }
        match error.kind() {
            io::ErrorKind::NotFound => Errno::ENOENT,
            io::ErrorKind::PermissionDenied => Errno::EACCES,
            io::ErrorKind::AlreadyExists => Errno::EEXIST,
            io::ErrorKind::InvalidInput => Errno::EINVAL,
            io::ErrorKind::TimedOut => Errno::ETIMEDOUT,
            io::ErrorKind::Interrupted => Errno::EINTR,
            io::ErrorKind::WouldBlock => Errno::EAGAIN,
            io::ErrorKind::OutOfMemory => Errno::ENOMEM,
            io::ErrorKind::StorageFull => Errno::ENOSPC,
            io::ErrorKind::ConnectionRefused => Errno::ECONNREFUSED,
            io::ErrorKind::ConnectionReset => Errno::ECONNRESET,
            io::ErrorKind::ConnectionAborted => Errno::ECONNABORTED,
            io::ErrorKind::NotConnected => Errno::ENOTCONN,
            io::ErrorKind::BrokenPipe => Errno::EPIPE,
            io::ErrorKind::Unsupported => Errno::EOPNOTSUPP,
            _ => Errno::EIO,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry() {
            Some((name, words)) => write!(formatter, "{name} ({words})"),
            None => write!(formatter, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => formatter.write_str(name),
            None => write!(formatter, "Errno({})", self.0),
        }
    }
}

impl std::error::Error for Errno {}

impl From<i32> for Errno {
    fn from(number: i32) -> Errno {
        Errno::from_raw(number)
    }
}

impl From<Errno> for i32 {
    fn from(errno: Errno) -> i32 {
        errno.0
    }
}

impl From<&io::Error> for Errno {
    fn from(error: &io::Error) -> Errno {
        Errno::from_io(error)
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Errno {
        Errno::from_io(&error)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Errno {
        Errno::from_raw(errno.raw_os_error())
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The system's own words for a number must be ours, apart from capitals and its number in brackets.
    #[test]
    fn words_and_numbers_are_those_of_the_system() {
        for errno in Errno::ALL {
            let system = io::Error::from(*errno).to_string().to_lowercase();
            let (name, words) = errno.entry().unwrap();
            assert_eq!(system, format!("{words} (os error {})", errno.raw()), "{name}");
        }
    }

    #[test]
    fn table_is_ordered_and_names_are_found() {
        assert!(Errno::ALL.is_sorted());
        for errno in Errno::ALL {
            assert_eq!(errno.name().and_then(Errno::from_name), Some(*errno));
        }
        assert_eq!(Errno::from_name("EWHAT"), None);
    }

    #[test]
    fn shows_name_and_words() {
        assert_eq!(Errno::ENOENT.to_string(), "ENOENT (no such file or directory)");
        assert_eq!(format!("{:?}", Errno::EIO), "EIO");
        assert_eq!(Errno::from_raw(4000).to_string(), "errno 4000");
    }

    #[test]
    fn success_is_no_errno() {
        assert_eq!(Errno::from_raw(0), Errno::EIO);
        assert_eq!(Errno::from_raw(-2), Errno::EIO);
    }

    #[test]
    fn comes_from_io_errors() {
        assert_eq!(Errno::from(io::Error::from_raw_os_error(117)), Errno::EUCLEAN);
        assert_eq!(Errno::from(io::Error::from(io::ErrorKind::NotFound)), Errno::ENOENT);
        assert_eq!(Errno::from(io::Error::other("?")), Errno::EIO);
        assert_eq!(Errno::from(rustix::io::Errno::STALE), Errno::ESTALE);
    }
}
