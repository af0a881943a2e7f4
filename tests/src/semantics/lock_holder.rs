//! A process of its own that holds a file open and locks and unlocks it as told.
//!
//! Record locks belong to processes, so a test of them needs several. The child is forked, keeps no descriptor that the
//! test has open, and answers each order with an errno and, for F_GETLK, the lock in the way.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::calls::{self, Family, Patience, RecordLock};

/// An answer that must come without waiting for anyone comes in this time.
const AT_ONCE: Duration = Duration::from_secs(20);
const WORDS: usize = 5;
type Message = [i64; WORDS];

/// What a holder can be told to do with its file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// fcntl; a wait may be interrupted.
    Set(Family, RecordLock, Patience),
    /// F_GETLK.
    Get(Family, RecordLock),
    /// flock with the operation's number.
    Flock(i32),
    /// Opens the file once more and closes that.
    OpenAndClose,
    /// Closes the file and opens it again.
    Reopen,
}

/// The process.
pub(crate) struct LockHolder {
    child: libc::pid_t,
    orders: PipeWriter,
    answers: PipeReader,
}

impl LockHolder {
    /// Starts one that has `path` open for reading and writing.
    pub(crate) fn start(path: &Path) -> anyhow::Result<Self> {
        let (order_reader, orders) = io::pipe()?;
        let (answers, answer_writer) = io::pipe()?;
        let child = calls::fork(|| {
            let (order_reader, answer_writer) = calls::keep_only(&order_reader, &answer_writer);
            let _ = serve(path, order_reader, answer_writer);
        })?;
        Ok(Self { child, orders, answers })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child
    }

    /// Gives an order without waiting for its answer.
    pub(crate) fn order(&mut self, order: Order) -> anyhow::Result<()> {
        let words = encode(order);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.orders.write_all(&bytes).context("the lock holder is gone")
    }

    /// The answer to the last order, or `None` if it is not there in time.
    pub(crate) fn answer_within(&mut self, limit: Duration) -> anyhow::Result<Option<Result<RecordLock, Errno>>> {
        let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
        if poll(&mut [PollFd::from_borrowed_fd(self.answers.as_fd(), PollFlags::IN)], Some(&limit))? == 0 {
            return Ok(None);
        }
        let message = receive(&mut self.answers).context("the lock holder is gone")?;
        let lock = decode_lock(&message[1..]);
        Ok(Some(match i32::try_from(message[0])? {
            0 => Ok(lock),
            number => Err(Errno::from_raw_os_error(number)),
        }))
    }

    /// Gives an order that must be answered at once.
    pub(crate) fn ask(&mut self, order: Order) -> anyhow::Result<Result<RecordLock, Errno>> {
        self.order(order)?;
        match self.answer_within(AT_ONCE)? {
            Some(answer) => Ok(answer),
            None => bail!("{order:?} is not answered"),
        }
    }

    /// Gives an order that must succeed at once.
    pub(crate) fn must(&mut self, order: Order) -> anyhow::Result<RecordLock> {
        self.ask(order)?.map_err(|error| anyhow::anyhow!("{order:?} fails: {error}"))
    }

    /// Gives an order that must be refused at once.
    pub(crate) fn must_not(&mut self, order: Order, expected: Errno) -> anyhow::Result<()> {
        match self.ask(order)? {
            Ok(_) => bail!("{order:?} succeeds, must be refused with {expected:?}"),
            Err(got) => {
                ensure!(got == expected, "{order:?} is refused with {got:?}, must be {expected:?}");
                Ok(())
            }
        }
    }

    /// Sends SIGUSR1, which interrupts a wait.
    pub(crate) fn interrupt(&self) {
        calls::kill(self.child, libc::SIGUSR1);
    }

    /// Ends it with SIGKILL and reaps it.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for LockHolder {
    fn drop(&mut self) {
        calls::kill(self.child, libc::SIGKILL);
        let _ = calls::wait(self.child);
    }
}

// ------------------------------------------------------------ in the child

fn serve(path: &Path, mut orders: File, mut answers: File) -> io::Result<()> {
    calls::let_a_signal_interrupt();
    let open = || OpenOptions::new().read(true).write(true).open(path);
    let mut file = Some(open()?);
    loop {
        let message = receive(&mut orders)?;
        let answer = match obey(&mut file, &message, open) {
            Ok(lock) => [0, lock.kind.into(), lock.start, lock.length, lock.pid.into()],
            Err(error) => [error.raw_os_error().unwrap_or(libc::EIO).into(), 0, 0, 0, 0],
        };
        let bytes: Vec<u8> = answer.iter().flat_map(|word| word.to_ne_bytes()).collect();
        answers.write_all(&bytes)?;
    }
}

fn obey(file: &mut Option<File>, message: &Message, open: impl Fn() -> io::Result<File>) -> io::Result<RecordLock> {
    let lock = decode_lock(&[message[1], message[2], message[3], 0]);
    let open_file = || file.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF));
    let patience = if message[4] == 1 { Patience::Wait } else { Patience::DoNotWait };
    match message[0] {
        0 => calls::set_lock(open_file()?, Family::Process, lock, patience).map(|()| lock),
        1 => calls::set_lock(open_file()?, Family::OpenFile, lock, patience).map(|()| lock),
        2 => calls::get_lock(open_file()?, Family::Process, lock),
        3 => calls::get_lock(open_file()?, Family::OpenFile, lock),
        4 => flock(open_file()?, flock_operation(message[1])).map(|()| lock).map_err(Into::into),
        5 => open().map(|_| lock),
        _ => {
            drop(file.take());
            *file = Some(open()?);
            Ok(lock)
        }
    }
}

// ------------------------------------------------------------ messages

fn encode(order: Order) -> Message {
    let words = |number, lock: RecordLock, wait| [number, lock.kind.into(), lock.start, lock.length, wait];
    match order {
        Order::Set(Family::Process, lock, patience) => words(0, lock, (patience == Patience::Wait).into()),
        Order::Set(Family::OpenFile, lock, patience) => words(1, lock, (patience == Patience::Wait).into()),
        Order::Get(Family::Process, lock) => words(2, lock, 0),
        Order::Get(Family::OpenFile, lock) => words(3, lock, 0),
        Order::Flock(operation) => [4, operation.into(), 0, 0, 0],
        Order::OpenAndClose => [5, 0, 0, 0, 0],
        Order::Reopen => [6, 0, 0, 0, 0],
    }
}

/// From kind, start, length, pid.
fn decode_lock(words: &[i64]) -> RecordLock {
    RecordLock { kind: words[0] as i32, start: words[1], length: words[2], pid: words[3] as i32 }
}

fn flock_operation(number: i64) -> FlockOperation {
    match number as i32 {
        libc::LOCK_SH => FlockOperation::LockShared,
        libc::LOCK_EX => FlockOperation::LockExclusive,
        libc::LOCK_UN => FlockOperation::Unlock,
        number if number == libc::LOCK_SH | libc::LOCK_NB => FlockOperation::NonBlockingLockShared,
        _ => FlockOperation::NonBlockingLockExclusive,
    }
}

fn receive(from: &mut impl Read) -> io::Result<Message> {
    let mut bytes = [0; WORDS * 8];
    from.read_exact(&mut bytes)?;
    let mut message = [0; WORDS];
    for (word, chunk) in message.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = i64::from_ne_bytes(chunk.try_into().expect("eight bytes"));
    }
    Ok(message)
}
