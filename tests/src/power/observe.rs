//! What is found in an actor's folder through a mount.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::content::Image;
use super::names::{Entry, Names};

/// All names, and the bytes of each file or why they could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// By path.
    pub names: Names,
    /// By inode number.
    pub files: BTreeMap<u64, Result<Image, String>>,
    /// Names without a node, folders that could not be listed.
    pub broken: Vec<String>,
}

impl Found {
    /// Files that cannot be read.
    pub fn unreadable(&self) -> BTreeSet<u64> {
        self.files.iter().filter(|(_, image)| image.is_err()).map(|(inode, _)| *inode).collect()
    }

    /// What could not be read is as it is now.
    pub fn take_what_was_unreadable(&mut self, mut now: Found) {
        for (inode, image) in self.files.iter_mut().filter(|(_, image)| image.is_err()) {
            if let Some(found) = now.files.remove(inode) {
                *image = found;
            }
        }
    }
}

const READ_BYTES: usize = 256 << 10;

/// Files read at the same time: each that cannot be read keeps its reader waiting for copies.
const READERS: usize = 24;

/// Reads everything.
pub fn look(root: &Path) -> Found {
    let (mut found, files) = look_at_names(root);
    let images = in_parallel(&files.values().collect::<Vec<_>>(), |(path, length)| {
        read(&root.join(path)).map_err(|error| format!("{path}, {length} bytes, cannot be read: {error}"))
    });
    found.files = files.keys().copied().zip(images).collect();
    found
}

/// Reads everything but the files: by inode number, a path and the length of each.
pub fn look_at_names(root: &Path) -> (Found, BTreeMap<u64, (String, u64)>) {
    let mut found = Found::default();
    let mut files = BTreeMap::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(root.join(&folder)).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(entries) => entries,
            Err(error) => {
                found.broken.push(format!("folder {folder:?} cannot be listed: {error}"));
                continue;
            }
        };
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            match fs::symlink_metadata(root.join(&path)) {
                Err(error) => found.broken.push(format!("the name {path} has no node: {error}")),
                Ok(about) if about.is_dir() => {
                    found.names.insert(path.clone(), Entry::Folder);
                    folders.push(path);
                }
                Ok(about) => {
                    found.names.insert(path.clone(), Entry::File(Some(about.ino())));
                    files.entry(about.ino()).or_insert((path, about.len()));
                }
            }
        }
    }
    (found, files)
}

/// Does something with each item, [`READERS`] at a time; what it gives, in order.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let mut all: Vec<(usize, R)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..READERS.min(items.len())).map(|_| scope.spawn(take)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

/// The bytes of a file.
///
/// # Errors
/// Of the first read that failed.
pub fn read(path: &Path) -> std::io::Result<Image> {
    let file = File::open(path)?;
    let mut image = Image::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut at = 0;
    loop {
        let got = file.read_at(&mut buffer, at)?;
        if got == 0 {
            break;
        }
        for (block, bytes) in buffer[..got].chunks(4096).enumerate() {
            if bytes.iter().any(|byte| *byte != 0) {
                image.write(at + block as u64 * 4096, bytes);
            }
        }
        at += got as u64;
    }
    image.truncate(at);
    let length = file.metadata()?.len();
    if length != at {
        return Err(std::io::Error::other(format!("its length is {length}, but {at} bytes can be read")));
    }
    Ok(image)
}
