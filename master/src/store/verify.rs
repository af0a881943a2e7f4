//! Checks a store offline: identity, marker, every log record, every page and how the pages divide their tables.
//!
//! Nothing of ours is changed, but sled repairs its own files when it opens them, and can end the process if they are
//! broken beyond that; then the way out is `restore`.

use std::path::Path;

use super::format::KEY_BYTES_MAX;
use super::log::LOG_FOLDER;
use super::open::read_identity;
use super::sled_pages::{PAGES_FOLDER, SledPages};
use super::{Finding, OpenError, Store, Verified, log_recovery};

impl Store {
    /// Everything that is wrong with the store in this folder, which nobody may have open, and by itself what a crash left
    /// that opening mends.
    pub fn verify(folder: &Path) -> Result<Verified, OpenError> {
        let mut verified = Verified::default();
        let (identity, marker) = match read_identity(folder) {
            Ok(heads) => heads,
            Err(OpenError::Damaged { file, offset, what }) => {
                verified.damages.push(Finding { file, offset, what });
                return Ok(verified);
            }
            Err(other) => return Err(other),
        };
        let log = folder.join(LOG_FOLDER);
        verified.torn_end = log_recovery::torn_end(&log, identity.cluster, marker.position)?;
        let position = match &verified.torn_end {
            // What stands behind the tear is dropped with it.
            Some((position, _)) => *position,
            None => log_recovery::check(&log, identity.cluster, marker.position, &mut verified.damages)?,
        };
        if folder.join(PAGES_FOLDER).join("db").is_file() {
            check_pages(folder, position, &mut verified.damages)?;
        }
        Ok(verified)
    }
}

fn check_pages(folder: &Path, position: u64, findings: &mut Vec<Finding>) -> Result<(), OpenError> {
    let file = folder.join(PAGES_FOLDER);
    let mut found = |what: String| findings.push(Finding { file: file.clone(), offset: 0, what });
    let sled = SledPages::open(folder)?;
    for id in sled.bounds()? {
        let page = match sled.load(&id) {
            Ok(page) => page,
            Err(error) => {
                found(error.to_string());
                continue;
            }
        };
        if page.position > position {
            found(format!("{id} includes position {}, the log ends at {position}", page.position));
        }
        if id.first_key.len() > KEY_BYTES_MAX || (!page.is_empty() && page.record(0).0 < &id.first_key[..]) {
            found(format!("{id} has a key below its first"));
        }
    }
    Ok(())
}
