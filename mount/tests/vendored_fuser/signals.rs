//! Signals for one thread of a test.
#![allow(unsafe_code)]

use std::sync::Once;

/// A thread that [`send`](Self::send) can hit with a signal.
#[derive(Clone, Copy)]
pub(crate) struct Target(libc::pthread_t);

extern "C" fn do_nothing(_signal: libc::c_int) {}

/// Makes SIGUSR1 interrupt system calls without restarting them.
fn install_handler() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: all zeroes is a valid sigaction: no flags (so no SA_RESTART), an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = do_nothing as extern "C" fn(libc::c_int) as usize;
        // SAFETY: the action is initialised, and its handler does nothing, which is safe in a signal handler.
        let result = unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
        assert_eq!(result, 0, "sigaction failed");
    });
}

impl Target {
    pub(crate) fn this_thread() -> Self {
        install_handler();
        // SAFETY: pthread_self has no preconditions.
        Self(unsafe { libc::pthread_self() })
    }

    /// Interrupts the thread, which must not have been joined.
    pub(crate) fn send(self) {
        // SAFETY: the caller joins the thread only afterwards, so its id is valid.
        let result = unsafe { libc::pthread_kill(self.0, libc::SIGUSR1) };
        assert_eq!(result, 0, "pthread_kill failed");
    }
}
