//! The test's side of the guardian process: tell it what was made; it removes all that when the test is gone.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use rfs_common::trusted;

use crate::programs::test_program;

/// Everything that tests write lies below this folder, which is there afterwards.
///
/// # Panics
/// If another user made it: tests run as root, and would write, mount and remove where that user wants.
pub fn folder_of_all_tests() -> PathBuf {
    let folder = std::env::var_os("RFS_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp/rfs-tests"), PathBuf::from);
    trusted::create_folder_with_mode(&folder, 0o755).expect("a folder for tests");
    trusted::require_private(&folder).expect("a folder that only this user can have written to");
    folder
}

/// A handle to the guardian of one test. When the last one is dropped, everything is removed.
#[derive(Clone)]
pub struct Guardian(Arc<Inner>);

struct Inner {
    child: Mutex<Child>,
    input: Mutex<Option<ChildStdin>>,
}

impl Guardian {
    /// Starts one.
    ///
    /// # Panics
    /// If the program is not built.
    pub fn start() -> Self {
        let mut child = Command::new(test_program("rfs-test-guardian"))
            .stdin(Stdio::piped())
            .process_group(0)
            .current_dir("/")
            .spawn()
            .expect("the guardian starts");
        let input = child.stdin.take();
        Self(Arc::new(Inner { child: Mutex::new(child), input: Mutex::new(input) }))
    }

    /// A process to kill.
    pub fn process(&self, pid: u32) {
        self.tell(&format!("process {pid}"));
    }

    /// A mount to detach.
    pub fn mount(&self, path: &Path) {
        self.tell(&format!("mount {}", path.display()));
    }

    /// A mount that may be frozen: it is thawed first, or it could not be detached.
    pub fn frozen(&self, path: &Path) {
        self.tell(&format!("frozen {}", path.display()));
    }

    /// A loop device to free, if it is still the one of this file: numbers are given again.
    pub fn loop_device(&self, device: &str, file: &Path) {
        // As the kernel names it.
        let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
        self.tell(&format!("loop {device} {}", file.display()));
    }

    /// A folder to remove.
    pub fn folder(&self, path: &Path) {
        self.tell(&format!("folder {}", path.display()));
    }

    /// Folders stay: there is something to look at.
    pub fn keep(&self) {
        self.tell("keep");
    }

    fn tell(&self, line: &str) {
        let mut input = self.0.input.lock().expect("not poisoned");
        writeln!(input.as_mut().expect("the guardian listens until the end"), "{line}").expect("the guardian lives");
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut input = self.input.lock().ok().and_then(|mut input| input.take());
        if let Some(input) = input.as_mut().filter(|_| std::thread::panicking()) {
            let _ = writeln!(input, "keep");
        }
        drop(input);
        if let Ok(mut child) = self.child.lock() {
            let _ = child.wait();
        }
    }
}
