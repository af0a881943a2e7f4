//! What is done to a cluster in a round, and undone again.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::journal::now_ns;
use super::oracle::{Fault, Kind, Moment, Problem};
use super::rounds::{CHUNKSERVERS, Campaign, Extras};
use crate::programs::program;
use crate::volumes::DiskError;

/// Longer than a session of these clusters lasts without a heartbeat, and than a chunkserver counts as there.
const PAUSE: Duration = Duration::from_secs(6);
/// How long a full or failing volume stays so.
const TROUBLE: Duration = Duration::from_secs(3);
/// How long a daemon that must refuse to start may take.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);

impl Campaign {
    pub(super) fn inflict(&mut self, fault: Fault, extras: Extras, random: &mut StdRng) -> anyhow::Result<Moment> {
        let begin_ns = now_ns();
        let victim = random.random_range(0..CHUNKSERVERS);
        match fault {
            Fault::Everything => return self.cut_everything(extras, random),
            Fault::Master => return self.cut_master(),
            Fault::AllChunkservers => self.cut_all_chunkservers(random)?,
            Fault::OneChunkserver => self.cut_one_chunkserver(victim, random)?,
            Fault::Client => self.mount.take().context("it is mounted")?.kill(),
            Fault::KillMaster => {
                self.cluster.kill_master();
                self.cluster.start_master()?;
            }
            Fault::KillChunkserver => {
                self.cluster.kill_chunkserver(victim);
                pause(random, 2_000);
                self.cluster.start_chunkserver(victim)?;
            }
            Fault::KillChunkservers => {
                (0..CHUNKSERVERS).for_each(|index| self.cluster.kill_chunkserver(index));
                pause(random, 1_000);
                (0..CHUNKSERVERS).try_for_each(|index| self.cluster.start_chunkserver(index))?;
            }
            Fault::PauseMaster => {
                self.cluster.pause_master();
                sleep(PAUSE);
                self.cluster.resume_master();
            }
            Fault::PauseChunkserver => {
                self.cluster.pause_chunkserver(victim);
                sleep(PAUSE);
                self.cluster.resume_chunkserver(victim);
            }
            Fault::PauseClient => {
                let mount = self.mount.as_ref().context("it is mounted")?;
                mount.pause();
                sleep(PAUSE);
                mount.resume();
            }
            Fault::FullMaster => self.fill(None)?,
            Fault::FullChunkserver => self.fill(Some(victim))?,
            Fault::UnmountedChunkserver => self.unmount_beneath(victim)?,
            Fault::WrongVolume => self.mount_the_wrong_volume(victim)?,
            Fault::SameVolumeTwice => self.serve_a_volume_twice(victim)?,
            Fault::ReadErrors => self.fail_disk(DiskError::Read)?,
            Fault::WriteErrors => self.fail_disk(DiskError::Write)?,
        }
        Ok(Moment::new(begin_ns, now_ns()))
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

    fn unmount_beneath(&mut self, victim: usize) -> anyhow::Result<()> {
        self.cluster.volume(Some(victim)).detach()?;
        sleep(TROUBLE);
        let strays = fs::read_dir(self.cluster.chunkserver_folder(victim))?.count();
        if strays > 0 {
            let words = format!("{strays} entries were written to the folder that a volume had been mounted on");
            self.problem(Problem::new(Kind::Misplaced, words));
        }
        self.cluster.kill_chunkserver(victim);
        self.cluster.volume(Some(victim)).mount()?;
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
        let status = self.cluster.status()?;
        if status["volumes_in_service"] != CHUNKSERVERS - 1 {
            let words = format!("{} volumes are in service, with one mounted twice", status["volumes_in_service"]);
            self.problem(Problem::new(Kind::Misplaced, words));
        }
        self.cluster.kill_chunkserver(victim);
        self.cluster.volume(Some(victim)).unmount()?;
        self.cluster.volume(Some(victim)).mount()?;
        self.cluster.start_chunkserver(victim)
    }

    fn serve_a_volume_twice(&mut self, victim: usize) -> anyhow::Result<()> {
        let mut second = self.second_chunkserver(victim)?;
        let mut status = None;
        self.cluster.wait(REFUSED_WITHIN, || {
            status = second.try_wait().ok().flatten();
            status.is_some()
        });
        if status.is_none_or(|status| status.success()) {
            let words = format!("a second chunkserver on a volume in use did not refuse it: {status:?}");
            self.problem(Problem::new(Kind::Misplaced, words));
            second.kill()?;
            second.wait()?;
        }
        Ok(())
    }

    fn second_chunkserver(&self, victim: usize) -> anyhow::Result<Child> {
        let mut command = Command::new(program("chunkserver"));
        command.arg("--data").arg(self.cluster.chunkserver_folder(victim)).arg("--master");
        command.arg(self.cluster.master_address()).args(["-o", "listen=127.0.0.1:0"]).current_dir("/");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        self.cluster.guardian().process(child.id());
        Ok(child)
    }

    /// The first chunkserver's disk fails, and works again; its volume is mounted anew then, as an administrator would.
    fn fail_disk(&mut self, error: DiskError) -> anyhow::Result<()> {
        let volume = self.cluster.volume(Some(0));
        volume.set_error(error, true)?;
        fs::write("/proc/sys/vm/drop_caches", "1")?;
        sleep(TROUBLE);
        volume.set_error(error, false)?;
        self.cluster.kill_chunkserver(0);
        self.power_on(&[Some(0)])?;
        self.cluster.start_chunkserver(0)
    }
}

fn pause(random: &mut StdRng, milliseconds_max: u64) {
    sleep(Duration::from_millis(random.random_range(0..milliseconds_max)));
}
