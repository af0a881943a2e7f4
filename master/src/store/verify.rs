//! Checks a store offline: identity, marker, every log record, every page and how the pages divide their tables.
//!
//! sled's files are read without it first (`sled_survey.rs`): it changes them when it opens them, and ends the process over some
//! damages. It is opened only if all that its pages are made of is whole.

use std::path::Path;

use super::format::{Bounds, KEY_BYTES_MAX};
use super::log::LOG_FOLDER;
use super::open::read_identity;
use super::sled_pages::{PAGES_FOLDER, SledPages};
use super::sled_survey::{Depth, survey};
use super::{Finding, OpenError, Store, Verified, log_recovery};

impl Store {
    /// Everything that is wrong with the store in this folder, which nobody may have open, and by itself what a crash left
    /// that opening mends.
    pub fn verify(folder: &Path) -> Result<Verified, OpenError> {
        Store::verify_with(folder, &mut |_| {})
    }

    /// The same; `progress` is told how many more bytes were read.
    pub fn verify_with(folder: &Path, progress: &mut dyn FnMut(u64)) -> Result<Verified, OpenError> {
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
            check_pages(folder, marker.bounds.as_ref(), position, &mut verified.damages, progress)?;
        }
        Ok(verified)
    }
}

fn check_pages(
    folder: &Path,
    bounds: Option<&Bounds>,
    position: u64,
    findings: &mut Vec<Finding>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), OpenError> {
    let file = folder.join(PAGES_FOLDER);
    let survey = survey(&file, Depth::Everything, progress);
    let survey = survey.map_err(|error| OpenError::io("reading sled's files in", &file, error))?;
    let known = findings.len();
    findings.extend(survey.fatal.iter().chain(&survey.broken).cloned());
    if findings.len() > known {
        return Ok(());
    }
    let place = survey.first().cloned();
    let (file, offset) = place.map_or((file, 0), |place| (place.file, place.offset));
    let mut found = |what: String| findings.push(Finding { file: file.clone(), offset, what });
    let sled = match SledPages::open(folder, bounds) {
        Ok(sled) => sled,
        Err(error) if error.of_the_disk => return Err(error.into()),
        Err(error) => {
            found(error.to_string());
            return Ok(());
        }
    };
    for id in sled.bounds()? {
        let page = match sled.load(&id) {
            Ok(page) => page,
            Err(error) => {
                found(error.to_string());
                continue;
            }
        };
        progress(page.record_bytes() as u64);
        if page.position > position {
            found(format!("{id} includes position {}, the log ends at {position}", page.position));
        }
        if id.first_key.len() > KEY_BYTES_MAX || (!page.is_empty() && page.record(0).0 < &id.first_key[..]) {
            found(format!("{id} has a key below its first"));
        }
    }
    Ok(())
}
