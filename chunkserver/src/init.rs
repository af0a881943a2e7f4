//! `chunkserver init`: makes folders volumes of a cluster. Folders that already are volumes of that cluster keep their ids,
//! and lend server id and host to the new ones, so a volume is added to a chunkserver by naming an old one beside it.
//! `--host` and `--storage-machine` change what existing volumes say about themselves.
//!
//! The identity is written last, so a folder with the empty folders of a volume and no identity is one that was cut off;
//! it is finished.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use rfs_common::endpoint::Endpoint;
use rfs_common::folder_lock::FolderLock;
use rfs_common::ids::{ClusterId, ServerId, VolumeId};
use rfs_common::random::Random;
use rfs_common::{durable, trusted};

use crate::link::ask::ask;
use crate::volume::health::Ground;
use crate::volume::identity::{FILE_NAME, Identity, Refusal};
use crate::volume::layout::{CHUNKS, INCOMING};
use crate::volume::scan::for_each_chunk;

/// The command line of `chunkserver init`.
#[derive(Debug, Clone, Args)]
pub struct InitArguments {
    /// Folders to make volumes, in production the mount points of their filesystems. All belong to one chunkserver
    #[arg(required = true, value_name = "DIR")]
    pub folders: Vec<PathBuf>,

    /// The cluster they are for
    #[arg(long, value_name = "ID", conflicts_with = "master")]
    pub cluster: Option<ClusterId>,

    /// Ask this master which cluster it is
    #[arg(long, value_name = "HOST[:PORT]")]
    pub master: Option<Endpoint>,

    /// The chunkserver they belong to, if it has other volumes that are not named here
    #[arg(long, value_name = "ID")]
    pub server: Option<ServerId>,

    /// Name of this machine: copies of a chunk go to different ones [default: that of the volumes named here that exist,
    /// else its host name]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,

    /// Allow ordinary folders; a missing mount would then not be noticed
    #[arg(long)]
    pub not_a_mount_point: bool,

    /// The storage machine behind the volumes: copies of a chunk go to different ones
    #[arg(long, value_name = "LABEL")]
    pub storage_machine: Option<String>,
}

/// What was made of the folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initialised {
    /// Folder, identity, and what was done.
    pub volumes: Vec<(PathBuf, Identity, Done)>,
}

/// What was done with a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It has become a volume.
    Made,
    /// It was one, and says something else about itself now.
    Changed,
    /// It was one, and stays as it was.
    Kept,
}

/// Initialises the folders.
///
/// # Errors
/// Says what is wrong with which folder, before anything is written.
pub fn init(arguments: &InitArguments, random: &dyn Random) -> anyhow::Result<Initialised> {
    let cluster = wanted_cluster(arguments)?;
    let mut found = Vec::new();
    for folder in &arguments.folders {
        ensure!(!found.iter().any(|(other, _)| other == folder), "{} is named twice; name it once", folder.display());
        found.push((folder.clone(), examine(folder, cluster, arguments)?));
    }
    let server = common_server(&found, arguments.server)?.unwrap_or_else(|| ServerId::new(random.u64() | 1));
    let host_there = found.iter().find_map(|(_, state)| match state {
        Found::Volume(identity) => Some(identity.host.clone()),
        Found::Empty(_) => None,
    });
    let host = arguments.host.clone().or(host_there).unwrap_or_else(host_name);
    let mut volumes = Vec::new();
    for (folder, state) in found {
        match state {
            Found::Volume(identity) => {
                let (identity, done) = change(&folder, identity, server, arguments)?;
                volumes.push((folder, identity, done));
            }
            Found::Empty(ground) => {
                let volume = VolumeId::new(random.u64() | 1);
                let storage_machine = arguments.storage_machine.clone().unwrap_or_default();
                let mut identity = Identity::new(cluster, volume, server, host.clone(), &ground, storage_machine);
                identity.mount_point = !arguments.not_a_mount_point;
                make(&folder, &identity)?;
                volumes.push((folder, identity, Done::Made));
            }
        }
    }
    Ok(Initialised { volumes })
}

enum Found {
    Empty(Ground),
    Volume(Identity),
}

fn wanted_cluster(arguments: &InitArguments) -> anyhow::Result<ClusterId> {
    match (&arguments.cluster, &arguments.master) {
        (Some(cluster), _) => Ok(*cluster),
        (None, Some(master)) => Ok(ask(master).context("the cluster's id is not known")?.cluster),
        (None, None) => {
            bail!("for which cluster? Give --master HOST[:PORT], or --cluster ID while the master does not run")
        }
    }
}

fn examine(folder: &Path, cluster: ClusterId, arguments: &InitArguments) -> anyhow::Result<Found> {
    let shown = folder.display();
    match Identity::read(folder) {
        Ok(identity) if identity.cluster == cluster => return Ok(Found::Volume(identity)),
        Ok(identity) => bail!(
            "{shown} is a volume of cluster {}, not of {cluster}; empty it first if its chunks are not needed any more",
            identity.cluster
        ),
        Err(Refusal::NoIdentity { .. }) => {}
        Err(refusal) => return Err(refusal.into()),
    }
    if arguments.not_a_mount_point {
        durable::create_folder(folder)?;
    }
    let ground = Ground::of(folder)
        .with_context(|| format!("{shown} cannot be looked at; make the folder and mount its filesystem"))?;
    ensure!(
        ground.is_mount_point || arguments.not_a_mount_point,
        "{shown} is not a mount point; mount the volume's filesystem there first, or give --not-a-mount-point if it is meant \
         to be an ordinary folder"
    );
    let foreign = std::fs::read_dir(folder)?.flatten().find(|entry| !is_beginning_of_volume(entry));
    if let Some(entry) = foreign {
        bail!("{shown} is not empty: it has {:?}; a volume begins empty", entry.file_name());
    }
    Ok(Found::Empty(ground))
}

/// What an `init` that was cut off leaves, and what a new filesystem has.
fn is_beginning_of_volume(entry: &std::fs::DirEntry) -> bool {
    let name = entry.file_name();
    let is_empty = || std::fs::read_dir(entry.path()).is_ok_and(|mut entries| entries.next().is_none());
    name == "lost+found"
        || name == format!("{FILE_NAME}.new").as_str()
        || ((name == CHUNKS || name == INCOMING) && is_empty())
}

/// Changes what the volume says about itself, if something else is wanted.
fn change(
    folder: &Path,
    identity: Identity,
    server: ServerId,
    arguments: &InitArguments,
) -> anyhow::Result<(Identity, Done)> {
    let wanted = Identity {
        server,
        host: arguments.host.clone().unwrap_or_else(|| identity.host.clone()),
        storage_machine: arguments.storage_machine.clone().unwrap_or_else(|| identity.storage_machine.clone()),
        ..identity.clone()
    };
    if wanted == identity {
        return Ok((identity, Done::Kept));
    }
    let _unused = FolderLock::acquire(folder).context("what a volume in use says of itself is not changed")?;
    wanted.write(folder)?;
    Ok((wanted, Done::Changed))
}

/// The chunkserver of volumes that have chunks, which stays; an empty volume made for another one follows the others.
fn common_server(found: &[(PathBuf, Found)], given: Option<ServerId>) -> anyhow::Result<Option<ServerId>> {
    let mut server = given;
    let mut of_empty = None;
    for (folder, state) in found {
        let Found::Volume(identity) = state else { continue };
        if server != Some(identity.server) && !has_chunks(folder)? {
            of_empty.get_or_insert(identity.server);
            continue;
        }
        let other = *server.get_or_insert(identity.server);
        ensure!(
            other == identity.server,
            "{} has chunks of chunkserver {}, which is not {other}; initialise each chunkserver's volumes by themselves",
            folder.display(),
            identity.server
        );
    }
    Ok(server.or(of_empty))
}

fn has_chunks(folder: &Path) -> anyhow::Result<bool> {
    let mut found = false;
    for_each_chunk(folder, &mut |_, _| {
        found = true;
        Ok(())
    })
    .map_err(|error| anyhow::anyhow!(error).context(format!("the chunks in {} cannot be listed", folder.display())))?;
    Ok(found)
}

fn make(folder: &Path, identity: &Identity) -> anyhow::Result<()> {
    // If the folder is not ours, its owner decides.
    let _ = trusted::set_mode(folder, 0o700);
    durable::create_folder(&folder.join(CHUNKS))?;
    durable::create_folder(&folder.join(INCOMING))?;
    // The identity comes last: a folder is a volume once it is there.
    identity.write(folder)?;
    Ok(())
}

/// The machine's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use rfs_common::random::SeededRandom;

    use super::*;

    fn arguments(folders: &[&Path], cluster: u128) -> InitArguments {
        InitArguments {
            folders: folders.iter().map(|folder| folder.to_path_buf()).collect(),
            cluster: Some(ClusterId::new(cluster)),
            master: None,
            server: None,
            host: Some("host".into()),
            not_a_mount_point: true,
            storage_machine: Some("sto1".into()),
        }
    }

    #[test]
    fn volumes_of_one_call_share_a_server_and_later_ones_join_it() {
        let random = SeededRandom::new(1);
        let root = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| root.path().join(name));
        let first = init(&arguments(&[&a, &b], 5), &random).unwrap().volumes;
        assert_eq!(first[0].1.server, first[1].1.server);
        assert_ne!(first[0].1.volume, first[1].1.volume);
        let later = init(&arguments(&[&a, &c], 5), &random).unwrap().volumes;
        assert_eq!((later[0].2, later[1].2), (Done::Kept, Done::Made));
        assert_eq!(later[1].1.server, first[0].1.server);
        assert_eq!(Identity::read(&c).unwrap(), later[1].1);
    }

    #[test]
    fn an_existing_volume_is_changed_and_lends_its_host() {
        let random = SeededRandom::new(3);
        let root = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| root.path().join(name));
        init(&arguments(&[&a], 5), &random).unwrap();
        let moved = InitArguments { host: Some("other".into()), storage_machine: None, ..arguments(&[&a], 5) };
        let changed = init(&moved, &random).unwrap().volumes;
        assert_eq!((changed[0].2, changed[0].1.storage_machine.as_str()), (Done::Changed, "sto1"));
        assert_eq!(Identity::read(&a).unwrap().host, "other");
        let beside = init(&InitArguments { host: None, ..arguments(&[&a, &b], 5) }, &random).unwrap().volumes;
        assert_eq!((beside[0].2, beside[1].1.host.as_str()), (Done::Kept, "other"));
        let _in_use = FolderLock::acquire(&a).unwrap();
        assert!(init(&arguments(&[&a], 5), &random).is_err(), "a volume in use is not changed");
    }

    #[test]
    fn an_empty_volume_made_for_nobody_joins_the_chunkserver_that_it_is_for() {
        let random = SeededRandom::new(5);
        let root = tempfile::tempdir().unwrap();
        let [old, new, full] = ["old", "new", "full"].map(|name| root.path().join(name));
        let first = init(&arguments(&[&old], 5), &random).unwrap().volumes[0].1.clone();
        init(&arguments(&[&new], 5), &random).unwrap();
        init(&arguments(&[&full], 5), &random).unwrap();
        for folder in [&old, &full] {
            let layout = folder.join("chunks/0000000000/000");
            std::fs::create_dir_all(&layout).unwrap();
            std::fs::write(layout.join("0000000000000001"), "").unwrap();
        }
        let joined = init(&arguments(&[&new, &old], 5), &random).unwrap().volumes;
        assert_eq!((joined[0].2, joined[1].2, joined[0].1.server), (Done::Changed, Done::Kept, first.server));
        let error = init(&arguments(&[&old, &full], 5), &random).unwrap_err().to_string();
        assert!(error.contains("has chunks of chunkserver"), "{error}");
    }

    #[test]
    fn what_was_cut_off_is_finished() {
        let random = SeededRandom::new(4);
        let root = tempfile::tempdir().unwrap();
        let a = root.path().join("a");
        durable::create_folder(&a.join(CHUNKS)).unwrap();
        std::fs::write(a.join("volume.toml.new"), "half").unwrap();
        assert_eq!(init(&arguments(&[&a], 5), &random).unwrap().volumes[0].2, Done::Made);
        let b = root.path().join("b");
        durable::create_folder(&b.join(CHUNKS).join("00")).unwrap();
        assert!(init(&arguments(&[&b], 5), &random).unwrap_err().to_string().contains("not empty"));
    }

    #[test]
    fn refuses_what_is_not_empty_of_another_cluster_or_not_a_mount_point() {
        let random = SeededRandom::new(2);
        let root = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| root.path().join(name));
        init(&arguments(&[&a], 5), &random).unwrap();
        let error = init(&arguments(&[&a], 6), &random).unwrap_err().to_string();
        assert!(error.contains("is a volume of cluster"), "{error}");
        std::fs::create_dir(&b).unwrap();
        let strict = InitArguments { not_a_mount_point: false, ..arguments(&[&b], 5) };
        let error = init(&strict, &random).unwrap_err().to_string();
        assert!(error.contains("not a mount point"), "{error}");
        std::fs::write(b.join("file"), "").unwrap();
        let error = init(&arguments(&[&b], 5), &random).unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
        let error = init(&InitArguments { cluster: None, ..arguments(&[&b], 5) }, &random).unwrap_err().to_string();
        assert!(error.contains("for which cluster"), "{error}");
    }
}
