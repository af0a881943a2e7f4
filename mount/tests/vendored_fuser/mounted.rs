//! Mounts a [`Recorder`] for the time of a test, and takes the mount away whatever happens.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use rustix::mount::{UnmountFlags, unmount};

use crate::recorder::{Record, Recorder};

/// A test that takes longer hangs.
const TEST_DURATION_MAX: Duration = Duration::from_secs(20);

pub(crate) enum DeviceUse {
    SharedByThreads,
    ClonedForEachThread,
}

/// A mounted filesystem.
pub(crate) struct Mounted {
    pub(crate) record: Arc<Record>,
    session: Option<BackgroundSession>,
    folder: tempfile::TempDir,
}

impl Mounted {
    fn new(device_use: &DeviceUse) -> Self {
        assert!(Path::new("/dev/fuse").exists(), "this test needs /dev/fuse: load the kernel module fuse");
        assert!(rustix::process::geteuid().is_root(), "this test mounts, and therefore has to be run as root");
        let folder = tempfile::tempdir().expect("a temporary folder");
        // The folder is for the owner only, and some threads of the tests are somebody else.
        rustix::fs::chmod(folder.path(), 0o755.into()).expect("chmod");
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("rfs-test".into()), MountOption::Subtype("rfs".into())];
        config.acl = SessionACL::All;
        config.n_threads = Some(2);
        config.clone_fd = matches!(device_use, DeviceUse::ClonedForEachThread);
        let record = Arc::new(Record::default());
        let session = fuser::spawn_mount(Recorder(record.clone()), folder.path(), &config).expect("mounting");
        Self { record, session: Some(session), folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn session(&self) -> &BackgroundSession {
        self.session.as_ref().expect("taken by unmount only")
    }

    /// Unmounts the orderly way.
    pub(crate) fn unmount(&mut self) {
        let session = self.session.take().expect("unmounted once");
        session.umount_and_join().expect("unmounting");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.record.release_waiters();
        if self.session.is_some() {
            remove_by_force(self.folder.path());
        }
    }
}

/// Aborts the connection, so that nobody can hang in it, and takes the mount out of the tree. An error means that the
/// mount is gone already.
fn remove_by_force(folder: &Path) {
    let _gone = unmount(folder, UnmountFlags::FORCE | UnmountFlags::DETACH);
}

/// Runs a test on a mounted filesystem, in a thread of its own so that it cannot hang for good.
pub(crate) fn with_mount(device_use: DeviceUse, test: impl FnOnce(&mut Mounted) + Send + 'static) {
    let (send_folder, folder) = mpsc::channel();
    let (send_done, done) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let _done_when_dropped = send_done;
        let mut mounted = Mounted::new(&device_use);
        send_folder.send(mounted.folder.path().to_owned()).expect("the test waits for it");
        test(&mut mounted);
    });
    let hangs = matches!(done.recv_timeout(TEST_DURATION_MAX), Err(mpsc::RecvTimeoutError::Timeout));
    if hangs {
        if let Ok(folder) = folder.try_recv() {
            remove_by_force(&folder);
        }
        panic!("the test hung for {TEST_DURATION_MAX:?}; its mount was aborted");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
