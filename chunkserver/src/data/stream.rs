//! A stream with a small read buffer: header, message and the beginning of a payload come with one `read`, while large
//! payloads go past the buffer into their place.
//!
//! All reads together, and all writes, have a deadline: a peer that sends or takes a byte now and then does not get more
//! time by it. The socket's own time limits only see to it that the deadline is looked at.

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::time::Duration;

use rfs_common::clock::{Monotonic, SharedClock};
use rfs_common::socket::Socket;

const BUFFER_BYTES: usize = 4096;

/// How long a read or write waits before the deadline is looked at.
const STEP: Duration = Duration::from_secs(5);

/// A peer that vanished without a word is noticed within a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// The stream.
#[derive(Debug)]
pub struct BufferedStream {
    reader: BufReader<Socket>,
    clock: SharedClock,
    deadline: Monotonic,
}

/// What a wait for bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// There is something to read.
    Bytes,
    /// The peer has closed the stream.
    End,
    /// Nothing came for a while.
    Idle,
}

impl BufferedStream {
    /// Wraps an accepted stream. Everything up to the next deadline has to be done within `limit`.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn new(stream: Socket, clock: SharedClock, limit: Duration) -> io::Result<BufferedStream> {
        let step = STEP.min(limit);
        stream.set_read_timeout(Some(step))?;
        stream.set_write_timeout(Some(step))?;
        stream.keep_alive(KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES)?;
        let deadline = clock.monotonic() + limit;
        Ok(BufferedStream { reader: BufReader::with_capacity(BUFFER_BYTES, stream), clock, deadline })
    }

    /// Waits until there is something to read, but not for long.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn wait_for_bytes(&mut self) -> io::Result<Waited> {
        match self.reader.fill_buf() {
            Ok([]) => Ok(Waited::End),
            Ok(_) => Ok(Waited::Bytes),
            Err(error) if is_step(&error) => Ok(Waited::Idle),
            Err(error) => Err(error),
        }
    }

    /// All reads and writes from here on have to be done within `limit`.
    pub fn begin_deadline(&mut self, limit: Duration) {
        self.deadline = self.clock.monotonic() + limit;
    }

    fn in_time<T>(&mut self, mut attempt: impl FnMut(&mut BufReader<Socket>) -> io::Result<T>) -> io::Result<T> {
        loop {
            if self.clock.monotonic() >= self.deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match attempt(&mut self.reader) {
                Err(error) if is_step(&error) => {}
                other => return other,
            }
        }
    }
}

/// Nothing happened for the length of a step.
fn is_step(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl Read for BufferedStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.in_time(|reader| reader.read(into))
    }
}

impl Write for BufferedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.in_time(|reader| reader.get_mut().write(bytes))
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.in_time(|reader| reader.get_mut().write_vectored(parts))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rfs_common::clock::SystemClock;

    use super::*;

    /// A peer that sends a byte now and then would otherwise hold its thread for ever.
    #[test]
    fn a_deadline_is_for_all_reads_together() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let clock = SystemClock::shared();
        let limit = Duration::from_millis(300);
        let mut stream =
            BufferedStream::new(Socket::tcp(listener.accept().unwrap().0).unwrap(), clock.clone(), limit).unwrap();
        assert_eq!(stream.wait_for_bytes().unwrap(), Waited::Idle);
        let begun = clock.monotonic();
        let dripping = std::thread::spawn(move || {
            while peer.write_all(b"x").is_ok() && clock.monotonic() - begun < Duration::from_secs(20) {
                clock.sleep(Duration::from_millis(50));
            }
        });
        assert_eq!(stream.wait_for_bytes().unwrap(), Waited::Bytes);
        stream.begin_deadline(limit);
        let mut frame = [0; 150];
        let read = stream.read_exact(&mut frame).unwrap_err();
        assert_eq!(read.kind(), io::ErrorKind::TimedOut);
        assert!(stream.clock.monotonic() - begun < Duration::from_secs(5));
        drop(stream);
        dripping.join().unwrap();
    }
}
