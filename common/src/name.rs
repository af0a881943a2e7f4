//! Names of directory entries, and the limits of the namespace.
//!
//! A [`Name`] is valid by construction, so that nothing behind the parser has to check again: 1 to 255 bytes, without
//! `/` and NUL, neither `.` nor `..`. Names are bytes, as in every Unix: nothing is decoded, folded or normalised, and
//! their order is the order of their bytes.

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use crate::errno::Errno;

/// Bytes of the longest name: `NAME_MAX` of Linux's `limits.h`.
pub const NAME_BYTES_MAX: usize = 255;

/// Bytes of the longest target of a symbolic link: `PATH_MAX` of Linux's `limits.h` counts the closing NUL.
pub const SYMLINK_BYTES_MAX: usize = 4095;

/// Bytes of the longest name of an extended attribute: `XATTR_NAME_MAX` of Linux's `limits.h`.
pub const XATTR_NAME_BYTES_MAX: usize = 255;

/// Bytes of the largest value of an extended attribute: `XATTR_SIZE_MAX` of Linux's `limits.h`.
pub const XATTR_VALUE_BYTES_MAX: usize = 65_536;

/// Bytes of the longest list of an inode's attribute names: `XATTR_LIST_MAX` of Linux's `limits.h`. More names could
/// be stored but never listed.
pub const XATTR_LIST_BYTES_MAX: usize = 65_536;

/// The most names one file, and the most subdirectories one directory, can have. Linux sets no limit for all
/// filesystems; this is ext4's (`EXT4_LINK_MAX`), which programs have met before.
pub const LINKS_MAX: u32 = 65_000;

/// Bytes of the largest file (256 PiB): chunks are counted with 32 bits, so that the number behind the last one is one too.
pub const FILE_BYTES_MAX: u64 = crate::leaf::CHUNK_BYTES * u32::MAX as u64;

/// The name of a directory entry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

/// Why bytes are not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There are no bytes.
    #[error("a name cannot be empty")]
    Empty,
    /// There are more than [`NAME_BYTES_MAX`] bytes.
    #[error("a name of {bytes} bytes is too long; {NAME_BYTES_MAX} are possible")]
    TooLong {
        /// How many bytes there are.
        bytes: usize,
    },
    /// A `/` or a NUL is among the bytes.
    #[error("a name cannot contain '/' or the byte 0")]
    ForbiddenByte,
    /// The name is `.` or `..`, which every directory already has.
    #[error("\".\" and \"..\" are names that every directory has already")]
    Dots,
}

impl NameError {
    /// What a system call answers to such a name.
    pub const fn errno(self) -> Errno {
        match self {
            NameError::Empty => Errno::ENOENT,
            NameError::TooLong { .. } => Errno::ENAMETOOLONG,
            NameError::ForbiddenByte | NameError::Dots => Errno::EINVAL,
        }
    }
}

impl From<NameError> for Errno {
    fn from(error: NameError) -> Errno {
        error.errno()
    }
}

impl Name {
    /// The name with these bytes.
    pub fn new(bytes: &[u8]) -> Result<Name, NameError> {
        Name::check(bytes)?;
        Ok(Name(bytes.into()))
    }

    /// Whether these bytes are a name, without making one.
    pub fn check(bytes: &[u8]) -> Result<(), NameError> {
        match bytes {
            [] => Err(NameError::Empty),
            b"." | b".." => Err(NameError::Dots),
            _ if bytes.len() > NAME_BYTES_MAX => Err(NameError::TooLong { bytes: bytes.len() }),
            _ if bytes.iter().any(|byte| matches!(byte, 0 | b'/')) => Err(NameError::ForbiddenByte),
            _ => Ok(()),
        }
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as the standard library wants it.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_vec()
    }
}

/// Lets a map keyed by names be asked with plain bytes; both order and hash as bytes do.
impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&OsStr> for Name {
    type Error = NameError;

    fn try_from(name: &OsStr) -> Result<Name, NameError> {
        Name::new(name.as_bytes())
    }
}

impl TryFrom<Vec<u8>> for Name {
    type Error = NameError;

    fn try_from(bytes: Vec<u8>) -> Result<Name, NameError> {
        Name::check(&bytes)?;
        Ok(Name(bytes.into_boxed_slice()))
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        Name::new(text.as_bytes())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(formatter, &self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{}\"", Escaped(&self.0))
    }
}

/// Shows bytes as text that cannot confuse a terminal or a log: control characters, quotes, backslashes and bytes that
/// are not UTF-8 are escaped, everything else is shown as it is.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(formatter, self.0)
    }
}

fn write_escaped(formatter: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for part in bytes.utf8_chunks() {
        for character in part.valid().chars() {
            match character {
                '"' | '\\' => write!(formatter, "\\{character}")?,
                _ if character.is_control() => write!(formatter, "{}", character.escape_default())?,
                _ => formatter.write_char(character)?,
            }
        }
        part.invalid().iter().try_for_each(|byte| write!(formatter, "\\x{byte:02x}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_not_a_name() {
        let long = [b'a'; NAME_BYTES_MAX + 1];
        for (bytes, error, errno) in [
            (&b""[..], NameError::Empty, Errno::ENOENT),
            (b".", NameError::Dots, Errno::EINVAL),
            (b"..", NameError::Dots, Errno::EINVAL),
            (b"a/b", NameError::ForbiddenByte, Errno::EINVAL),
            (b"a\0", NameError::ForbiddenByte, Errno::EINVAL),
            (&long, NameError::TooLong { bytes: 256 }, Errno::ENAMETOOLONG),
        ] {
            assert_eq!(Name::new(bytes), Err(error));
            assert_eq!(Errno::from(error), errno);
        }
        assert!(Name::new(&long[1..]).is_ok());
        assert!(Name::new(b"...").is_ok());
    }

    #[test]
    fn shows_bytes_harmlessly() {
        let name = Name::new(b"gr\xc3\xbc\xc3\x9f\n\xff\"").unwrap();
        assert_eq!(name.to_string(), "grüß\\n\\xff\\\"");
        assert_eq!(format!("{name:?}"), "\"grüß\\n\\xff\\\"\"");
    }

    #[test]
    fn maps_are_asked_with_bytes() {
        let entries = BTreeMap::from([(Name::new(b"here").unwrap(), 1)]);
        assert_eq!(entries.get(&b"here"[..]), Some(&1));
    }

    proptest! {
        #[test]
        fn valid_names_keep_their_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            match Name::new(&bytes) {
                Ok(name) => {
                    prop_assert_eq!(name.as_bytes(), &bytes[..]);
                    prop_assert!(!bytes.contains(&0) && !bytes.contains(&b'/'));
                    prop_assert!((1..=NAME_BYTES_MAX).contains(&bytes.len()));
                    prop_assert!(!name.to_string().contains(char::is_control));
                }
                Err(error) => prop_assert!(error != NameError::ForbiddenByte
                    || bytes.contains(&0) || bytes.contains(&b'/')),
            }
        }
    }
}
