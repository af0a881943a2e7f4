//! A Unix socket that carries a file's descriptor beside its bytes (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// A connected socket.
#[derive(Debug)]
pub struct DescriptorStream {
    stream: UnixStream,
    outgoing: Option<OwnedFd>,
    incoming: Option<OwnedFd>,
}

impl DescriptorStream {
    /// Wraps an accepted connection.
    pub fn new(stream: UnixStream) -> DescriptorStream {
        DescriptorStream { stream, outgoing: None, incoming: None }
    }

    /// Connects to who listens there.
    ///
    /// # Errors
    /// Those of [`crate::socket::connect`].
    pub fn connect(address: &SocketAddr) -> io::Result<DescriptorStream> {
        crate::socket::connect(address).map(DescriptorStream::new)
    }

    /// Whether the other end is root's or this user's, as it was when it connected or listened.
    ///
    /// # Errors
    /// Those of the system.
    pub fn is_trusted(&self) -> io::Result<bool> {
        crate::socket::is_trusted(&self.stream)
    }

    /// How long reads and writes may take.
    ///
    /// # Errors
    /// Those of the system.
    pub fn set_timeout(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(limit))?;
        self.stream.set_write_timeout(Some(limit))
    }

    /// Sends a descriptor with the first of the bytes that are written next.
    pub fn attach(&mut self, descriptor: OwnedFd) {
        self.outgoing = Some(descriptor);
    }

    /// The descriptor that came with what was read last.
    pub fn take_received(&mut self) -> Option<OwnedFd> {
        self.incoming.take()
    }

    /// Another handle of the socket, to wait on it.
    ///
    /// # Errors
    /// Those of the system.
    pub fn try_clone(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }
}

impl AsFd for DescriptorStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Read for DescriptorStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&self.stream, &mut [IoSliceMut::new(into)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                // Others than the last are closed.
                self.incoming = descriptors.last().or(self.incoming.take());
            }
        }
        Ok(got.bytes)
    }
}

impl Write for DescriptorStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = self.outgoing.as_ref().map(|descriptor| [descriptor.as_fd()]);
        if let Some(descriptors) = &descriptors {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let sent = sendmsg(&self.stream, parts, &mut control, SendFlags::NOSIGNAL)?;
        self.outgoing = None;
        Ok(sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::ids::ServerId;
    use crate::socket::{files_address, listen};

    #[test]
    fn a_descriptor_comes_with_the_bytes_it_was_attached_to() {
        let server = ServerId::new(u64::from(std::process::id()) << 32 | 1);
        let address = files_address(server).unwrap();
        let listener = listen(&address).unwrap();
        let mut client = DescriptorStream::connect(&address).unwrap();
        let mut server = DescriptorStream::new(listener.accept().unwrap().0);
        assert!(client.is_trusted().unwrap() && server.is_trusted().unwrap());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"what the file has").unwrap();
        server.write_all(b"first").unwrap();
        server.attach(file.into());
        server.write_all(b"second").unwrap();
        let mut bytes = [0; 5];
        client.read_exact(&mut bytes).unwrap();
        assert!(client.take_received().is_none());
        let mut bytes = [0; 6];
        client.read_exact(&mut bytes).unwrap();
        let received = File::from(client.take_received().unwrap());
        let mut content = [0; 17];
        std::os::unix::fs::FileExt::read_exact_at(&received, &mut content, 0).unwrap();
        assert_eq!((&bytes, &content), (b"second", b"what the file has"));
        assert!(client.take_received().is_none());
    }
}
