//! The stream sockets between programs of rfs: TCP, or Unix where both are on one host, which carries a request and its
//! answer in half the time.
//!
//! A program that listens on a TCP port also takes a name in the abstract namespace of Unix sockets, made of its own number
//! (which its peers know): nothing has to be cleaned up, and who is in another network namespace, such as a container, does not
//! meet anybody and uses TCP. Everybody may take such a name, so both ends ask the kernel who the other is: only root and
//! the own user are believed.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{self, Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendmsg};

use crate::clock::{Clock as _, SystemClock};
use crate::ids::{ClusterId, ServerId};

/// Where a chunkserver takes data connections of its own host.
///
/// # Errors
/// None in practice: the name is short enough. So are the others.
pub fn chunkserver_address(server: ServerId) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("rfs-chunkserver-{server}"))
}

/// Where a chunkserver hands over files of copies.
///
/// # Errors
/// As for [`chunkserver_address`].
pub fn files_address(server: ServerId) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("rfs-chunkserver-{server}-files"))
}

/// Where a master takes clients of its own host: each of its starts has another name.
///
/// # Errors
/// As for [`chunkserver_address`].
pub fn master_address(cluster: ClusterId, master_start: u64) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("rfs-master-{cluster}-{master_start}"))
}

/// Listens there.
///
/// # Errors
/// Those of the system: `AddrInUse` if another process does.
pub fn listen(address: &SocketAddr) -> io::Result<UnixListener> {
    UnixListener::bind_addr(address)
}

/// Connects to who listens there.
///
/// # Errors
/// `ConnectionRefused` if nobody does; `WouldBlock` if it does not accept, as one that is stopped: this would wait without a limit.
pub fn connect(address: &SocketAddr) -> io::Result<UnixStream> {
    let name = address.as_abstract_name().ok_or(io::ErrorKind::InvalidInput)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let descriptor = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&descriptor, &SocketAddrUnix::new_abstract_name(name)?)?;
    let stream = UnixStream::from(descriptor);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Whether the other end is root's or this user's, as it was when it connected or listened.
///
/// # Errors
/// Those of the system.
pub fn is_trusted(stream: &UnixStream) -> io::Result<bool> {
    let other = sockopt::socket_peercred(stream)?;
    Ok(other.uid.is_root() || other.uid == rustix::process::geteuid())
}

/// Who is at the other end, for logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Somebody with this address.
    Address(net::SocketAddr),
    /// A program on this host.
    SameHost,
}

impl Peer {
    /// The address, if there is one.
    pub fn address(self) -> Option<net::SocketAddr> {
        match self {
            Peer::Address(address) => Some(address),
            Peer::SameHost => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Address(address) => address.fmt(formatter),
            Peer::SameHost => formatter.write_str("this host"),
        }
    }
}

/// A connected stream socket of either kind.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    is_local: bool,
    patience: OnceLock<Patience>,
}

/// Says whether the other end of a connection lives, over another connection, within [`QUIET_MAX`].
pub type Probe = Box<dyn Fn() -> bool + Send + Sync>;

/// How long the other end may be silent before it is asked whether it lives, and how long it may take to say so.
pub const QUIET_MAX: Duration = Duration::from_millis(750);

/// How a wait for the other end goes on past [`QUIET_MAX`].
struct Patience {
    lives: Probe,
    read_limit_ms: AtomicU64,
    write_limit_ms: AtomicU64,
}

impl fmt::Debug for Patience {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Patience")
    }
}

impl Socket {
    /// A TCP connection, on which small frames go at once.
    ///
    /// # Errors
    /// Those of the system.
    pub fn tcp(stream: TcpStream) -> io::Result<Socket> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(false)?;
        Ok(Socket { descriptor: stream.into(), is_local: false, patience: OnceLock::new() })
    }

    /// A Unix connection.
    ///
    /// # Errors
    /// `PermissionDenied` if the other end is neither root's nor this user's.
    pub fn local(stream: UnixStream) -> io::Result<Socket> {
        if !is_trusted(&stream)? {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the other end is neither root's nor this user's",
            ));
        }
        Ok(Socket { descriptor: stream.into(), is_local: true, patience: OnceLock::new() })
    }

    /// Connects to who listens there.
    ///
    /// # Errors
    /// Those of [`connect`] and [`Socket::local`].
    pub fn connect_local(address: &SocketAddr) -> io::Result<Socket> {
        connect(address).and_then(Socket::local)
    }

    /// Whether both ends are on this host.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// From now on the limits on reads and writes are for an end that lives, and is slow; one that does not say that it lives when it
    /// has been silent for a while is given up earlier. Set the limits after this. Other handles of the socket keep theirs.
    pub fn ask_while_waiting(&self, lives: Probe) {
        let patience = Patience { lives, read_limit_ms: AtomicU64::new(0), write_limit_ms: AtomicU64::new(0) };
        let _ = self.patience.set(patience);
    }

    /// The system's limit for a wait of at most this.
    fn limit_now(&self, limit: Option<Duration>, of: fn(&Patience) -> &AtomicU64) -> Option<Duration> {
        let Some(patience) = self.patience.get() else { return limit };
        let milliseconds = limit.map_or(u64::MAX, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        of(patience).store(milliseconds, Ordering::Relaxed);
        Some(limit.map_or(QUIET_MAX, |limit| limit.min(QUIET_MAX)))
    }

    /// Does it again while it finds nothing and the other end lives, until the limit.
    fn patiently<T>(
        &self,
        of: fn(&Patience) -> &AtomicU64,
        mut work: impl FnMut() -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        let Some(patience) = self.patience.get() else { return Ok(work()?) };
        let mut end = None;
        loop {
            let now = || SystemClock.monotonic();
            let began = now();
            match work() {
                Err(Errno::AGAIN) => {
                    let limit = Duration::from_millis(of(patience).load(Ordering::Relaxed));
                    let end = *end.get_or_insert_with(|| began + limit);
                    if now() >= end || !(patience.lives)() {
                        return Err(Errno::AGAIN.into());
                    }
                }
                done => return Ok(done?),
            }
        }
    }

    /// How long a read may wait; nothing: for ever.
    ///
    /// # Errors
    /// Those of the system; a time of zero is none.
    pub fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        let limit = self.limit_now(limit, |patience| &patience.read_limit_ms);
        Ok(sockopt::set_socket_timeout(&self.descriptor, Timeout::Recv, limit)?)
    }

    /// The same of a write.
    ///
    /// # Errors
    /// As for [`Socket::set_read_timeout`].
    pub fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        let limit = self.limit_now(limit, |patience| &patience.write_limit_ms);
        Ok(sockopt::set_socket_timeout(&self.descriptor, Timeout::Send, limit)?)
    }

    /// Has the kernel ask whether the other end is still there when nothing came for `idle`, so many times.
    ///
    /// # Errors
    /// Those of the system.
    pub fn keep_alive(&self, idle: Duration, interval: Duration, probes: u32) -> io::Result<()> {
        if self.is_local {
            return Ok(());
        }
        sockopt::set_socket_keepalive(&self.descriptor, true)?;
        sockopt::set_tcp_keepidle(&self.descriptor, idle)?;
        sockopt::set_tcp_keepintvl(&self.descriptor, interval)?;
        Ok(sockopt::set_tcp_keepcnt(&self.descriptor, probes)?)
    }

    /// Ends one direction or both, for every handle of the socket.
    ///
    /// # Errors
    /// Those of the system.
    pub fn shutdown(&self, direction: Shutdown) -> io::Result<()> {
        let direction = match direction {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        Ok(rustix::net::shutdown(&self.descriptor, direction)?)
    }

    /// Another handle of the socket.
    ///
    /// # Errors
    /// Those of the system.
    pub fn try_clone(&self) -> io::Result<Socket> {
        Ok(Socket { descriptor: self.descriptor.try_clone()?, is_local: self.is_local, patience: OnceLock::new() })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Read for &Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.patiently(|patience| &patience.read_limit_ms, || rustix::io::read(&self.descriptor, &mut *into))
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let send = || rustix::net::send(&self.descriptor, bytes, SendFlags::NOSIGNAL);
        self.patiently(|patience| &patience.write_limit_ms, send)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let send = || sendmsg(&self.descriptor, parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL);
        self.patiently(|patience| &patience.write_limit_ms, send)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        (&*self).read(into)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn check(mut left: Socket, mut right: Socket) {
        left.write_all(b"whole").unwrap();
        assert_eq!(left.write_vectored(&[IoSlice::new(b"in "), IoSlice::new(b"parts")]).unwrap(), 8);
        let mut bytes = [0; 13];
        right.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"wholein parts");
        right.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert_eq!(right.read(&mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        right.set_read_timeout(None).unwrap();
        right.keep_alive(Duration::from_secs(30), Duration::from_secs(10), 3).unwrap();
        left.try_clone().unwrap().shutdown(Shutdown::Write).unwrap();
        assert_eq!(right.read(&mut bytes).unwrap(), 0);
        drop(left);
        while let Ok(sent) = right.write(&[0; 100_000]) {
            assert!(sent > 0, "an end that is gone is an error, not a signal");
        }
    }

    #[test]
    fn both_kinds_carry_bytes_and_end_alike() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (client, server) = (Socket::tcp(client).unwrap(), Socket::tcp(listener.accept().unwrap().0).unwrap());
        assert!(!client.is_local());
        check(client, server);
        let address = master_address(ClusterId::new(1), u64::from(std::process::id())).unwrap();
        let listener = listen(&address).unwrap();
        let client = Socket::connect_local(&address).unwrap();
        let server = Socket::local(listener.accept().unwrap().0).unwrap();
        assert!(client.is_local() && server.is_local());
        check(client, server);
        drop(listener);
        assert_eq!(Socket::connect_local(&address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_slow_end_that_lives_is_waited_for_and_a_dead_one_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = Socket::tcp(TcpStream::connect(listener.local_addr().unwrap()).unwrap()).unwrap();
        let mut server = Socket::tcp(listener.accept().unwrap().0).unwrap();
        let lives = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&lives);
        client.ask_while_waiting(Box::new(move || asked.load(Ordering::SeqCst)));
        client.set_read_timeout(Some(QUIET_MAX * 4)).unwrap();
        let mut byte = [0];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(QUIET_MAX * 2);
                server.write_all(b"x").unwrap();
            });
            client.read_exact(&mut byte).unwrap();
        });
        let took = |client: &mut Socket| {
            let before = SystemClock.monotonic();
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            SystemClock.monotonic().since(before)
        };
        assert!(took(&mut client) >= QUIET_MAX * 3, "it lives, until the limit");
        lives.store(false, Ordering::SeqCst);
        assert!(took(&mut client) < QUIET_MAX * 2);
    }

    #[test]
    fn who_does_not_accept_is_not_waited_for() {
        let address = master_address(ClusterId::new(2), u64::from(std::process::id())).unwrap();
        let _listener = listen(&address).unwrap();
        let mut waiting = Vec::new();
        let refused = loop {
            match Socket::connect_local(&address) {
                Ok(socket) => waiting.push(socket),
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }
}
