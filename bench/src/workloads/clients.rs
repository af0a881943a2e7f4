//! Two mounts at once: each in a folder of its own, and both in one.

use std::fs;
use std::path::Path;

use anyhow::ensure;

use super::{in_threads, small};
use crate::meter::{Amount, Meter};

pub(super) fn run(mounts: [&Path; 2], files: usize, meter: &mut Meter<'_>) -> anyhow::Result<()> {
    for (how, folders) in [("in two folders", ["of0", "of1"]), ("in one folder", ["shared", "shared"])] {
        folders.iter().try_for_each(|folder| fs::create_dir_all(mounts[0].join(folder)))?;
        let path =
            |mount: usize, of: usize, number: usize| mounts[mount].join(folders[of]).join(format!("c{of}-{number}"));
        let amount = Amount::Operations(files * 2);
        meter.measure(format!("two clients, new files of 4 KiB {how}"), amount, || {
            in_threads(2, |client| {
                (0..files).try_for_each(|number| {
                    let path = path(client, client, number);
                    Ok(fs::write(&path, small(&path))?)
                })
            })
        })?;
        meter.measure(format!("two clients, read the other's {how}"), amount, || {
            in_threads(2, |client| {
                (0..files).try_for_each(|number| {
                    let path = path(client, 1 - client, number);
                    ensure!(fs::read(&path)? == small(&path), "{} has other bytes than were written", path.display());
                    Ok(())
                })
            })
        })?;
    }
    Ok(())
}
