//! Rounds: actors work, something is broken at a random moment, everything comes back, and the oracle judges.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::actor::{GENERATION_BITS, Load};
use super::background::Background;
use super::content::{Described, Image};
use super::fault::{Fault, Trouble, Victim};
use super::journal::{self, Record};
use super::names::Entry;
use super::observe::{self, Found};
use super::oracle::{Kind, Model, Moment, Problem, Verdict};
use crate::cluster::{Cluster, IN_TIME, Machines, Mount, Shape, Storage};
use crate::programs::{program, test_program};

const ACTORS: usize = 3;
pub(super) const CHUNKSERVERS: usize = 3;
/// How long actors may take to finish: as long as a client waits for chunkservers, and some.
const FINISH_MAX: Duration = Duration::from_secs(60);
/// What `chunkserver verify` says of a copy that its chunkserver knows to be bad.
const KNOWN_BAD: &str = "a write or sync of it failed before";
/// A mount that works waits for copies that come back, but no test is to wait for those that do not.
const WORK_OPTIONS: [&str; 2] = ["-o", "chunk_timeout=20s"];
/// What is found must be readable: a mount that looks does not wait longer for copies that will not come.
const LOOK_OPTIONS: [&str; 2] = ["-o", "chunk_timeout=4s"];

/// Times shorter than usual, so that rounds are.
const MASTER_SETTINGS: [&str; 7] = [
    "session_expiry=3s",
    "heartbeat_interval=500ms",
    "chunkserver_expiry=3s",
    "repair_delay=1s",
    "mass_outage_wait=5s",
    "chunk_wait=2s",
    "log_unsynced_max=50ms",
];
const CHUNKSERVER_SETTINGS: [&str; 2] = ["close_after=1s", "retry_interval=500ms"];

/// Every twelve rounds are these, in random order.
pub const FAULTS: [Fault; 12] = [
    Fault::Everything,
    Fault::Everything,
    Fault::Everything,
    Fault::AllChunkservers,
    Fault::AllChunkservers,
    Fault::OneChunkserver,
    Fault::OneChunkserver,
    Fault::Master,
    Fault::Master,
    Fault::On(Victim::Client, Trouble::Kill),
    Fault::On(Victim::Master, Trouble::Kill),
    Fault::KillChunkservers,
];

/// What a campaign is like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of the cluster, for reports.
    pub name: String,
    /// What the actors do.
    pub load: Load,
    /// What goes on beside them.
    pub background: Background,
    /// Whether every daemon has a machine of its own, and some have disks that can fail.
    pub machines: Machines,
}

/// A cluster, and what was promised on it.
pub struct Campaign {
    pub(super) cluster: Cluster,
    plan: Plan,
    pub(super) mount: Option<Mount>,
    models: Vec<Model>,
    round: u32,
    fault: Fault,
    pub(super) disk_failed: bool,
    problems: Vec<Broken>,
}

/// A promise that was broken in a round.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Of which cluster.
    pub cluster: String,
    /// In which round.
    pub round: u32,
    /// After which fault.
    pub fault: Fault,
    /// How.
    pub problem: Problem,
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, round, fault, problem: Problem { kind, words } } = self;
        write!(out, "{cluster} round {round}, {fault}: {kind:?}: {words}")
    }
}

struct Actors {
    child: Child,
    journals: PathBuf,
}

/// What a round adds to the verification that every round has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extras {
    /// After a cut of everything, one chunkserver does not come back before all that was promised was found.
    pub(super) one_stays_away: Option<usize>,
    /// When all has its copies again, one chunkserver goes and all is verified once more.
    then_lose: Option<usize>,
    /// All stop, and the offline checkers look.
    check_offline: bool,
}

impl Campaign {
    /// Makes the cluster.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(plan: Plan) -> anyhow::Result<Self> {
        let own = |all: &[&str], more: &[&str]| all.iter().chain(more).map(|setting| (*setting).to_owned()).collect();
        let shape = Shape {
            chunkservers: CHUNKSERVERS,
            storage: Storage::Xfs {
                master_bytes: 1 << 30,
                chunkserver_bytes: 1 << 30,
                disks_may_fail: plan.machines == Machines::Many,
            },
            machines: plan.machines,
            master_settings: own(&MASTER_SETTINGS, plan.background.master_settings()),
            chunkserver_settings: own(&CHUNKSERVER_SETTINGS, plan.background.chunkserver_settings()),
            ..Shape::default()
        };
        let cluster = Cluster::start_shaped(shape)?;
        let mut campaign = Self {
            cluster,
            plan,
            mount: None,
            models: vec![Model::default(); ACTORS],
            round: 0,
            fault: Fault::Everything,
            disk_failed: false,
            problems: Vec::new(),
        };
        let mount = campaign.mount_to_work()?;
        for actor in 0..ACTORS {
            fs::create_dir(mount.path().join(format!("a{actor}")))?;
        }
        campaign.plan.background.prepare(&mount)?;
        File::open(mount.path())?.sync_all()?;
        campaign.mount = Some(mount);
        Ok(campaign)
    }

    fn mount_to_work(&self) -> anyhow::Result<Mount> {
        match self.plan.machines {
            Machines::One => self.cluster.mount_with(&WORK_OPTIONS),
            Machines::Many => self.cluster.mount_on_client(&WORK_OPTIONS),
        }
    }

    /// Where its logs and journals are.
    pub fn folder(&self) -> &Path {
        self.cluster.folder()
    }

    /// Everything that was found wrong so far.
    pub fn problems(&self) -> &[Broken] {
        &self.problems
    }

    /// One round. What is wrong with promises is noted, see [`Self::problems`].
    ///
    /// # Errors
    /// If the cluster does not come back.
    #[allow(clippy::print_stdout, reason = "the report of a test")]
    pub fn round(&mut self, fault: Fault, seed: u64) -> anyhow::Result<Verdict> {
        let mut random = StdRng::seed_from_u64(seed);
        self.fault = fault;
        let extras = extras(fault, &mut random);
        let before = self.cluster.now();
        let problems_before = self.problems.len();
        let verdict = self
            .break_and_judge(fault, extras, &mut random)
            .with_context(|| format!("{} round {}: {fault} {extras:?}", self.plan.name, self.round))
            // There is something to look at.
            .inspect_err(|_| self.cluster.guardian().keep())?;
        println!(
            "{} round {}: {fault}: {} fsyncs, {} files ({} partly unsynced), {} unsynced names taken, longest call {:.1} s, {} errors, {} problems; {:.1} s",
            self.plan.name,
            self.round,
            verdict.fsyncs,
            verdict.files,
            verdict.files_in_doubt,
            verdict.names_lost,
            verdict.longest_call.as_secs_f64(),
            verdict.errors,
            self.problems.len() - problems_before,
            self.cluster.now().since(before).as_secs_f64(),
        );
        for Broken { problem, .. } in &self.problems[problems_before..] {
            println!("  {:?}: {}", problem.kind, problem.words);
        }
        self.round += 1;
        Ok(verdict)
    }

    fn break_and_judge(&mut self, fault: Fault, extras: Extras, random: &mut StdRng) -> anyhow::Result<Verdict> {
        if self.mount.is_none() {
            self.mount = Some(self.mount_to_work()?);
        }
        let mut actors = self.start_actors(random)?;
        let mut background = self.plan.background.begin(&self.cluster)?;
        sleep(Duration::from_millis(random.random_range(150..1_200)));
        actors.tell_of_cut()?;
        let (deceived, silent) = (self.sessions_ended_by_losses()?, self.sessions_ended_by_silence()?);
        let mut moment = self.inflict(fault, extras, random)?;
        match fault.client_lives() {
            true => {
                sleep(Duration::from_millis(random.random_range(100..600)));
                self.let_finish(&mut actors)?;
            }
            false => actors.kill()?,
        }
        if fault.master_alone_loses_power() {
            moment.log_lost = self.sessions_ended_by_losses()? > deceived;
        }
        moment.session_ended = fault.silences_the_client() && self.sessions_ended_by_silence()? > silent;
        if let Some(background) = &mut background {
            background.kill()?;
            background.wait()?;
        }
        let found_before = self.mount.as_ref().map(|mount| look(mount.path()));
        let fresh = self.cluster.mount_with(&LOOK_OPTIONS)?;
        let mut found = look(fresh.path());
        let unreadable: Vec<BTreeSet<u64>> = found.iter().map(Found::unreadable).collect();
        if let Some(away) = extras.one_stays_away {
            self.cluster.start_chunkserver(away)?;
            self.cluster.wait_for_volumes(CHUNKSERVERS)?;
            // What no fsync covered may have its only copy there.
            for (found, again) in found.iter_mut().zip(look(fresh.path())) {
                found.take_what_was_unreadable(again);
            }
        }
        if let Some(before) = found_before.filter(|before| *before != found) {
            self.problem(Problem::new(Kind::MountsDiffer, difference(&before, &found)));
        }
        let verdict = self.judge(&actors.journals, fault, moment, (&found, &unreadable))?;
        for problem in self.plan.background.verify(fresh.path()) {
            self.problem(problem);
        }
        for (path, _, error) in sync_all(fresh.path(), &found) {
            self.problem(Problem::new(Kind::CannotSync, format!("{}: {error}", path.display())));
        }
        fresh.unmount()?;
        self.hear_of_losses(fault, moment, &found, &verdict);
        self.verify_further(extras, &found)?;
        Ok(verdict)
    }

    pub(super) fn problem(&mut self, problem: Problem) {
        // There is something to look at.
        self.cluster.guardian().keep();
        let (cluster, fault) = (self.plan.name.clone(), self.fault);
        self.problems.push(Broken { cluster, round: self.round, fault, problem });
    }

    // ------------------------------------------------------------ actors

    fn start_actors(&self, random: &mut StdRng) -> anyhow::Result<Actors> {
        let journals = self.cluster.folder().join(format!("journals{}", self.round));
        fs::create_dir(&journals)?;
        let root = self.mount.as_ref().context("it is mounted")?.path();
        let child = Command::new(test_program("rfs-test-actor"))
            .arg(root)
            .arg(&journals)
            .arg(ACTORS.to_string())
            .arg(random.random::<u64>().to_string())
            .arg((self.round << GENERATION_BITS).to_string())
            .arg(format!("{:?}", self.plan.load))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .current_dir("/")
            .spawn()?;
        self.cluster.guardian().process(child.id());
        Ok(Actors { child, journals })
    }

    fn let_finish(&mut self, actors: &mut Actors) -> anyhow::Result<()> {
        actors.tell("finish");
        let mut ended = None;
        let in_time = self.cluster.wait(FINISH_MAX, || {
            ended = actors.child.try_wait().ok().flatten();
            ended.is_some()
        });
        match ended {
            Some(status) if status.success() => {}
            Some(status) => self.problem(Problem::new(Kind::CallFailed, format!("the actors ended with {status}"))),
            None => {
                ensure!(!in_time, "it waited");
                let words = format!("a call did not end within {} s", FINISH_MAX.as_secs());
                self.problem(Problem::new(Kind::Hangs, words));
                if let Some(mount) = self.mount.take() {
                    mount.kill();
                }
                actors.kill()?;
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------ verifying

    /// `unreadable`: files that could not be read at first, while one chunkserver was away.
    fn judge(
        &mut self,
        journals: &Path,
        fault: Fault,
        moment: Moment,
        (found, unreadable): (&[Found], &[BTreeSet<u64>]),
    ) -> anyhow::Result<Verdict> {
        let mut sum = Verdict::default();
        let read = (0..ACTORS).map(|actor| journal::read(&journals.join(actor.to_string())));
        let read = read.collect::<anyhow::Result<Vec<(Vec<Record>, Vec<String>)>>>()?;
        let mut moment = moment;
        moment.note_last_change(read.iter().flat_map(|(records, _)| records));
        let found = found.iter().zip(unreadable);
        for (actor, ((records, violations), (found, unreadable))) in read.into_iter().zip(found).enumerate() {
            let verdict = self.models[actor].judge(&records, fault, moment, (found, unreadable));
            let seen = violations.into_iter().map(|words| Problem::new(Kind::ReadDuringWork, words));
            for problem in seen.chain(verdict.problems.iter().cloned()) {
                self.problem(Problem::new(problem.kind, format!("actor {actor}: {}", problem.words)));
            }
            self.models[actor].settle(found);
            sum.names_lost += verdict.names_lost;
            sum.files += verdict.files;
            sum.files_in_doubt += verdict.files_in_doubt;
            sum.fsyncs += verdict.fsyncs;
            sum.errors += verdict.errors;
            sum.longest_call = sum.longest_call.max(verdict.longest_call);
            sum.in_doubt.extend(verdict.in_doubt);
        }
        Ok(sum)
    }

    /// Has the mount that lived through the round tell of everything the round took, so that none of it is told in the next one.
    fn hear_of_losses(&mut self, fault: Fault, moment: Moment, found: &[Found], verdict: &Verdict) {
        let Some(mount) = &self.mount else { return };
        let told = sync_all(mount.path(), found);
        for (path, entry, error) in told {
            let inode = if let Entry::File(inode) = entry { inode } else { None };
            let may_be_told = match fault {
                Fault::AllChunkservers => inode.is_some_and(|inode| verdict.in_doubt.contains(&inode)),
                _ if fault.master_alone_loses_power() && moment.log_lost => true,
                _ if fault.fails_the_masters_disk() => inode.is_some_and(|inode| verdict.in_doubt.contains(&inode)),
                _ => moment.session_ended,
            };
            if !may_be_told {
                let words = format!("fsync of {} when the round was over: {error}", path.display());
                self.problem(Problem::new(Kind::CallFailed, words));
            }
        }
    }

    /// How many sessions the master has ended so far because its log had lost what they were told.
    fn sessions_ended_by_losses(&self) -> anyhow::Result<usize> {
        Ok(self.cluster.master_log()?.matches("was told what a power cut has taken").count())
    }

    /// How many times the session of the mount that works ended because nothing was heard from it.
    fn sessions_ended_by_silence(&self) -> anyhow::Result<usize> {
        let Some(mount) = &self.mount else { return Ok(0) };
        let mount = format!("({} on ", mount.path().display());
        let log = self.cluster.master_log()?;
        Ok(log.lines().filter(|line| line.contains(&mount) && line.contains(" has ended: its leases")).count())
    }

    fn verify_further(&mut self, extras: Extras, found: &[Found]) -> anyhow::Result<()> {
        if let Some(lost) = extras.then_lose {
            self.cluster.wait_for_status(IN_TIME, "fully replicated", |status| status["fully_replicated"] == true)?;
            self.cluster.kill_chunkserver(lost);
            let fresh = self.cluster.mount_with(&LOOK_OPTIONS)?;
            let again = look(fresh.path());
            if again != found {
                let words =
                    format!("without chunkserver {lost}, something else is found: {}", difference(found, &again));
                self.problem(Problem::new(Kind::OneCopyDiffers, words));
            }
            fresh.unmount()?;
            self.cluster.start_chunkserver(lost)?;
        }
        if extras.check_offline {
            self.check_offline()?;
        }
        self.cluster.wait_for_volumes(CHUNKSERVERS)
    }

    fn check_offline(&mut self) -> anyhow::Result<()> {
        if let Some(mount) = self.mount.take() {
            mount.unmount()?;
        }
        for index in 0..CHUNKSERVERS {
            self.cluster.stop_chunkserver(index)?;
        }
        self.cluster.stop_master()?;
        let mut check = Command::new(program("mfs-master"));
        self.must_approve(check.arg("check").arg(self.cluster.master_folder()))?;
        for index in 0..CHUNKSERVERS {
            let mut verify = Command::new(program("chunkserver"));
            self.must_approve(verify.arg("verify").arg(self.cluster.chunkserver_folder(index)))?;
        }
        self.cluster.start_everything()
    }

    fn must_approve(&mut self, command: &mut Command) -> anyhow::Result<()> {
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        // Copies that a failed disk has left bad, and that are known to be, stay for a while.
        let all_known = || said.lines().filter(|line| line.starts_with("bad: ")).all(|line| line.contains(KNOWN_BAD));
        if !output.status.success() && (!self.disk_failed || !all_known()) {
            let words = format!("{command:?} ended with {}: {said}", output.status);
            self.problem(Problem::new(Kind::Offline, words));
        }
        Ok(())
    }
}

/// What each round adds to the verification that all have, by chance.
fn extras(fault: Fault, random: &mut StdRng) -> Extras {
    let any = random.random_range(0..CHUNKSERVERS);
    Extras {
        one_stays_away: (fault == Fault::Everything && random.random_bool(0.4)).then_some(any),
        then_lose: random.random_bool(0.25).then_some((any + 1) % CHUNKSERVERS),
        check_offline: random.random_bool(0.2),
    }
}

/// Round `number` of a campaign in which each of these faults comes once, in random order, before they come again.
pub fn shuffled(faults: &[Fault], seed: u64, number: u64) -> Fault {
    let count = faults.len() as u64;
    let mut faults = faults.to_vec();
    faults.shuffle(&mut StdRng::seed_from_u64(seed.rotate_left(17) ^ (number / count)));
    faults[(number % count) as usize]
}

/// Syncs everything; what could not be, and why.
fn sync_all(root: &Path, found: &[Found]) -> Vec<(PathBuf, Entry, std::io::Error)> {
    let items = found.iter().enumerate().flat_map(|(actor, found)| {
        let folder = root.join(format!("a{actor}"));
        let all = found.names.iter().map(|(path, entry)| (path.as_str(), *entry)).chain([("", Entry::Folder)]);
        all.map(move |(path, entry)| (folder.join(path), entry))
    });
    let items: Vec<(PathBuf, Entry)> = items.collect();
    let errors = observe::in_parallel(&items, |(path, _)| File::open(path).and_then(|file| file.sync_all()).err());
    items.into_iter().zip(errors).filter_map(|((path, entry), error)| Some((path, entry, error?))).collect()
}

/// The first things that differ, in words.
fn difference(one: &[Found], other: &[Found]) -> String {
    let mut said = Vec::new();
    for (actor, (one, other)) in one.iter().zip(other).enumerate() {
        for (path, entry) in &one.names {
            if other.names.get(path) != Some(entry) {
                said.push(format!("a{actor}/{path} is {entry:?} and {:?}", other.names.get(path)));
            }
        }
        for path in other.names.keys().filter(|path| !one.names.contains_key(*path)) {
            said.push(format!("a{actor}/{path} is in the second only"));
        }
        for (inode, image) in &one.files {
            match (image, other.files.get(inode)) {
                (Ok(one), Some(Ok(other))) if one != other => {
                    let place = (0..one.length()).step_by(512).find(|at| one.read(*at, 512) != other.read(*at, 512));
                    let lengths = (one.length(), other.length());
                    let has = |image: &Image| {
                        let bytes = place.map(|at| image.read(at, 512)).unwrap_or_default();
                        Described { offset: place.unwrap_or(0), bytes: &bytes }.to_string()
                    };
                    let (one, other) = (has(one), has(other));
                    said.push(format!(
                        "file {inode} of a{actor}, lengths {lengths:?}, first at {place:?}: {one}, and {other}"
                    ));
                }
                (Err(error), Some(Ok(_))) => {
                    said.push(format!("file {inode} of a{actor}: first {error}, then readable"));
                }
                (Ok(_), Some(Err(error))) => said.push(format!("file {inode} of a{actor}: readable, then {error}")),
                _ => {}
            }
        }
    }
    said.truncate(6);
    said.join("; ")
}

fn look(root: &Path) -> Vec<Found> {
    let folders: Vec<PathBuf> = (0..ACTORS).map(|actor| root.join(format!("a{actor}"))).collect();
    observe::in_parallel(&folders, |folder| observe::look(folder))
}

impl Actors {
    fn tell(&mut self, order: &str) {
        // If they are gone, their status tells.
        if let Some(input) = self.child.stdin.as_mut() {
            let _ = writeln!(input, "{order}");
        }
    }

    /// They know before anything is lost that only what was synced is promised.
    fn tell_of_cut(&mut self) -> anyhow::Result<()> {
        self.tell("cut");
        let answers = self.child.stdout.as_mut().context("it is a pipe")?;
        let mut answer = [0; 4];
        answers.read_exact(&mut answer).context("the actors ended before anything happened")?;
        ensure!(&answer == b"cut\n", "the actors answer {answer:?}");
        Ok(())
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}
