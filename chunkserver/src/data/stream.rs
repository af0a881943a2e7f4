//! A TCP stream with a small read buffer: header, message and the beginning of a payload come with one `read`, while large
//! payloads go past the buffer into their place.

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::net::TcpStream;

const BUFFER_BYTES: usize = 4096;

/// The stream.
#[derive(Debug)]
pub struct BufferedStream {
    reader: BufReader<TcpStream>,
}

impl BufferedStream {
    /// Wraps a connected stream.
    pub fn new(stream: TcpStream) -> BufferedStream {
        BufferedStream { reader: BufReader::with_capacity(BUFFER_BYTES, stream) }
    }

    /// The TCP stream.
    pub fn tcp(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Waits until there is something to read, or the end of the stream: false.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn wait_for_bytes(&mut self) -> io::Result<bool> {
        Ok(!self.reader.fill_buf()?.is_empty())
    }
}

impl Read for BufferedStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reader.read(into)
    }
}

impl Write for BufferedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.reader.get_mut().write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.reader.get_mut().write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
