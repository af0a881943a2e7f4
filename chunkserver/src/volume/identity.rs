//! The identity of a volume: the file `volume.toml` in its folder, written by `chunkserver init`, which is the only
//! one to change it (docs/formats/volume.md). A folder without one is not a volume, so a filesystem that is missing at boot never makes the
//! daemon write to the disk below its mount point.

use std::path::{Path, PathBuf};

use rfs_common::durable::{self, FileError};
use rfs_common::errno::Errno;
use rfs_common::ids::{ClusterId, ServerId, VolumeId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::health::Ground;

/// Name of the identity's file.
pub const FILE_NAME: &str = "volume.toml";
const FORMAT: u32 = 1;
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Version of the volume's layout.
    pub format: u32,
    /// The cluster whose chunks it holds.
    pub cluster: ClusterId,
    /// Its own id.
    pub volume: VolumeId,
    /// The chunkserver it belongs to: the same for all volumes of one daemon.
    pub server: ServerId,
    /// Name of the machine: copies of a chunk go to different ones.
    pub host: String,
    /// UUID of its filesystem; empty if nobody told it.
    pub filesystem_uuid: String,
    /// Whether its folder must be a mount point.
    pub mount_point: bool,
    /// The storage machine behind it, as the administrator named it; empty: unknown.
    pub storage_machine: String,
}

/// Why a folder is not used as a volume.
#[derive(Debug, Error)]
pub enum Refusal {
    /// No identity.
    #[error(
        "{folder} is not a volume: it has no {FILE_NAME}. If a filesystem belongs here, mount it; if this is a new volume, \
         run `chunkserver init {folder}`", folder = folder.display()
    )]
    NoIdentity {
        /// The folder.
        folder: PathBuf,
    },
    /// The identity is not readable.
    #[error("the identity of volume {folder} cannot be read; restore {FILE_NAME} or take the volume out", folder = folder.display())]
    Unreadable {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk does not give it.
    #[error(
        "the disk of volume {folder} cannot be read; check the disk and the paths to it. Nothing is wrong with {FILE_NAME} as far as is known",
        folder = folder.display()
    )]
    Disk {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Written by another version of rfs.
    #[error("volume {folder} has format {format}; this chunkserver knows {FORMAT}: use the version of rfs that wrote it", folder = folder.display())]
    Format {
        /// The folder.
        folder: PathBuf,
        /// Its format.
        format: u32,
    },
    /// Of another cluster.
    #[error(
        "volume {folder} belongs to cluster {has}, not to {expected}; give it to a chunkserver of its own cluster, or empty it \
         and run `chunkserver init`", folder = folder.display()
    )]
    OtherCluster {
        /// The folder.
        folder: PathBuf,
        /// Its cluster.
        has: ClusterId,
        /// The daemon's.
        expected: ClusterId,
    },
    /// Of another chunkserver.
    #[error(
        "volume {folder} belongs to chunkserver {has}, not to {expected} as the others here. If it is a new volume for this \
         chunkserver, make it one with `chunkserver init --server {expected} {folder} --master HOST`; if its chunks are \
         another's, run a chunkserver of its own for it", folder = folder.display()
    )]
    OtherServer {
        /// The folder.
        folder: PathBuf,
        /// Its server.
        has: ServerId,
        /// The daemon's.
        expected: ServerId,
    },
    /// Not the filesystem it was initialised on.
    #[error(
        "the filesystem of volume {folder} is {now}, but the volume was initialised on {was}; mount the right one, or if its \
         files were copied here on purpose, correct `filesystem_uuid` in {FILE_NAME}", folder = folder.display()
    )]
    OtherFilesystem {
        /// The folder.
        folder: PathBuf,
        /// UUID at init.
        was: String,
        /// UUID now.
        now: String,
    },
    /// Not a mount point, and it has to be.
    #[error(
        "{folder} is not a mount point; mount the volume's filesystem there, or initialise it with --not-a-mount-point if it \
         is meant to be an ordinary folder", folder = folder.display()
    )]
    NotAMountPoint {
        /// The folder.
        folder: PathBuf,
    },
    /// Given twice.
    #[error("{folder} and {other} are the same volume {volume}; name it once", folder = folder.display(), other = other.display())]
    Twice {
        /// The folder.
        folder: PathBuf,
        /// The other one.
        other: PathBuf,
        /// Their volume.
        volume: VolumeId,
    },
    /// Another process uses it.
    #[error("volume {folder} cannot be locked", folder = folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// Who has it.
        source: rfs_common::folder_lock::FolderLockError,
    },
    /// The system failed.
    #[error("volume {folder} cannot be used", folder = folder.display())]
    System {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Identity {
    /// A new one.
    pub fn new(
        cluster: ClusterId,
        volume: VolumeId,
        server: ServerId,
        host: String,
        ground: &Ground,
        storage_machine: String,
    ) -> Identity {
        Identity {
            format: FORMAT,
            cluster,
            volume,
            server,
            host,
            filesystem_uuid: ground.filesystem_uuid.clone(),
            mount_point: ground.is_mount_point,
            storage_machine,
        }
    }

    /// Reads the identity of a folder.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn read(folder: &Path) -> Result<Identity, Refusal> {
        Identity::read_through(folder, folder)
    }

    /// The same through a path that leads to the folder; `folder` is for the messages.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn read_through(path: &Path, folder: &Path) -> Result<Identity, Refusal> {
        let unreadable = |source| Refusal::Unreadable { folder: folder.to_owned(), source };
        let text = match durable::read_text_limited(&path.join(FILE_NAME), FILE_BYTES_MAX) {
            Err(error) if error.is_not_found() => return Err(Refusal::NoIdentity { folder: folder.to_owned() }),
            Err(error) if is_of_the_disk(&error.source) => {
                return Err(Refusal::Disk { folder: folder.to_owned(), source: error.source });
            }
            Err(error) => {
                let error = FileError { path: folder.join(FILE_NAME), ..error };
                return Err(unreadable(error.into()));
            }
            Ok(text) => text,
        };
        // The format is looked at first: a later one may have other fields.
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| unreadable(error.into()))?;
        match table.get("format").and_then(toml::Value::as_integer) {
            Some(format) if format != i64::from(FORMAT) => {
                Err(Refusal::Format { folder: folder.to_owned(), format: format as u32 })
            }
            _ => table.try_into().map_err(|error: toml::de::Error| unreadable(error.into())),
        }
    }

    /// Writes it durably.
    ///
    /// # Errors
    /// Those of the system.
    pub fn write(&self, folder: &Path) -> Result<(), FileError> {
        let text = toml::to_string(self).expect("an identity is plain fields, which TOML can hold");
        let head = "# The identity of an rfs volume, written by `chunkserver init`. The chunkserver refuses the volume if this is missing.\n";
        durable::write_atomically(&folder.join(FILE_NAME), format!("{head}{text}").as_bytes())
    }

    /// Whether the volume stands on what it was initialised on.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check_ground(&self, folder: &Path, ground: &Ground) -> Result<(), Refusal> {
        if self.mount_point && !ground.is_mount_point {
            return Err(Refusal::NotAMountPoint { folder: folder.to_owned() });
        }
        if self.filesystem_uuid != ground.filesystem_uuid && !self.filesystem_uuid.is_empty() {
            let (was, now) = (self.filesystem_uuid.clone(), ground.filesystem_uuid.clone());
            return Err(Refusal::OtherFilesystem { folder: folder.to_owned(), was, now });
        }
        Ok(())
    }
}

/// Whether an error says that a disk, or the filesystem on it, does not work any more.
fn is_of_the_disk(error: &std::io::Error) -> bool {
    let dead =
        [Errno::EIO, Errno::EUCLEAN, Errno::EBADMSG, Errno::ESHUTDOWN, Errno::ENODEV, Errno::ENXIO, Errno::ETIMEDOUT];
    dead.contains(&Errno::from_io(error))
}

/// An error and all its sources in one line.
pub fn with_sources(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_and_wrong_ones_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Identity::read(folder.path()), Err(Refusal::NoIdentity { .. })));
        let ground = Ground::of(folder.path()).unwrap();
        let identity = Identity::new(
            ClusterId::new(7),
            VolumeId::new(u64::MAX),
            ServerId::new(3),
            "host".into(),
            &ground,
            "sto1".into(),
        );
        identity.write(folder.path()).unwrap();
        assert_eq!(Identity::read(folder.path()).unwrap(), identity);
        identity.check_ground(folder.path(), &ground).unwrap();
        let mut other = Ground::of(folder.path()).unwrap();
        other.filesystem_uuid = "other".into();
        if !identity.filesystem_uuid.is_empty() {
            let refusal = identity.check_ground(folder.path(), &other).unwrap_err();
            assert!(matches!(refusal, Refusal::OtherFilesystem { .. }), "{refusal}");
        }
        let strict = Identity { mount_point: true, ..identity.clone() };
        assert!(matches!(strict.check_ground(folder.path(), &ground), Err(Refusal::NotAMountPoint { .. })));
        Identity { format: 9, ..identity }.write(folder.path()).unwrap();
        assert!(matches!(Identity::read(folder.path()), Err(Refusal::Format { format: 9, .. })));
        for (errno, dead) in [(5, true), (117, true), (13, false)] {
            assert_eq!(is_of_the_disk(&std::io::Error::from_raw_os_error(errno)), dead, "{errno}");
        }
        std::fs::write(folder.path().join(FILE_NAME), "format = 1\nnonsense").unwrap();
        assert!(matches!(Identity::read(folder.path()), Err(Refusal::Unreadable { .. })));
    }
}
