//! A stream whose reads and writes can be given one deadline all together, which is what a handshake needs: a peer
//! that sends a byte now and then does not get more time by it.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::time::Duration;

use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::socket::Socket;

/// A stream of the session port. Belongs to one thread.
#[derive(Debug)]
pub(super) struct SessionStream {
    stream: Socket,
    clock: SharedClock,
    deadline: Cell<Option<Monotonic>>,
}

impl SessionStream {
    /// Wraps an accepted stream, with keepalive, so that a peer that vanished is noticed.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn new(stream: Socket, clock: SharedClock) -> io::Result<SessionStream> {
        stream.keep_alive(Duration::from_secs(30), Duration::from_secs(10), 3)?;
        Ok(SessionStream { stream, clock, deadline: Cell::new(None) })
    }

    /// All reads and writes from here on must be done in this time.
    pub(super) fn begin_deadline(&self, duration: Duration) {
        self.deadline.set(Some(self.clock.monotonic() + duration));
    }

    /// Reads may take for ever from here on, single writes so long.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn end_deadline(&self, write_timeout: Duration) -> io::Result<()> {
        self.deadline.set(None);
        self.stream.set_read_timeout(None)?;
        self.stream.set_write_timeout(Some(write_timeout))
    }

    /// The socket.
    pub(super) fn socket(&self) -> &Socket {
        &self.stream
    }

    fn time_left(&self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.deadline.get() else { return Ok(None) };
        let left = self.clock.monotonic().until(deadline);
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for SessionStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(left) = self.time_left()? {
            self.stream.set_read_timeout(Some(left))?;
        }
        self.stream.read(buffer)
    }
}

impl Write for SessionStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if let Some(left) = self.time_left()? {
            self.stream.set_write_timeout(Some(left))?;
        }
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
