//! What is done to a cluster in a round, and undone again.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::fault::{Fault, Trouble, Victim};
use super::journal::now_ns;
use super::oracle::{Kind, Moment, Problem};
use super::rounds::{CHUNKSERVERS, Campaign, Extras};
use crate::network::{Machine, Silence};
use crate::programs::program;
use crate::volumes::{Access, DiskError};

/// Longer than a session of these clusters lasts without a heartbeat, and than a chunkserver counts as there.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a full or failing volume stays so.
const TROUBLE: Duration = Duration::from_secs(3);
/// How long a daemon that must refuse to start may take.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);
const DAY_SECONDS: i64 = 24 * 3600;
/// The chunkserver whose disk can fail.
const WITH_FAULTY_DISK: usize = 0;

impl Campaign {
    pub(super) fn inflict(&mut self, fault: Fault, extras: Extras, random: &mut StdRng) -> anyhow::Result<Moment> {
        let begin_ns = now_ns();
        let victim = random.random_range(0..CHUNKSERVERS);
        match fault {
            Fault::Everything => return self.cut_everything(extras, random),
            Fault::Master => return self.cut_master(),
            Fault::AllChunkservers => self.cut_all_chunkservers(random)?,
            Fault::OneChunkserver => self.cut_one_chunkserver(victim, random)?,
            Fault::KillChunkservers => {
                (0..CHUNKSERVERS).for_each(|index| self.cluster.kill_chunkserver(index));
                pause(random, 1_000);
                (0..CHUNKSERVERS).try_for_each(|index| self.cluster.start_chunkserver(index))?;
            }
            Fault::FreezeChunkservers => self.freeze_chunkservers()?,
            Fault::On(Victim::Master, trouble) => self.trouble_master(trouble)?,
            Fault::On(Victim::Chunkserver, trouble) => self.trouble_chunkserver(victim, trouble, random)?,
            Fault::On(Victim::Client, trouble) => self.trouble_client(trouble)?,
        }
        Ok(Moment::new(begin_ns, now_ns()))
    }

    fn trouble_master(&mut self, trouble: Trouble) -> anyhow::Result<()> {
        match trouble {
            Trouble::Kill => {
                self.cluster.kill_master();
                self.cluster.start_master()
            }
            Trouble::Pause => {
                self.cluster.pause_master();
                sleep(PAUSE);
                self.cluster.resume_master();
                Ok(())
            }
            Trouble::Cut(silence) => self.cut_off(Machine::Master, silence),
            Trouble::ClockJump => self.let_clock_jump(Machine::Master),
            Trouble::Full => self.fill(None),
            Trouble::ReadErrors => self.fail_master_disk(DiskError::Read),
            Trouble::WriteErrors => self.fail_master_disk(DiskError::Write),
            Trouble::SyncErrors => self.fail_master_disk(DiskError::Sync),
            Trouble::Hang => self.let_hang(None),
            Trouble::ReadOnly => {
                self.cluster.kill_master();
                self.cluster.volume(None).remount(Access::ReadOnly)?;
                self.master_must_refuse("on a volume that is mounted read-only")?;
                self.cluster.volume(None).remount(Access::ReadWrite)?;
                self.cluster.start_master()
            }
            Trouble::Unmounted => {
                self.cluster.volume(None).detach()?;
                sleep(TROUBLE);
                self.look_for_strays(None)?;
                self.cluster.kill_master();
                self.look_for_strays(None)?;
                self.cluster.volume(None).mount()?;
                self.cluster.start_master()
            }
            Trouble::WrongVolume => {
                self.cluster.kill_master();
                self.cluster.volume(None).unmount()?;
                self.cluster.volume(Some(1)).mount_at(self.cluster.master_folder())?;
                self.master_must_refuse("on a chunkserver's volume")?;
                self.cluster.volume(None).unmount()?;
                self.cluster.volume(None).mount()?;
                self.cluster.start_master()
            }
            Trouble::TwoDaemons | Trouble::TwoVolumes => self.master_must_refuse("on a folder in use"),
        }
    }

    fn trouble_chunkserver(&mut self, victim: usize, trouble: Trouble, random: &mut StdRng) -> anyhow::Result<()> {
        match trouble {
            Trouble::Kill => {
                self.cluster.kill_chunkserver(victim);
                pause(random, 2_000);
                self.cluster.start_chunkserver(victim)
            }
            Trouble::Pause => {
                self.cluster.pause_chunkserver(victim);
                sleep(PAUSE);
                self.cluster.resume_chunkserver(victim);
                Ok(())
            }
            Trouble::Cut(silence) => self.cut_off(Machine::Chunkserver(victim), silence),
            Trouble::ClockJump => self.let_clock_jump(Machine::Chunkserver(victim)),
            Trouble::Full => self.fill(Some(victim)),
            Trouble::ReadErrors => self.fail_chunkserver_disk(DiskError::Read),
            Trouble::WriteErrors => self.fail_chunkserver_disk(DiskError::Write),
            Trouble::SyncErrors => self.fail_chunkserver_disk(DiskError::Sync),
            Trouble::Hang => self.let_hang(Some(WITH_FAULTY_DISK)),
            Trouble::ReadOnly => self.make_read_only(victim),
            Trouble::Unmounted => self.unmount_beneath(victim),
            Trouble::WrongVolume => self.mount_the_wrong_volume(victim),
            Trouble::TwoDaemons => self.serve_a_folder_twice(victim),
            Trouble::TwoVolumes => self.serve_a_copied_volume(victim.max(WITH_FAULTY_DISK + 1)),
        }
    }

    fn trouble_client(&mut self, trouble: Trouble) -> anyhow::Result<()> {
        match trouble {
            Trouble::Kill => self.mount.take().context("it is mounted")?.kill(),
            Trouble::Cut(silence) => self.cut_off(Machine::Client, silence)?,
            Trouble::ClockJump => self.let_clock_jump(Machine::Client)?,
            _ => {
                let mount = self.mount.as_ref().context("it is mounted")?;
                mount.pause();
                sleep(PAUSE);
                mount.resume();
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------ machines

    fn cut_off(&self, machine: Machine, silence: Silence) -> anyhow::Result<()> {
        self.cluster.cut_off(machine, silence)?;
        sleep(PAUSE);
        self.cluster.connect_again(machine)
    }

    fn let_clock_jump(&self, machine: Machine) -> anyhow::Result<()> {
        for seconds in [DAY_SECONDS, -DAY_SECONDS, 0] {
            self.cluster.set_clock(machine, seconds)?;
            sleep(TROUBLE / 2);
        }
        Ok(())
    }

    // ------------------------------------------------------------ power

    /// All machines lose power. They cannot in the same instant here: clients go first, or daemons.
    fn cut_everything(&mut self, extras: Extras, random: &mut StdRng) -> anyhow::Result<Moment> {
        let mount = self.mount.take().context("it is mounted")?;
        if random.random_bool(0.5) {
            mount.kill();
            let begin_ns = now_ns();
            self.cut_all_daemons()?;
            return self.power_on_everything(begin_ns, extras);
        }
        let begin_ns = now_ns();
        self.cut_all_daemons()?;
        mount.kill();
        self.power_on_everything(begin_ns, extras)
    }

    fn power_on_everything(&mut self, begin_ns: u64, extras: Extras) -> anyhow::Result<Moment> {
        let moment = Moment::new(begin_ns, now_ns());
        self.power_on(&[None, Some(0), Some(1), Some(2)])?;
        self.cluster.start_master()?;
        for index in (0..CHUNKSERVERS).filter(|index| extras.one_stays_away != Some(*index)) {
            self.cluster.start_chunkserver(index)?;
        }
        Ok(moment)
    }

    // A daemon dies before its disk: nothing is acknowledged from then on, as in a power cut. The other way round it would live
    // on for a moment, and XFS may tell it that a sync which was under way has succeeded although the shutdown dropped it.

    fn cut_all_daemons(&mut self) -> anyhow::Result<()> {
        self.cluster.kill_master();
        (0..CHUNKSERVERS).for_each(|index| self.cluster.kill_chunkserver(index));
        self.cut(&[None, Some(0), Some(1), Some(2)])
    }

    fn cut_master(&mut self) -> anyhow::Result<Moment> {
        let begin_ns = now_ns();
        self.cluster.kill_master();
        self.cut(&[None])?;
        let end_ns = now_ns();
        self.power_on(&[None])?;
        self.cluster.start_master()?;
        Ok(Moment::new(begin_ns, end_ns))
    }

    fn cut_all_chunkservers(&mut self, random: &mut StdRng) -> anyhow::Result<()> {
        let all = [Some(0), Some(1), Some(2)];
        (0..CHUNKSERVERS).for_each(|index| self.cluster.kill_chunkserver(index));
        self.cut(&all)?;
        pause(random, 1_000);
        self.power_on(&all)?;
        (0..CHUNKSERVERS).try_for_each(|index| self.cluster.start_chunkserver(index))
    }

    fn cut_one_chunkserver(&mut self, victim: usize, random: &mut StdRng) -> anyhow::Result<()> {
        self.cluster.kill_chunkserver(victim);
        self.cut(&[Some(victim)])?;
        pause(random, 2_000);
        self.power_on(&[Some(victim)])?;
        self.cluster.start_chunkserver(victim)
    }

    /// Cuts the power of these volumes, as nearly at once as processes can.
    fn cut(&self, volumes: &[Option<usize>]) -> anyhow::Result<()> {
        std::thread::scope(|scope| {
            let cutting: Vec<_> =
                volumes.iter().map(|at| scope.spawn(|| self.cluster.volume(*at).cut_power())).collect();
            cutting.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })
    }

    fn power_on(&self, volumes: &[Option<usize>]) -> anyhow::Result<()> {
        volumes.iter().try_for_each(|at| {
            self.cluster.volume(*at).unmount()?;
            self.cluster.volume(*at).mount()
        })
    }

    // ------------------------------------------------------------ volumes

    fn fill(&self, daemon: Option<usize>) -> anyhow::Result<()> {
        let filling = self.cluster.volume(daemon).fill()?;
        sleep(TROUBLE);
        fs::remove_file(filling)?;
        Ok(())
    }

    fn let_hang(&self, daemon: Option<usize>) -> anyhow::Result<()> {
        self.cluster.volume(daemon).hang()?;
        sleep(PAUSE);
        self.cluster.volume(daemon).go_on()
    }

    fn freeze_chunkservers(&self) -> anyhow::Result<()> {
        (0..CHUNKSERVERS).try_for_each(|index| self.cluster.volume(Some(index)).freeze())?;
        sleep(PAUSE);
        (0..CHUNKSERVERS).try_for_each(|index| self.cluster.volume(Some(index)).thaw())
    }

    /// Nothing may be written beneath a volume that is away.
    fn look_for_strays(&mut self, daemon: Option<usize>) -> anyhow::Result<()> {
        let folder = match daemon {
            Some(index) => self.cluster.chunkserver_folder(index),
            None => self.cluster.master_folder(),
        };
        let strays = fs::read_dir(folder)?.count();
        if strays > 0 {
            let words = format!("{strays} entries were written to the folder that a volume had been mounted on");
            self.problem(Problem::new(Kind::Misplaced, words));
        }
        Ok(())
    }

    fn unmount_beneath(&mut self, victim: usize) -> anyhow::Result<()> {
        self.cluster.volume(Some(victim)).detach()?;
        sleep(TROUBLE);
        self.look_for_strays(Some(victim))?;
        self.cluster.kill_chunkserver(victim);
        self.cluster.volume(Some(victim)).mount()?;
        self.cluster.start_chunkserver(victim)
    }

    /// As after a start of the machine with a LUN that may only be read.
    fn make_read_only(&mut self, victim: usize) -> anyhow::Result<()> {
        self.cluster.kill_chunkserver(victim);
        self.cluster.volume(Some(victim)).remount(Access::ReadOnly)?;
        self.cluster.start_chunkserver(victim)?;
        sleep(TROUBLE);
        self.cluster.kill_chunkserver(victim);
        self.cluster.volume(Some(victim)).remount(Access::ReadWrite)?;
        self.cluster.start_chunkserver(victim)
    }

    /// The daemon may run, but not serve a volume that another one serves.
    fn mount_the_wrong_volume(&mut self, victim: usize) -> anyhow::Result<()> {
        let other = (victim + 1) % CHUNKSERVERS;
        self.cluster.kill_chunkserver(victim);
        self.cluster.volume(Some(victim)).unmount()?;
        self.cluster.volume(Some(other)).mount_at(self.cluster.chunkserver_folder(victim))?;
        self.cluster.start_chunkserver(victim)?;
        sleep(TROUBLE);
        self.expect_volumes(CHUNKSERVERS - 1, "with one mounted twice")?;
        self.cluster.kill_chunkserver(victim);
        self.cluster.volume(Some(victim)).unmount()?;
        self.cluster.volume(Some(victim)).mount()?;
        self.cluster.start_chunkserver(victim)
    }

    fn expect_volumes(&mut self, count: usize, when: &str) -> anyhow::Result<()> {
        let status = self.cluster.status()?;
        if status["volumes_in_service"] != count {
            let words = format!("{} volumes are in service, {when}", status["volumes_in_service"]);
            self.problem(Problem::new(Kind::Misplaced, words));
        }
        Ok(())
    }

    fn serve_a_folder_twice(&mut self, victim: usize) -> anyhow::Result<()> {
        let folder = self.cluster.chunkserver_folder(victim).to_owned();
        let second = self.second_chunkserver(&folder)?;
        self.must_refuse(second, "a second chunkserver on a volume in use")
    }

    /// The copy says that it is the volume, and its daemon that it is the chunkserver. Only what serves already may go on.
    fn serve_a_copied_volume(&mut self, victim: usize) -> anyhow::Result<()> {
        let copy = self.cluster.volume(Some(victim)).copy(self.cluster.folder().join("copied"))?;
        let mut second = self.second_chunkserver(copy.path())?;
        sleep(TROUBLE);
        let wrong = self.cluster.rfs_json(&["volumes"])?.to_string().contains("copied");
        if wrong {
            self.problem(Problem::new(Kind::Misplaced, "the copy of a volume in use is served in its place"));
        }
        self.expect_volumes(CHUNKSERVERS, "with a copy of one at a second chunkserver")?;
        let _ = second.kill();
        second.wait()?;
        copy.unmount()?;
        fs::remove_dir(copy.path())?;
        copy.remove()
    }

    fn second_chunkserver(&self, folder: &Path) -> anyhow::Result<Child> {
        let mut command = Command::new(program("chunkserver"));
        command.arg("--data").arg(folder).args(["--master", &self.cluster.master_address(), "-o", "listen=0.0.0.0:0"]);
        self.start_stranger(command, "second-chunkserver.log")
    }

    fn start_stranger(&self, mut command: Command, log: &str) -> anyhow::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(self.cluster.folder().join("log").join(log))?;
        let child = command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        self.cluster.guardian().process(child.id());
        Ok(child)
    }

    fn master_must_refuse(&mut self, when: &str) -> anyhow::Result<()> {
        let mut command = Command::new(program("mfs-master"));
        command.arg("--data").arg(self.cluster.master_folder());
        for port in ["clients", "cluster", "web", "metrics"] {
            command.args(["-o", &format!("listen.{port}=127.0.0.1:0")]);
        }
        let second = self.start_stranger(command, "second-master.log")?;
        self.must_refuse(second, &format!("a master {when}"))
    }

    fn must_refuse(&mut self, mut second: Child, what: &str) -> anyhow::Result<()> {
        let mut status = None;
        self.cluster.wait(REFUSED_WITHIN, || {
            status = second.try_wait().ok().flatten();
            status.is_some()
        });
        if status.is_none_or(|status| status.success()) {
            self.problem(Problem::new(Kind::Misplaced, format!("{what} did not refuse it: {status:?}")));
            let _ = second.kill();
            second.wait()?;
        }
        Ok(())
    }

    // ------------------------------------------------------------ disks

    /// The disk fails, and works again; its volume is mounted anew then, as an administrator would.
    fn fail_chunkserver_disk(&mut self, error: DiskError) -> anyhow::Result<()> {
        self.disk_failed = true;
        self.fail_disk(Some(WITH_FAULTY_DISK), error)?;
        self.cluster.kill_chunkserver(WITH_FAULTY_DISK);
        self.power_on(&[Some(WITH_FAULTY_DISK)])?;
        self.cluster.start_chunkserver(WITH_FAULTY_DISK)
    }

    fn fail_master_disk(&mut self, error: DiskError) -> anyhow::Result<()> {
        self.fail_disk(None, error)?;
        self.cluster.kill_master();
        self.power_on(&[None])?;
        self.cluster.start_master()
    }

    fn fail_disk(&mut self, daemon: Option<usize>, error: DiskError) -> anyhow::Result<()> {
        let volume = self.cluster.volume(daemon);
        volume.set_error(error, true)?;
        if error == DiskError::Read {
            fs::write("/proc/sys/vm/drop_caches", "1")?;
        }
        sleep(TROUBLE);
        volume.set_error(error, false)
    }
}

fn pause(random: &mut StdRng, milliseconds_max: u64) {
    sleep(Duration::from_millis(random.random_range(0..milliseconds_max)));
}
